"""Write the two towers of a model as ONNX graphs: pixels and token ids in, unit vectors out.

Only operators of the standard set are written, so that any runtime can read a graph without custom code. Attention and
GELU are written in the form that ONNX Runtime fuses. `parity.py` measures whether a graph is right.
"""

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal, cast

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional

from pargate import memory
from pargate.errors import InputError
from pargate.models.torch.encoder import OpenClipEncoder

LOWEST_OPSET = 18
"""Lowest opset that torch's exporter writes."""

ONE_FILE = (2 << 30) - (16 << 20)
"""Largest size of weights inside a graph; larger ones are stored beside it, since protobuf is limited to 2 GiB."""

EXAMPLES = 2
"""Number of images and captions that a tower is traced with; with one, the exporter would fix the batch size."""


@dataclass(frozen=True, slots=True)
class Tower:
    """The name, input and output of a graph."""

    kind: Literal["image", "text"]
    input: str
    output: str

    @property
    def file(self) -> str:
        """The name of the graph's file."""
        return f"{self.kind}.onnx"


IMAGE = Tower("image", "pixel_values", "image_embeds")
TEXT = Tower("text", "input_ids", "text_embeds")


def write(encoder: OpenClipEncoder, folder: Path, *, opset: int = LOWEST_OPSET, labels: Mapping[str, str]) -> None:
    """Write `image.onnx` and `text.onnx` in float32 into `folder`, with `labels` in both.

    `encoder` runs in float32 on the CPU and does not change. Weights of more than 2 GiB go to `NAME.onnx.data` beside
    their graph.

    Raises:
        InputError: a part of the model has no ONNX form, or not in this opset.
        OperationalError: memory ran out.
        ValueError: the encoder is not in float32 on the CPU.
    """
    if encoder.spec.precision != "fp32" or encoder.spec.device != "cpu":
        raise ValueError("graphs are written from an encoder in float32 on the CPU")
    check_opset(opset)
    size, context = encoder.spec.preprocess.size, encoder.context
    pixels = torch.zeros(EXAMPLES, 3, *size)
    # Token ids of different lengths, since an all-zero caption would end at its first token.
    tokens = torch.ones(EXAMPLES, context, dtype=torch.int64)
    tokens[0, -1] = tokens[1, context // 2] = 2
    for tower, module, example in (
        (IMAGE, _Image(encoder.visual), pixels),
        (TEXT, _Text(encoder.text), tokens),
    ):
        doing = f"exporting the {tower.kind} tower of {encoder.spec.architecture}"
        with memory.guard(doing, "use a machine with more memory"):
            graph = _export(tower, module, example, opset, encoder.spec.architecture)
            _tidy(graph, tower, labels)
            save(graph, folder / tower.file)
        memory.give_back()


def check_opset(opset: int) -> None:
    """Raise if an opset cannot be written.

    Raises:
        InputError: as above; the message names those that can.
    """
    highest = onnx.defs.onnx_opset_version()
    if not LOWEST_OPSET <= opset <= highest:
        raise InputError(f"opset {opset} cannot be written", f"choose one from {LOWEST_OPSET} to {highest}")


# --- exported modules --------------------------------------------------------------------------------


class _Image(nn.Module):
    """The image tower: float32 [n, 3, H, W] in, unit vectors float32 [n, d] out."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = _respelt(visual)

    def forward(self, pixel_values: Tensor) -> Tensor:
        given = self.visual(pixel_values)
        # Some towers return their tokens as a second value.
        return functional.normalize(given[0] if isinstance(given, tuple) else given, dim=-1)


class _Text(nn.Module):
    """The text tower: int64 [n, context] in, unit vectors float32 [n, d] out."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = _respelt(text)

    def forward(self, input_ids: Tensor) -> Tensor:
        # The end of the text is found by an arg max, which not every runtime supports for 64 bits.
        tokens = input_ids.to(torch.int32)
        # A plain CLIP embeds images too; a text tower embeds captions only.
        embed: Any = self.text.encode_text if hasattr(self.text, "visual") else self.text
        given = embed(tokens)
        return functional.normalize(given[0] if isinstance(given, tuple) else given, dim=-1)


def _respelt(tower: nn.Module) -> nn.Module:
    """Return a tower with the same tensors, with attention and GELU in the form that ONNX Runtime fuses."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*tower.parameters(), *tower.buffers())}
    sibling = copy.deepcopy(tower, shared)
    for parent in list(sibling.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.MultiheadAttention) and _is_plain(module):
                setattr(parent, name, _Attention(module))
            elif isinstance(module, nn.GELU) and module.approximate == "none":
                setattr(parent, name, _Gelu())
    return sibling.eval()


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    """Return whether an attention consists of four projections only."""
    return bool(
        attention.batch_first
        and attention._qkv_same_embed_dim
        and "in_proj_bias" in dict(attention.named_parameters(recurse=False))
        and attention.bias_k is None
        and not attention.add_zero_attn
    )


class _Attention(nn.Module):
    """`nn.MultiheadAttention`, batch first, with the fewest transpositions: half the nodes of torch's own."""

    def __init__(self, given: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = given.num_heads
        weights = cast(Tensor, given.in_proj_weight).chunk(3)
        biases = cast(Tensor, given.in_proj_bias).chunk(3)
        # Three small products, since a large one would be split into three copies.
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
        self.out = given.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        q, k, v = (
            self._split(layer(rows)) for layer, rows in ((self.query, query), (self.key, key), (self.value, value))
        )  # each [n, heads, length, width of a head]
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        if attn_mask is not None:
            # One for all heads, or one for each image and head in turn.
            shape = attn_mask.shape
            scores = scores + (attn_mask if len(shape) == 2 else attn_mask.view(-1, self.heads, *shape[1:]))
        mixed = scores.softmax(dim=-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2)), None

    def _split(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:2], self.heads, rows.shape[2] // self.heads).transpose(1, 2)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    # Copies, since a slice of a larger tensor would be an operation in the graph.
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return layer


class _Gelu(nn.Module):
    """GELU in the order of operations that ONNX Runtime fuses."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * (torch.erf(x / math.sqrt(2)) + 1)) * 0.5


# --- exporting ---------------------------------------------------------------------------------------


def _export(tower: Tower, module: nn.Module, example: Tensor, opset: int, architecture: str) -> ir.Model:
    try:
        with _quietly(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[tower.input],
                output_names=[tower.output],
                dynamic_shapes={tower.input: {0: torch.export.Dim("batch")}},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(
            f"the {tower.kind} tower of {architecture} has no ONNX form: {_reason(error)}",
            "ship the checkpoint itself",
        ) from error
    assert program is not None  # only the old exporter returns None
    graph = program.model
    if graph.opset_imports.get("") != opset:
        # The exporter writes opset 18 and converts it; where it cannot, it only warns.
        raise InputError(
            f"the {tower.kind} tower of {architecture} cannot be written in opset {opset}",
            f"leave --opset at {LOWEST_OPSET}",
        )
    (given,) = graph.graph.inputs
    first = given.shape[0] if given.shape is not None else None
    if isinstance(first, int):
        raise InputError(
            f"the {tower.kind} tower of {architecture} has no ONNX form: its batch would be fixed at {first}",
            "ship the checkpoint itself",
        )
    return graph


def _reason(error: BaseException) -> str:
    """Return the cause of an exporter's error in one line; its own message fills a page."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


@contextmanager
def _quietly() -> Iterator[None]:
    """Switch off torch's fused attention, which has no ONNX form, and silence the exporter."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    loud = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # Before 0.7, onnxscript prints its rewrites on stdout, where a report may be written.
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(loud)
        torch.backends.mha.set_fastpath_enabled(fused)


def _tidy(graph: ir.Model, tower: Tower, labels: Mapping[str, str]) -> None:
    """Remove notes from a graph, since the exporter writes source paths of this machine at every node."""
    values = [*graph.graph.inputs, *graph.graph.initializers.values()]
    values += [value for node in graph.graph for value in node.outputs]
    noted: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [graph, graph.graph, *graph.graph, *values]
    for item in noted:
        item.doc_string = None
        item.metadata_props.clear()
    for node in graph.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                # Informative only, and not always right: the exporter transposes weights after it wrote their shapes.
                value.shape = value.type = None
    graph.producer_name, graph.producer_version = "pargate", labels.get("pargate.version")
    graph.metadata_props.update({"pargate.kind": tower.kind, **labels})


def save(graph: ir.Model, path: Path) -> None:
    """Write a graph, with its weights inside, or beside it if they are too large."""
    held = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    beside = f"{path.name}.data" if held > ONE_FILE else None
    ir.save(graph, path, external_data=beside)
