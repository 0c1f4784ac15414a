"""Graphs in fewer bits, made from float32 ones: fp16, or weights of 8 bits. What they lose, `proof.py` measures.

Both keep float32 at their ends, so that whoever runs a graph need not know its precision.
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
"""Operators that stay in float32: sums over many values, and lengths, which 10 bits of mantissa cannot hold."""


def reduce(source: Path, target: Path, precision: Literal["fp16", "int8"]) -> None:
    """Write the graph at `source` in another precision to `target`.

    Raises:
        InputError: the graph is too large for one file.
    """
    if (source.parent / f"{source.name}.data").exists():
        raise InputError(
            f"{source.name} has more than 2 GiB, of which no {precision} is made", "export it in fp32 alone"
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
        # The last steps make the length 1; the result is what everything rests on.
        node_block_list=_last(graph.graph, {"Div", "Expand", "Clip", "ReduceL2"}),
    )
    _shorten(converted.graph, own)
    del converted.graph.value_info[:]
    ordered = ir.from_proto(converted)
    ordered.graph.sort()  # the converter appends its nodes
    return ir.to_proto(ordered)


def _last(graph: onnx.GraphProto, kinds: set[str]) -> list[str]:
    """Names of the nodes before the output that are of `kinds`, as far as they follow each other."""
    makers = {name: node for node in graph.node for name in node.output}
    found, ahead = [], [value.name for value in graph.output]
    while ahead:
        node = makers.get(ahead.pop())
        if node is not None and node.op_type in kinds and node.name not in found:
            found.append(node.name)
            ahead += node.input
    return found


def _shorten(graph: onnx.GraphProto, own: set[str]) -> None:
    """Take out what the converter put in too much; `own` are the names of the nodes that were there before.

    That is the way to fp16 and back between two float32 nodes, which would round for nothing, and conversions that
    it writes twice, which no graph may hold.
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
    """Whether the converter put this node in, to convert to `kind`."""
    return node.op_type == "Cast" and node.name not in own and node.attribute[0].i == kind


def _quantised(graph: onnx.ModelProto, target: Path) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Convolutions stay: of the processors that run them in 8 bits, none gains by it.
    quantize_dynamic(
        graph,
        target,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        # 7 of the 8 bits: with all, sums overflow on processors without VNNI, and the proof would hold on some alone.
        reduce_range=True,
        extra_options={"MatMulConstBOnly": True},
    )
    quantised = onnx.load(target)
    del quantised.graph.value_info[:]
    return quantised


@contextmanager
def _quietly() -> Iterator[None]:
    """No remarks of the tools on graphs that they did not make."""
    loud = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(loud)
