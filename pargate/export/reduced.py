"""Reduce float32 graphs to fp16, or to weights of 8 bits; `parity.py` measures the loss.

Inputs and outputs stay in float32, so that graphs of all precisions run in the same way.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir

from pargate.errors import InputError

EXACT = ("LayerNormalization", "Softmax", "ReduceL2", "Clip", "Erf", "Pow", "Range", "Min", "Max", "ArgMax")
"""Operators that stay in float32: sums over many values, and lengths, for which 10 bits of mantissa are too few."""


def reduce(source: Path, target: Path, precision: Literal["fp16", "int8"]) -> None:
    """Write the graph at `source` in another precision to `target`.

    Raises:
        InputError: the graph is too large for one file.
    """
    if (source.parent / f"{source.name}.data").exists():
        raise InputError(
            f"{source.name} has more than 2 GiB and cannot be reduced to {precision}", "export it in fp32 only"
        )
    with _quietly():
        graph = onnx.load(source)
        del graph.graph.value_info[:]
        graph = _half(graph) if precision == "fp16" else _quantised(graph, target)
    graph.producer_name = "pargate"
    onnx.save(graph, target)


def _half(graph: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    own = {node.name for node in graph.graph.node}
    converted: onnx.ModelProto = convert_float_to_float16(
        graph,
        keep_io_types=True,
        op_block_list=[*DEFAULT_OP_BLOCK_LIST, *EXACT],
        # The last steps normalise the vectors, so they stay in float32.
        node_block_list=_last(graph.graph, {"Div", "Expand", "Clip", "ReduceL2"}),
    )
    _shorten(converted.graph, own)
    del converted.graph.value_info[:]
    ordered = ir.from_proto(converted)
    ordered.graph.sort()  # the converter appends its nodes
    return ir.to_proto(ordered)


def _last(graph: onnx.GraphProto, kinds: set[str]) -> list[str]:
    """Return the names of the consecutive nodes before the output that are of `kinds`."""
    makers = {name: node for node in graph.node for name in node.output}
    found, ahead = [], [value.name for value in graph.output]
    while ahead:
        node = makers.get(ahead.pop())
        if node is not None and node.op_type in kinds and node.name not in found:
            found.append(node.name)
            ahead += node.input
    return found


def _shorten(graph: onnx.GraphProto, own: set[str]) -> None:
    """Remove superfluous casts of the converter; `own` are the names of the nodes before the conversion.

    These are casts to fp16 and back between two float32 nodes, which would only round, and repeated casts, which are
    not valid.
    """
    makers = {name: node for node in graph.node for name in node.output}
    same: dict[str, str] = {}
    for node in graph.node:
        before = makers.get(node.input[0]) if _is_cast(node, own, onnx.TensorProto.FLOAT) else None
        if before is not None and _is_cast(before, own, onnx.TensorProto.FLOAT16):
            same[node.output[0]] = before.input[0]
    for value in graph.output:
        if value.name in same:
            inner = same.pop(value.name)
            same[inner] = value.name
            makers[inner].output[0] = value.name
            graph.node.remove(makers[value.name])
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = same.get(name, name)
    nodes = list({node.output[0]: node for node in graph.node}.values())
    count = 0
    while count != len(nodes):
        count = len(nodes)
        used = {name for node in nodes for name in node.input} | {value.name for value in graph.output}
        nodes = [node for node in nodes if used & set(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)


def _is_cast(node: onnx.NodeProto, own: set[str], kind: int) -> bool:
    """Return whether a node is a cast of the converter to `kind`."""
    return node.op_type == "Cast" and node.name not in own and node.attribute[0].i == kind


def _quantised(graph: onnx.ModelProto, target: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Convolutions stay in float32, since 8 bits make them faster on no CPU.
    quantize_dynamic(
        graph,
        target,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # 7 of the 8 bits: with all of them, sums overflow on CPUs without VNNI, and the proof would hold on some only.
        reduce_range=True,
        extra_options={"MatMulConstBOnly": True},
    )
    quantised = onnx.load(target)
    del quantised.graph.value_info[:]
    return quantised


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the tools' remarks on graphs that they did not write."""
    loud = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(loud)
