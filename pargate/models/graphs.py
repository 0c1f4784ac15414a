"""Read, check and hash a folder of ONNX graphs without running them.

Graphs from outside are as hostile as weights: they can name files elsewhere on the machine, use custom operators, hide
programs in loops, or draw random numbers and so change their behaviour after they were measured. Operators that an
encoder needs are allowed by name, and all others refused. Every file is read once, and the checked bytes are the ones
that run: nothing is memory-mapped, and the runtime gets no path.
"""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from pargate import limits
from pargate.core.model import Activation, Checkpoint, GraphPrecision, Preprocess, TensorInfo
from pargate.core.value import Value
from pargate.errors import InputError, UnsafeCheckpoint
from pargate.files import digest_of, leads_to_hub_blob, note
from pargate.models import tokenizer as tokens
from pargate.models import trial, weights

if TYPE_CHECKING:
    import onnx

Kind = Literal["image", "text"]

DESCRIPTION = "preprocess.json"
"""File name of the description of the graphs."""

GRAPHS: dict[Kind, str] = {"image": "image.onnx", "text": "text.onnx"}

DATA = (".data", "_data")
"""Suffixes of the file of a graph's weights, where they lie beside it: pargate's and torch's, and that of optimum."""

IMPORTED = frozenset(
    {
        "", "ai.onnx", "com.microsoft",
        # ONNX Runtime names all its sets in each graph that it writes.
        "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training", "com.microsoft.nchwc",
        "com.microsoft.experimental", "com.ms.internal.nhwc", "org.pytorch.aten",
    }
)  # fmt: skip
"""Sets of operators that a graph may name; `_check_nodes` decides which are used."""

CONTRIBUTED = frozenset(
    {
        "Attention",
        "BiasGelu",
        "FastGelu",
        "FusedMatMul",
        "Gelu",
        "LayerNormalization",
        "MultiHeadAttention",
        "QuickGelu",
        "SkipLayerNormalization",
    }
)
"""Operators of ONNX Runtime's own set (`com.microsoft`) that its optimiser puts into transformers."""

FORBIDDEN = {
    **dict.fromkeys(("If", "Loop", "Scan", "SequenceMap"), "holds a program"),
    **dict.fromkeys(
        (
            "Bernoulli",
            "Dropout",
            "Multinomial",
            "RandomNormal",
            "RandomNormalLike",
            "RandomUniform",
            "RandomUniformLike",
        ),
        "draws random numbers, and may change its behaviour after it was measured",
    ),
}
"""Standard operators that no encoder needs, with the reason why each is refused."""


class ImageRule(Value):
    """The rule by which an image becomes a graph's input: resized and cropped 8-bit RGB, x / 255, (x − mean) / std."""

    size: tuple[int, int]
    """Rows and columns."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"]
    resize: Literal["shortest", "longest", "squash"]
    fill: int

    def preprocess(self) -> Preprocess:
        """Return the same rule in the form in which images are decoded."""
        return Preprocess(self.size, self.mean, self.std, self.interpolation, self.resize, self.fill)


class Description(Value):
    """The description of the graphs, for those who run them: `preprocess.json`."""

    schema_: Literal["pargate/onnx/1"] = Field(alias="schema")
    architecture: str
    checkpoint: str
    """Digest of weights and configuration that the graphs were written from (`pargate inspect`)."""
    precision: GraphPrecision
    opset: int
    dim: int
    """Length of an embedding."""
    logit_scale: float
    """Factor of a cosine before the softmax over classes."""
    logit_bias: float | None = None
    """Summand after that, in models that were trained with a sigmoid loss."""
    activation: Activation
    image: ImageRule
    text: tokens.TextRule
    templates: tuple[str, ...]
    """Prompts whose mean vector represents a class, with {} for its name."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The inputs and the output of a graph."""

    given: str
    """Input for pixels or token ids."""
    wanted: str
    """Output with one vector a row."""
    mask: str = ""
    """Input that marks the tokens of a caption, or empty."""
    dtype: Literal["float32", "float16", "int64", "int32"] = "float32"
    """Type of the pixels or token ids."""
    mask_dtype: Literal["int64", "int32"] = "int64"
    single: bool = False
    """Whether it takes one image or caption at a time."""


ENDS: dict[Kind, Ends] = {
    "image": Ends("pixel_values", "image_embeds"),
    "text": Ends("input_ids", "text_embeds", dtype="int64"),
}
"""Ends of the graphs that pargate writes."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The graph of one tower."""

    file: str
    """Name of its file in the folder."""
    ends: Ends
    content: bytes = field(repr=False)
    """The serialised graph."""
    data_file: str = ""
    """Name of the file of its weights, or empty if the graph holds them."""
    data: mmap | None = field(repr=False, default=None)
    """Content of that file."""


@dataclass(frozen=True, slots=True)
class GraphFolder:
    """A folder of graphs that was read and checked."""

    checkpoint: Checkpoint
    description: Description
    graphs: dict[Kind, Graph]
    tokenizer: bytes = field(repr=False)


def folder_of(path: Path) -> Path | None:
    """Return the folder of graphs at `path`: `path` itself, the `onnx` folder of a bundle, or None."""
    for folder in (path, path / "onnx"):
        if os.path.lexists(folder / DESCRIPTION):
            return folder
    return None


def read(folder: Path, source: str) -> GraphFolder:
    """Read and check a folder of graphs; `source` is its name in messages.

    Raises:
        InputError: a file is missing, damaged, or not in the format that pargate writes.
        UnsafeCheckpoint: a graph refers to files outside its folder, or uses more than an encoder needs.
        OperationalError: the folder does not fit into memory.
    """
    description, described = _description(folder)
    file = tokens.FILES[description.text.tokenizer]
    vocabulary, digest = read_file(folder, file, limits.TOKENIZER_BYTES)
    digests = {DESCRIPTION: described, file: digest}
    graphs: dict[Kind, Graph] = {}
    tensors: list[TensorInfo] = []
    size, custom_ops = 0, False
    for kind, name in GRAPHS.items():
        content, digests[name] = read_file(folder, name, limits.GRAPH_BYTES)
        path = folder / name
        model = parsed(content, path)
        _check_ends(model.graph, kind, description, path)
        found = judged(model, path)
        graphs[kind] = Graph(name, ENDS[kind], content, *beside(folder, found, digests))
        tensors += found.tensors
        custom_ops = custom_ops or found.custom_ops
        size += len(content) + len(graphs[kind].data or b"")
        check_validity(content, path, bool(found.beside))
    weighed = {name: digest for name, digest in digests.items() if name not in (DESCRIPTION, file)}
    checkpoint = Checkpoint(
        source=source,
        weights=str(folder),
        sha256=digest_of(weighed),
        config_sha256=digest_of({name: digest for name, digest in digests.items() if name not in weighed}),
        size_bytes=size,
        format="onnx",
        architecture=description.architecture,
        config=description.model_dump(mode="json", by_alias=True),
        preprocess=description.image.preprocess(),
        tensors=tuple(tensors),
        preprocess_from=str(folder / DESCRIPTION),
        folder=str(folder),
        custom_ops=custom_ops,
    )
    return GraphFolder(checkpoint, description, graphs, vocabulary)


# --- files -------------------------------------------------------------------------------------------


def _description(folder: Path) -> tuple[Description, str]:
    content, digest = read_file(folder, DESCRIPTION, limits.DESCRIPTION_BYTES)
    try:
        found = Description.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{folder / DESCRIPTION} does not describe graphs that pargate wrote: {where}: {first['msg']}",
            "export the model again",
        ) from error
    rows, columns = found.image.size
    sizes = (
        (rows, limits.GRAPH_SIDE),
        (columns, limits.GRAPH_SIDE),
        (found.text.context_length, limits.FIELDS["context_length"]),
    )
    if not all(low <= size <= high for size, (low, high) in sizes):
        raise InputError(f"{folder / DESCRIPTION}: a size is out of bounds", "export the model again")
    for values, (low, high) in ((found.image.mean, limits.MEANS), (found.image.std, limits.DEVIATIONS)):
        if not all(low <= value <= high for value in values):
            said = f"{folder / DESCRIPTION}: a mean or a standard deviation is out of bounds"
            raise InputError(said, "export the model again")
    if not 0 < found.logit_scale <= limits.LOGIT_SCALE:
        said = f"{folder / DESCRIPTION}: logit_scale must lie from 0 to {limits.LOGIT_SCALE:g}"
        raise InputError(said, "export the model again")
    if len(found.templates) > limits.TEMPLATES or not all("{}" in text for text in found.templates):
        said = f"{folder / DESCRIPTION}: templates must be at most {limits.TEMPLATES} texts with {{}} for the class"
        raise InputError(said, "export the model again")
    return found, digest


def read_file(folder: Path, name: str, most: int) -> tuple[bytes, str]:
    """Return a file's bytes and their digest.

    Raises:
        InputError: it is missing, empty or too large.
        UnsafeCheckpoint: it is a link to another place.
        OperationalError: it does not fit into memory.
    """
    path = folder / name
    _refuse_link(path)
    with weights.opened(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise InputError(f"{path} has {size} bytes, and may have at most {most}", "export the model again")
        digest, content = weights.take(stream, size, str(path), keep=True) if size else ("", None)
        note(path, digest)
    if content is None:
        raise InputError(f"{path} is empty", "copy or export it again")
    with content:
        return content[:], digest


def _refuse_link(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "export the model again") from error
    if stat.S_ISLNK(mode) and not leads_to_hub_blob(path):
        raise UnsafeCheckpoint(f"{path} is a link to another place", "put the file itself there")


def beside(folder: Path, found: "Judged", digests: dict[str, str]) -> tuple[str, mmap | None]:
    """Return the name and the content of the file of a graph's weights, and enter its digest.

    Raises:
        InputError: a range leaves the file, or as `read_file`.
        UnsafeCheckpoint: it is a link to another place, or has a second name.
    """
    if not found.beside:
        return "", None
    name = found.beside[0].file
    path = folder / name
    _refuse_link(path)
    with weights.opened(path) as stream:
        status = os.fstat(stream.fileno())
        if status.st_nlink != 1:
            # It could be another name of any file on this machine, whose contents would be read as weights.
            raise UnsafeCheckpoint(
                f"{path} has {status.st_nlink} names (hard links), of which another may lie anywhere",
                "put a copy there",
            )
        for wanted in found.beside:
            if wanted.offset + wanted.length > status.st_size:
                raise InputError(
                    f"{path} has {status.st_size} bytes; {wanted.name} would end at {wanted.offset + wanted.length}",
                    "copy or export it again",
                )
        digests[name], content = weights.take(stream, status.st_size, str(path), keep=True)
        note(path, digests[name])
    return name, content


# --- graphs ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Range:
    """The range of an initialiser in the file beside its graph."""

    name: str
    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The constants of a graph that was checked."""

    tensors: tuple[TensorInfo, ...]
    beside: tuple[Range, ...]
    """Those in the file beside it."""
    custom_ops: bool
    """Whether it uses operators outside ONNX's standard set."""


def parsed(content: bytes, path: Path) -> "onnx.ModelProto":
    """Return a graph whose operators are those that an encoder needs.

    Raises:
        InputError: it is no graph, or is damaged or too large.
        UnsafeCheckpoint: it uses more than an encoder needs.
    """
    import onnx

    try:
        model: onnx.ModelProto = onnx.ModelProto.FromString(content)
    except Exception as error:  # protobuf's own, which has no types
        raise InputError(f"{path} is not an ONNX graph, or is damaged", "export the model again") from error
    _check_head(model, path)
    _check_nodes(model.graph, path)
    return model


def judged(model: "onnx.ModelProto", path: Path) -> Judged:
    """Return the constants of a graph, checked.

    Raises:
        InputError: a size depends on values of the input, names repeat, or a size does not fit its shape.
        UnsafeCheckpoint: weights lie in another place than the file beside the graph.
    """
    trial.refuse_sizes_from_values(model.graph, path)
    return _initialisers(model.graph, path)


def check_validity(content: bytes, path: Path, beside: bool) -> None:
    """Run onnx's own checker; called last, when the graph can no longer lead it to other files."""
    import onnx

    try:
        # The checker finds external weights by the path of the graph.
        onnx.checker.check_model(str(path) if beside else content)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise InputError(f"{path} is not a valid ONNX graph: {str(error)[:300]}", "export the model again") from error


def _check_head(model: "onnx.ModelProto", path: Path) -> None:
    for imported in model.opset_import:
        if imported.domain not in IMPORTED:
            raise UnsafeCheckpoint(
                f"{path} asks for operators of the domain {shown(imported.domain)}: code from elsewhere",
                "export the model with standard operators",
            )
    if model.functions:
        raise UnsafeCheckpoint(f"{path} defines functions of its own", "export the model without functions")
    if model.training_info:
        raise UnsafeCheckpoint(f"{path} holds a training program", "export the model again")
    keys = [entry.key for entry in model.metadata_props]
    if len(keys) != len(set(keys)):
        raise InputError(f"{path}: a key of its metadata occurs twice", "export the model again")
    if "ort_config" in keys:
        raise UnsafeCheckpoint(
            f"{path} holds settings for the runtime (ort_config), which can change what it does",
            "export the model again",
        )


def _check_nodes(graph: "onnx.GraphProto", path: Path) -> None:
    if len(graph.node) > limits.NODES:
        raise InputError(
            f"{path} has {len(graph.node)} nodes, at most {limits.NODES} are read", "export the model again"
        )
    for node in graph.node:
        where = f"{path}: the node {shown(node.name)}"
        if node.domain == "com.microsoft":
            if node.op_type not in CONTRIBUTED:
                raise UnsafeCheckpoint(
                    f"{where} is a {shown(node.op_type)} of com.microsoft, which no encoder needs",
                    "export the model with standard operators",
                )
        elif node.domain not in ("", "ai.onnx"):
            raise UnsafeCheckpoint(
                f"{where} is a {shown(node.op_type)} of the domain {shown(node.domain)}: code from elsewhere",
                "export the model with standard operators",
            )
        elif node.op_type in FORBIDDEN:
            raise UnsafeCheckpoint(
                f"{where} is a {node.op_type}: it {FORBIDDEN[node.op_type]}", "export the encoder alone"
            )
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise UnsafeCheckpoint(f"{where} holds a program", "export the encoder alone")
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise InputError(f"{where} holds a sparse tensor", "export the model again")
            for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
                if tensor.data_location or tensor.external_data:
                    raise UnsafeCheckpoint(f"{where} reads its constant from another file", "export the model again")
                _check_shape(tensor.dims, where)


def _check_ends(graph: "onnx.GraphProto", kind: Kind, description: Description, path: Path) -> None:
    """Raise unless a graph has one input and one output, with the names, types and shapes of the description."""
    given, wanted = ENDS[kind].given, ENDS[kind].wanted
    size = (3, *description.image.size) if kind == "image" else (description.text.context_length,)
    dtype = 1 if kind == "image" else 7  # onnx.TensorProto: FLOAT, INT64
    expected = (
        ("input", graph.input, given, dtype, size),
        ("output", graph.output, wanted, 1, (description.dim,)),
    )
    for end, values, name, element, shape in expected:
        if [value.name for value in values] != [name]:
            raise InputError(
                f"{path} must have one {end}, {name}, and has: {', '.join(shown(v.name) for v in values)[:200]}",
                "export the model again",
            )
        tensor = values[0].type.tensor_type
        found = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type != element or not found or not isinstance(found[0], str) or tuple(found[1:]) != shape:
            raise InputError(
                f"{path}: its {end} {name} is {found} of type {tensor.elem_type}, and should be "
                f"{['batch', *shape]} of type {element}",
                "export the model again",
            )


def _initialisers(graph: "onnx.GraphProto", path: Path) -> Judged:
    """Return the constants of a graph; raise if names repeat or a size does not fit its shape."""
    if graph.sparse_initializer:
        raise InputError(f"{path} holds sparse tensors", "export the model again")
    names = [value.name for value in graph.input] + [tensor.name for tensor in graph.initializer]
    names += [name for node in graph.node for name in node.output if name]
    if len(names) != len(set(names)):
        raise InputError(f"{path}: two tensors have one name", "export the model again")
    tensors, beside = [], []
    for tensor in graph.initializer:
        where = f"{path}: the tensor {shown(tensor.name)}"
        shape = _check_shape(tensor.dims, where)
        kind, width = _width(tensor, where)
        info = TensorInfo(tensor.name, kind, shape)
        tensors.append(info)
        if tensor.data_location or tensor.external_data:
            beside.append(_range(tensor, info.elements * width, path, where))
        elif tensor.HasField("raw_data") and len(tensor.raw_data) != info.elements * width:
            raise InputError(f"{where} has not as many bytes as its shape needs", "export the model again")
    if len({part.file for part in beside}) > 1:
        raise InputError(f"{path}: its weights lie in two files", "export the model again")
    custom_ops = any(node.domain not in ("", "ai.onnx") for node in graph.node)
    return Judged(tuple(tensors), tuple(beside), custom_ops)


_TYPES = {1: "F32", 2: "U8", 3: "I8", 5: "I16", 6: "I32", 7: "I64", 9: "BOOL", 10: "F16", 11: "F64", 16: "BF16"}
"""Names of the dtypes that encoders use, by ONNX's number."""


def _width(tensor: "onnx.TensorProto", where: str) -> tuple[str, int]:
    if tensor.data_type not in _TYPES:
        raise InputError(f"{where} is of the type {tensor.data_type}, which encoders do not use", "export it again")
    name = _TYPES[tensor.data_type]
    return name, weights.WIDTHS[name]


def _check_shape(dims: Iterable[int], where: str) -> tuple[int, ...]:
    shape = tuple(dims)
    if len(shape) > 8 or not all(0 <= side <= limits.LARGEST_SIDE for side in shape):
        raise InputError(f"{where} has the shape {str(list(shape))[:80]}: out of bounds", "export the model again")
    return shape


def _range(tensor: "onnx.TensorProto", length: int, path: Path, where: str) -> Range:
    """Return the range of a constant in the one file that may hold a graph's weights."""
    entries = [(entry.key, entry.value) for entry in tensor.external_data]
    told = dict(entries)
    if len(told) != len(entries) or not {"location"} <= set(told) <= {"location", "offset", "length", "checksum"}:
        raise InputError(f"{where} does not say where its bytes lie", "export the model again")
    if told["location"] not in (path.name + suffix for suffix in DATA):
        raise UnsafeCheckpoint(
            f"{where} lies in {shown(told['location'])}; weights may lie in {path.name + DATA[0]} alone",
            "export the model again",
        )
    numbers = [told.get("offset", "0"), told.get("length", str(length))]
    if not all(number.isascii() and number.isdecimal() and len(number) < 20 for number in numbers):
        raise InputError(f"{where} does not say where its bytes lie", "export the model again")
    offset, said = map(int, numbers)
    if said != length:
        raise InputError(f"{where} has {said} bytes, its shape needs {length}", "export the model again")
    return Range(tensor.name, told["location"], offset, length)


def shown(text: Any) -> str:
    """Return untrusted text for a message."""
    return ascii(str(text))[:80]
