"""Read the graphs of a CLIP that other tools exported: one with both towers, or one of each.

optimum, CLIP-ONNX, transformers.js and others give files, inputs and outputs names of their own, and say elsewhere how
images and captions are prepared. The towers are found by name, then by shape, and a graph with both is divided in two.
Every check of `graphs.py` holds; what cannot be decided is refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

from pargate import limits
from pargate.core.model import CONTEXT_LENGTH, Checkpoint, GraphPrecision, Preprocess, TensorInfo
from pargate.errors import InputError
from pargate.files import digest_of
from pargate.models import graphs
from pargate.models import tokenizer as tokens
from pargate.models.config import CONFIG_NAME, config_digest, name_of
from pargate.models.graphs import Description, Ends, Graph, GraphFolder, ImageRule, Judged, Kind
from pargate.models.hugging_face import is_kept_alone
from pargate.models.located import Located, names_in, rules
from pargate.models.pickles import shown
from pargate.models.transformers_folder import SETTINGS

if TYPE_CHECKING:
    import onnx

LAYOUT = "onnx"
"""Name of the layout, as the report of `inspect` says it."""

SUFFIX = ".onnx"

WORDS: dict[Kind, tuple[str, ...]] = {"image": ("vision", "visual", "image"), "text": ("textual", "text")}
"""Words in the name of a file that holds one tower."""

VARIANT = re.compile(r"[._-](fp16|fp32|int8|uint8|quant(ized)?|bnb4|q4|q4f16|o[1-4]|optimized)$")
"""End of the name of a file that holds another variant of a model, such as transformers.js keeps beside it."""

EMBEDDING = ("embed", "feature")
"""Words in the name of the output with the vectors, where several outputs have its shape."""

OTHERS = ("pool", "hidden", "logit")
"""Words in the names of outputs that are no embeddings: of before the projection, and of after the comparison."""

ENDS = 32
"""Largest number of inputs and outputs of a graph; those of optimum have seven."""

LOGIT_SCALE = 100.0
"""Factor of a cosine in trained CLIPs (Radford et al. 2021); graphs do not name theirs. No class depends on it."""

NUMBERS: dict[int, Literal["float32", "float16", "int64", "int32"]] = {
    1: "float32", 10: "float16", 7: "int64", 6: "int32",
}  # fmt: skip
"""Types of inputs and outputs, by ONNX's number."""

AGAIN = "export it with transformers' or open_clip's own names, or give the checkpoint that it was exported from"


# --- files -------------------------------------------------------------------------------------------


def home(path: Path) -> Path | None:
    """Return the folder at `path` that holds graphs: itself, the `onnx` folder in it, or None."""
    return next((folder for folder in (path, path / "onnx") if folder.is_dir() and _graphs_in(folder)), None)


def _graphs_in(folder: Path) -> list[str]:
    return [name for name in names_in(folder) if name.endswith(SUFFIX)]


def chosen(path: Path) -> dict[Kind, Path]:
    """Return the file of each tower, which may be the same, of a graph or of a folder of graphs.

    Raises:
        InputError: a tower is missing, or there are several models.
    """
    folder = path if path.is_dir() else path.parent
    groups = _groups(folder)
    if path != folder:
        groups = {key: group for key, group in groups.items() if path.name in group.values()}
    whole = {key: group for key, group in groups.items() if len(group) == len(WORDS)}
    if not whole:
        ((kind, name),) = next(iter(groups.values())).items()
        other = next(word for word in WORDS if word != kind)
        raise InputError(
            f"{folder / name} holds the {kind} tower alone, and no graph of the {other} tower with a name like it lies "
            "beside it",
            f"put it there, named as {name} is, with {WORDS[other][0]} for {_word(name)[1]}",
        )
    plain = {key: group for key, group in whole.items() if not VARIANT.search(key)} or whole
    pairs = {key: group for key, group in plain.items() if "*" in key} or plain
    if len(pairs) > 1:
        listed = sorted(name for group in pairs.values() for name in set(group.values()))
        raise InputError(f"{folder} holds several models: {', '.join(listed)}", f"name one: {folder}#{listed[0]}")
    (group,) = pairs.values()
    return {kind: folder / group[kind] for kind in WORDS}


def _groups(folder: Path) -> dict[str, dict[Kind, str]]:
    """Return the graphs of each model, by its name with * for the word of a tower.

    Raises:
        InputError: two graphs of one tower have names that differ in its word alone.
    """
    found: dict[str, dict[Kind, str]] = {}
    for name in _graphs_in(folder):
        kind, word = _word(name)
        stem = name.removesuffix(SUFFIX).casefold()
        if kind is None:
            found[stem] = dict.fromkeys(WORDS, name)
        elif (first := found.setdefault(stem.replace(word, "*", 1), {}).setdefault(kind, name)) != name:
            raise InputError(f"{folder} holds two graphs of one {kind} tower: {first} and {name}", "remove one")
    return found


def _word(name: str) -> tuple[Kind | None, str]:
    """Return the tower that a file's name says, and the word for it; None where it says none or both."""
    said = [(kind, word) for kind, words in WORDS.items() for word in words if word in name.casefold()]
    return said[0] if len({kind for kind, _ in said}) == 1 else (None, "")


def settings_of(path: Path) -> Path | None:
    """Return the folder whose configuration describes the graphs at `path`, or None."""
    folder = path if path.is_dir() else path.parent
    places = (folder, folder.parent) if folder.name == "onnx" else (folder,)
    return next((place for place in places if any((place / name).is_file() for name in (CONFIG_NAME, SETTINGS))), None)


# --- reading -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Source:
    """A file of graphs that was read."""

    model: "onnx.ModelProto"
    path: Path
    judged: Judged
    data: tuple[str, mmap | None]


def read(source: str, files: Mapping[Kind, Path], found: Located) -> GraphFolder:
    """Read and check the graphs of both towers; `found` is their configuration.

    Raises:
        InputError: a file is damaged, it does not fit to the configuration, or what it holds cannot be decided.
        UnsafeCheckpoint: a graph uses more than an encoder needs.
        OperationalError: the graphs do not fit into memory.
    """
    rule, tokenizer = rules(found)
    folder, digests, size = files["image"].parent, dict[str, str](), 0
    sources: dict[Path, _Source] = {}
    for path in dict.fromkeys(files.values()):
        content, digests[path.name] = graphs.read_file(folder, path.name, limits.GRAPH_BYTES)
        model = graphs.parsed(content, path)
        judged = graphs.judged(model, path)
        sources[path] = _Source(model, path, judged, graphs.beside(folder, judged, digests))
        graphs.check_validity(content, path, bool(judged.beside))
        size += len(content) + len(sources[path].data[1] or b"")
    tensors = tuple(tensor for each in sources.values() for tensor in each.judged.tensors)
    described = _description(found, rule, tensors)
    made = {kind: _tower(sources[path], kind, described) for kind, path in files.items()}
    words, content = _tokenizer(found, source, masked=bool(made["text"].ends.mask))
    opset = max((entry.version for each in sources.values() for entry in each.model.opset_import), default=0)
    described = described.model_copy(update={"text": words, "opset": opset})
    checkpoint = Checkpoint(
        source=source,
        weights=str(folder),
        sha256=digest_of(digests),
        config_sha256=config_digest(found.model_cfg, rule, tokenizer),
        size_bytes=size,
        format="onnx",
        architecture=described.architecture,
        config=described.model_dump(mode="json", by_alias=True),
        preprocess=rule,
        tensors=tensors,
        activation_known=found.activation_known,
        preprocess_from=found.preprocess_from,
        preprocess_known=None not in (found.preprocess_cfg.get("mean"), found.preprocess_cfg.get("std")),
        folder=str(folder),
        custom_ops=any(each.judged.custom_ops for each in sources.values()),
        layout=LAYOUT,
        notes=(*found.notes, *_notes(made, folder)),
    )
    return GraphFolder(checkpoint, described, made, content)


def _description(found: Located, rule: Preprocess, tensors: Sequence[TensorInfo]) -> Description:
    held: dict[str, int] = {}
    for tensor in tensors:
        held[tensor.dtype] = held.get(tensor.dtype, 0) + tensor.elements
    kinds: dict[str, GraphPrecision] = {"F16": "fp16", "I8": "int8", "U8": "int8"}
    return Description(
        schema="pargate/onnx/1",
        architecture=found.architecture or name_of(found.model_cfg),
        checkpoint="",
        precision=kinds.get(max(held, key=held.__getitem__, default=""), "fp32"),
        opset=0,
        dim=found.model_cfg["embed_dim"],
        logit_scale=LOGIT_SCALE,
        activation="quick_gelu" if found.model_cfg.get("quick_gelu") else "gelu",
        image=ImageRule.model_validate(asdict(rule)),
        text=tokens.TextRule(
            context_length=found.model_cfg["text_cfg"].get("context_length") or CONTEXT_LENGTH,
            tokenizer="bpe",
            clean="lower",
        ),
        templates=(),
    )


def _notes(made: Mapping[Kind, Graph], folder: Path) -> Iterable[str]:
    for kind, graph in made.items():
        given = " and ".join(filter(None, (graph.ends.given, graph.ends.mask)))
        single = ", one at a time" if graph.ends.single else ""
        yield f"{kind} tower: {shown(graph.file)}, from {shown(given)} to {shown(graph.ends.wanted)}{single}"
    read_here = {graph.file for graph in made.values()}
    if others := [name for name in _graphs_in(folder) if name not in read_here]:
        yield f"other graphs beside them were not read: {', '.join(map(shown, others[:ENDS]))}"


# --- captions ----------------------------------------------------------------------------------------


def _tokenizer(found: Located, source: str, *, masked: bool) -> tuple[tokens.TextRule, bytes]:
    """Return the rule by which captions become token ids, and the tokenizer's file."""
    text = found.model_cfg["text_cfg"]
    if is_kept_alone(found.model_cfg):
        raise InputError(
            f"{source} holds graphs of a model that pargate reads from weights alone",
            "give the checkpoint that they were exported from",
        )
    options = text.get("tokenizer_kwargs") or {}
    context = text.get("context_length") or CONTEXT_LENGTH
    if not text.get("hf_tokenizer_name"):
        clean = options.get("clean", "lower")
        return tokens.TextRule(context_length=context, tokenizer="bpe", clean=clean), tokens.clips_vocabulary()
    if masked or text.get("tokenizer_mode") or options.get("strip_sep_token"):
        raise InputError(
            f"{source}: its tokenizer is not CLIP's own, and "
            + ("its text graph asks for a mask of the tokens" if masked else "is used in a way that needs torch"),
            "give the checkpoint that the graphs were exported from",
        )
    assert found.folder is not None  # the tokenizer's files lie there
    content = tokens.of_one_length(found.folder, context)
    clean = options.get("clean", "whitespace")
    return tokens.TextRule(context_length=context, tokenizer="huggingface", clean=clean), content


# --- towers ------------------------------------------------------------------------------------------


def _tower(source: _Source, kind: Kind, described: Description) -> Graph:
    """Return the part of a graph that makes the vectors of one tower."""
    graph, path = source.model.graph, source.path
    for word, values in (("inputs", graph.input), ("outputs", graph.output)):
        if len(values) > ENDS:
            raise InputError(f"{path} has {len(values)} {word}; those of a CLIP are fewer than {ENDS}", AGAIN)
    given, mask = _inputs(graph.input, kind, path)
    taken = {value.name for value in (given, mask) if value is not None}
    origins = _origins(graph)
    possible = {
        output.name: output
        for output in graph.output
        if _could_be(output) and given.name in (origin := origins.get(output.name, set())) and origin <= taken
    }
    named = [name for name in possible if any(word in name.casefold() for word in EMBEDDING)]
    found = list(possible) if len(possible) == 1 else named
    if len(found) != 1:
        _undecided(graph, kind, given, path)
    wanted = possible[found[0]]
    needed = _needed(graph, wanted.name)
    mask = mask if mask is not None and mask.name in needed else None
    single = _check_shapes(given, mask, wanted, described, path)
    ends = Ends(
        given.name, wanted.name, mask.name if mask else "", NUMBERS[given.type.tensor_type.elem_type],
        "int32" if mask is not None and mask.type.tensor_type.elem_type == 6 else "int64", single,
    )  # fmt: skip
    content = _divided(source.model, needed, wanted.name, taken).SerializeToString()
    data_file, data = source.data
    beside = {part.name for part in source.judged.beside} & needed
    return Graph(path.name, ends, content, *((data_file, data) if beside else ()))


def _inputs(
    inputs: Iterable["onnx.ValueInfoProto"], kind: Kind, path: Path
) -> "tuple[onnx.ValueInfoProto, onnx.ValueInfoProto | None]":
    """Return the input of a tower for pixels or token ids, and that for the mask of tokens, if there is one."""
    sorts: dict[str, list[onnx.ValueInfoProto]] = {"image": [], "text": [], "mask": []}
    for value in inputs:
        name, rank = NUMBERS.get(value.type.tensor_type.elem_type, ""), len(value.type.tensor_type.shape.dim)
        if name.startswith("float") and rank == 4:
            sorts["image"].append(value)
        elif name.startswith("int") and rank == 2:
            sorts["mask" if "mask" in value.name.casefold() else "text"].append(value)
    if len(sorts[kind]) != 1 or (kind == "text" and len(sorts["mask"]) > 1):
        what = "pixels [batch, 3, rows, columns]" if kind == "image" else "token ids [batch, context]"
        raise InputError(f"{path} must have one input for {what}, and has: {_listed(inputs)}", AGAIN)
    return sorts[kind][0], sorts["mask"][0] if kind == "text" and sorts["mask"] else None


def _could_be(output: "onnx.ValueInfoProto") -> bool:
    """Return whether an output can hold one vector a row, by its name, type and shape."""
    tensor = output.type.tensor_type
    shaped = not tensor.HasField("shape") or len(tensor.shape.dim) == 2
    return shaped and tensor.elem_type in (1, 10) and not any(word in output.name.casefold() for word in OTHERS)


def _origins(graph: "onnx.GraphProto") -> dict[str, set[str]]:
    """Return the inputs of the graph that each tensor is made of; none for constants."""
    found = {value.name: {value.name} for value in graph.input}
    for node in graph.node:  # each stands behind those that it needs
        if origin := set[str]().union(*(found[name] for name in node.input if name in found)):
            found.update(dict.fromkeys(node.output, origin))
    return found


def _needed(graph: "onnx.GraphProto", wanted: str) -> set[str]:
    """Return the names of all tensors that an output is made of, and its own."""
    needed = {wanted}
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(filter(None, (*node.input, *node.output)))
    return needed


def _divided(model: "onnx.ModelProto", needed: set[str], wanted: str, taken: set[str]) -> "onnx.ModelProto":
    """Return the part of a graph that makes one output."""
    import onnx

    graph = model.graph
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.graph.name = "tower"
    made.graph.node.extend(node for node in graph.node if not needed.isdisjoint(node.output))
    made.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in needed)
    made.graph.input.extend(value for value in graph.input if value.name in taken & needed)
    made.graph.output.extend(value for value in graph.output if value.name == wanted)
    return made


def _check_shapes(
    given: "onnx.ValueInfoProto", mask: "onnx.ValueInfoProto | None", wanted: "onnx.ValueInfoProto",
    described: Description, path: Path,
) -> bool:  # fmt: skip
    """Raise unless the fixed sizes are those of the configuration; return whether the batch is fixed at one."""
    context = (described.text.context_length,)
    entry = (3, *described.image.size) if len(given.type.tensor_type.shape.dim) == 4 else context
    batches = set[int]()
    for value, sizes in ((given, entry), (mask, context), (wanted, (described.dim,))):
        if value is None or not value.type.tensor_type.HasField("shape"):
            continue
        batch, *found = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value is not wanted:
            batches.add(batch)
        if any(size not in (0, should) for size, should in zip(found, sizes, strict=True)):
            raise InputError(
                f"{path}: {_listed([value])} does not fit to the configuration, by which it is {['batch', *sizes]}",
                "give the configuration that belongs to the graphs, or their own --arch",
            )
    if not batches <= {0, 1}:
        raise InputError(f"{path} takes batches of {max(batches)} alone", "export it with a batch of any size, or of 1")
    return 1 in batches


def _undecided(graph: "onnx.GraphProto", kind: Kind, given: "onnx.ValueInfoProto", path: Path) -> NoReturn:
    raise InputError(
        f"{path}: which output is the embedding of {'an image' if kind == 'image' else 'a caption'}, made of "
        f"{shown(given.name)} alone, cannot be told: it has {_listed(graph.output)}",
        f"export it with one output [batch, d] of that tower, named {graphs.ENDS[kind].wanted}",
    )


def _listed(values: Iterable["onnx.ValueInfoProto"]) -> str:
    """Return inputs or outputs with their shapes, for a message."""
    return ", ".join(
        f"{shown(value.name)} [{', '.join(shown(d.dim_param or str(d.dim_value or '?')) for d in dims)}]"
        for value in list(values)[:ENDS]
        for dims in (value.type.tensor_type.shape.dim[:8],)
    )
