"""Graphs that grow, that never end, that reach elsewhere, or that hold programs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from made import Case
from onnx import TensorProto, helper, numpy_helper

ABOUT = {
    "schema": "pargate/onnx/1", "architecture": "x", "checkpoint": "0" * 64, "precision": "fp32", "opset": 18,
    "dim": 4, "logit_scale": 100.0, "activation": "gelu",
    "image": {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize": "shortest",
              "fill": 0},
    "text": {"context_length": 16, "tokenizer": "huggingface", "clean": "lower"}, "templates": ["a {}"],
}  # fmt: skip
WORDS = {
    "version": "1.0", "truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
                "pad_type_id": 0, "pad_token": "[PAD]"},
    "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
    "decoder": None, "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "[PAD]": 1, "a": 2}, "unk_token": "[UNK]"},
}  # fmt: skip
ENDS: dict[str, tuple[str, str, int, list[Any]]] = {
    "image": ("pixel_values", "image_embeds", TensorProto.FLOAT, ["batch", 3, 8, 8]),
    "text": ("input_ids", "text_embeds", TensorProto.INT64, ["batch", 16]),
}


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def graph(
    kind: str, nodes: list[onnx.NodeProto] | None = None, initial: list[onnx.TensorProto] | None = None, big: str = ""
) -> onnx.ModelProto:
    """A graph that gives four sums; of `big`, a tensor of the nodes, one value is added to them."""
    given, wanted, dtype, shape = ENDS[kind]
    axes = list(range(1, len(shape)))
    body = [
        helper.make_node("Cast", [given], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["f", "axes"], ["s"], keepdims=0),
        helper.make_node("Unsqueeze", ["s", "one"], ["u"]),
        helper.make_node("Mul", ["u", "row"], ["out" if big else wanted]),
    ]
    more = [
        helper.make_node("Cast", [big], ["bigf"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["bigf"], ["most"], keepdims=0),
        helper.make_node("Add", ["out", "most"], [wanted]),
    ]
    values = [ints("axes", *axes), ints("one", 1), numpy_helper.from_array(np.array([[1, 2, 3, 4]], np.float32), "row")]
    made = helper.make_graph(
        [*body, *(nodes or []), *(more if big else [])], kind,
        [helper.make_tensor_value_info(given, dtype, shape)],
        [helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["batch", 4])],
        [*values, *(initial or [])],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def node(kind: str, given: list[str], made: str, **options: Any) -> onnx.NodeProto:
    return helper.make_node(kind, given, [made], **options)


SIDE = 1 << 20
LARGE = ints("large", SIDE, SIDE)
HUGE = ints("huge", 1 << 16, 1 << 16)
BATCH = [node("Shape", ["f"], "shape"), node("Slice", ["shape", "zero", "one"], "n")]
ZERO = ints("zero", 0)
ONE_F = numpy_helper.from_array(np.ones((1, 1), np.float32), "x1")


def _doubling(kind: str, times: int = 40) -> list[onnx.NodeProto]:
    options = {"axis": 0} if kind == "Concat" else {}
    return [
        node("Concat", [f"c{i}", f"c{i}"], f"c{i + 1}", **options) if kind == "Concat"
        else node("Tile", [f"c{i}", "two"], f"c{i + 1}") for i in range(times)
    ]  # fmt: skip


GROWING: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]] = {
    "ConstantOfShape": ([node("ConstantOfShape", ["large"], "b")], [LARGE], "b"),
    "ConstantOfShape of 2^32 values": ([node("ConstantOfShape", ["huge"], "b")], [HUGE], "b"),
    "Expand": ([node("Expand", ["x1", "large"], "b")], [LARGE, ONE_F], "b"),
    "Tile": ([node("Tile", ["x1", "large"], "b")], [LARGE, ONE_F], "b"),
    "Pad": ([node("Pad", ["x1", "pads"], "b")], [ints("pads", SIDE, SIDE, SIDE, SIDE), ONE_F], "b"),
    "Range": (
        [node("Range", ["from", "to", "by"], "b")],
        [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("from", 0), ("to", 1 << 40), ("by", 1))], "b",
    ),
    "Range of floats": (
        [node("Range", ["from", "to", "by"], "b")],
        [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("from", 0), ("to", 1e10), ("by", 1))], "b",
    ),
    "Resize": (
        [node("Unsqueeze", ["x1", "lead"], "x4"), node("Resize", ["x4", "", "", "sizes"], "b", mode="nearest")],
        [ints("lead", 0, 1), ints("sizes", 1, 1, SIDE, SIDE), ONE_F], "b",
    ),
    "OneHot": (
        [node("OneHot", ["many", "depth", "offon"], "b")],
        [ints("many", *range(1000)), ints("depth", SIDE * 64), numpy_helper.from_array(np.array([0, 1], np.float32), "offon")],
        "b",
    ),
    "Concat, doubled": (_doubling("Concat"), [numpy_helper.from_array(np.ones(64, np.float32), "c0")], "c40"),
    "Tile, doubled": (_doubling("Tile"), [numpy_helper.from_array(np.ones(64, np.float32), "c0"), ints("two", 2)], "c40"),
    "a product of a row and a column": (
        [node("ConstantOfShape", ["tall"], "t"), node("ConstantOfShape", ["wide"], "w"), node("MatMul", ["t", "w"], "b")],
        [ints("tall", SIDE, 1), ints("wide", 1, SIDE)], "b",
    ),
    "a sum of a row and a column": (
        [node("ConstantOfShape", ["tall"], "t"), node("ConstantOfShape", ["wide"], "w"), node("Add", ["t", "w"], "b")],
        [ints("tall", SIDE, 1), ints("wide", 1, SIDE)], "b",
    ),
    "a matrix product that never ends": (
        [node("ConstantOfShape", ["square"], "m0"), *(node("MatMul", [f"m{i}", f"m{i}"], f"m{i + 1}") for i in range(400))],
        [ints("square", 4096, 4096)], "m400",
    ),
    "a convolution that never ends": (
        [node("ConstantOfShape", ["plane"], "p0"), node("ConstantOfShape", ["kernel"], "k"),
         *(node("Conv", [f"p{i}", "k"], f"p{i + 1}", pads=[32] * 4) for i in range(200))],
        [ints("plane", 1, 16, 512, 512), ints("kernel", 16, 16, 65, 65)], "p200",
    ),
    "a size from the batch": (
        [*BATCH, node("Mul", ["n", "many"], "big"), node("ConstantOfShape", ["big"], "b")],
        [ZERO, ints("many", 1 << 36)], "b",
    ),
    "a size from the pixels": (
        [node("ReduceSum", ["f"], "all", keepdims=0), node("Abs", ["all"], "abs"),
         node("Cast", ["abs"], "int", to=TensorProto.INT64), node("Mul", ["int", "many"], "m"), node("Reshape", ["m", "one"], "v"),
         node("ConstantOfShape", ["v"], "b")],
        [ints("many", 1 << 20)], "b",
    ),
    "as many values as pixels": ([node("NonZero", ["f"], "b")], [], "b"),
}  # fmt: skip
"""Graphs of a few kilobytes that ask for any amount of memory or time."""


def _attribute(name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].attribute.append(helper.make_attribute(name, value))

    return change


def _outside(location: str, **more: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def _operator(kind: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(kind, ["f"], ["extra"], domain=domain))

    return change


def _program(kind: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        inner = helper.make_graph([], "g", [], [])
        model.graph.node.append(helper.make_node(kind, ["f"], ["extra"], body=inner))

    return change


def _nested(model: onnx.ModelProto) -> None:
    graph: Any = helper.make_graph([], "g", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("Identity", ["f"], ["x"], g=graph)], "g", [], [])
    model.graph.node.append(helper.make_node("If", ["f"], ["extra"], then_branch=graph, else_branch=graph))


def _function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("evil", "f", ["a"], ["b"], [helper.make_node("f", ["a"], ["b"], domain="evil")], [])
    )


def _set(path: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        part: Any = model
        *names, last = path.split(".")
        for name in names:
            part = part[int(name)] if name.isdigit() else getattr(part, name)
        setattr(part, last, value)

    return change


def _dims(*sides: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(sides)

    return change


def _append(field: str, make: Callable[[], Any]) -> Callable[[onnx.ModelProto], None]:
    return lambda model: getattr(model.graph, field).append(make())


CHANGED: dict[str, tuple[Callable[[onnx.ModelProto], None], tuple[int, ...]]] = {
    "weights of another folder": (_outside("../../../etc/passwd"), (1,)),
    "weights by an absolute way": (_outside("/etc/passwd"), (1,)),
    "weights of a device": (_outside("/dev/zero"), (1,)),
    "weights of an address": (_outside("https://example.org/x"), (1,)),
    "weights that steer": (_outside("\n::error::x\x1b[2J"), (1,)),
    "weights at a negative place": (_outside("image.onnx.data", offset="-1"), (2,)),
    "weights past the end": (_outside("image.onnx.data", offset="9" * 18), (2,)),
    "weights without a file": (_outside("image.onnx.data"), (2,)),
    "weights without a place": (_outside(""), (1,)),
    "an operator from elsewhere": (_operator("Evil", "evil.domain"), (1,)),
    "an operator of Python": (_operator("PyOp", "ai.onnx.contrib"), (1,)),
    "an operator of the runtime": (_operator("Inverse", "com.microsoft"), (1,)),
    "an unknown operator": (_operator("Evil"), (2,)),
    "random numbers": (_operator("RandomNormalLike"), (1,)),
    "a bernoulli": (_operator("Bernoulli"), (1,)),
    **{kind: (_program(kind), (1,)) for kind in ("If", "Loop", "Scan", "SequenceMap")},
    "graphs within one another": (_nested, (1, 2)),
    "a function that calls itself": (_function, (1,)),
    "a node twice": (lambda m: m.graph.node.append(m.graph.node[0]), (2,)),
    "a tensor twice": (lambda m: m.graph.initializer.append(m.graph.initializer[0]), (2,)),
    "a circle": (lambda m: m.graph.node.insert(0, helper.make_node("Add", ["y", "y"], ["y"])), (2,)),
    "an input too many": (
        _append("input", lambda: helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])), (2,)),
    "no output": (lambda m: m.graph.output.pop(), (2,)),
    "an output of another name": (_set("graph.output.0.name", "x"), (2,)),
    "an output that steers": (_set("graph.output.0.name", "\n::error::x"), (2,)),
    "a dtype of 99": (_set("graph.initializer.0.data_type", 99), (2,)),
    "text for a tensor": (_set("graph.initializer.0.data_type", TensorProto.STRING), (2,)),
    "a negative side": (_dims(-1), (2,)),
    "sides of 2^62": (_dims(1 << 62, 1 << 62), (2,)),
    "a million sides": (_dims(*([1] * 1_000_000)), (2,)),
    "too few bytes": (_set("graph.initializer.0.raw_data", b"x"), (2,)),
    "an attribute that is a graph": (_attribute("x", helper.make_graph([], "g", [], [])), (1,)),
    "an attribute that is a list of graphs": (_attribute("x", [helper.make_graph([], "g", [], [])]), (1,)),
    "an opset of 10^6": (_set("opset_import.0.version", 10**6), (0, 2)),
    "an opset of another domain": (_set("opset_import.0.domain", "evil"), (1,)),
    "settings of the runtime": (lambda m: m.metadata_props.add(key="ort_config", value="{}"), (1,)),
    "notes twice": (lambda m: [m.metadata_props.add(key="a", value="b") for _ in range(2)], (2,)),
    "a node that steers": (lambda m: m.graph.node.append(helper.make_node("Evil", ["f"], ["x"], name="\x1b[2J\n::error::x", domain="e")), (1,)),
    "200,000 nodes": (
        lambda m: m.graph.node.extend(helper.make_node("Identity", ["f"], [f"i{i}"]) for i in range(200_000)), (2,)),
}  # fmt: skip
"""Graphs that are refused before they run."""

DESCRIBED: dict[str, Any] = {
    "a size of 10^9": {"image": {**ABOUT["image"], "size": [10**9, 10**9]}},  # type: ignore[dict-item]
    "a scale of 1e30": {"logit_scale": 1e30},
    "a negative scale": {"logit_scale": -1.0},
    "an embedding of 10^9": {"dim": 10**9},
    "a context of 10^9": {"text": {**ABOUT["text"], "context_length": 10**9}},  # type: ignore[dict-item]
    "a million templates": {"templates": ["a {}"] * 50_000},
    "a template without a place": {"templates": ["{0.__class__}"]},
    "a mean of 10^9": {"image": {**ABOUT["image"], "mean": [1e9] * 3}},  # type: ignore[dict-item]
    "another schema": {"schema": "pargate/onnx/99"},
    "a field too many": {"evil": 1},
}


def folder(place: Path, image: bytes, text: bytes, about: dict[str, Any]) -> None:
    made = place / "onnx"
    made.mkdir()
    (made / "preprocess.json").write_text(json.dumps({**ABOUT, **about}))
    (made / "tokenizer.json").write_text(json.dumps(WORDS))
    (made / "image.onnx").write_bytes(image)
    (made / "text.onnx").write_bytes(text)


GOOD = {kind: graph(kind).SerializeToString() for kind in ENDS}


def changed(name: str, kind: str) -> Case:
    change, codes = CHANGED[name]

    def build(place: Path) -> list[str]:
        model = graph(kind)
        change(model)
        folder(place, **{**GOOD, kind: model.SerializeToString()}, about={})
        return ["inspect", "onnx"]

    return Case(f"graph: {name}, {kind}", build, codes)


CONFIG = {
    "embed_dim": 4, "vision_cfg": {"image_size": 8, "patch_size": 4, "width": 8, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 16, "width": 8, "heads": 1, "layers": 1},
}  # fmt: skip


def of_others(name: str, kind: str) -> Case:
    """The same graph in a folder that pargate did not write."""
    change, codes = CHANGED[name]

    def build(place: Path) -> list[str]:
        model = graph(kind)
        change(model)
        made = place / "onnx"
        made.mkdir()
        (made / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
        for tower, file in (("image", "visual.onnx"), ("text", "textual.onnx")):
            (made / file).write_bytes(model.SerializeToString() if tower == kind else GOOD[tower])
        return ["inspect", "onnx"]

    return Case(f"graph of others: {name}, {kind}", build, codes)


def described(name: str) -> Case:
    def build(place: Path) -> list[str]:
        folder(place, **GOOD, about=DESCRIBED[name])
        return ["inspect", "onnx"]

    return Case(f"graph: description with {name}", build, (2,))


def growing(name: str, kind: str) -> Case:
    """A graph that is only found out when it runs."""

    def build(place: Path) -> list[str]:
        nodes, initial, big = GROWING[name]
        folder(place, **{**GOOD, kind: graph(kind, nodes, initial, big).SerializeToString()}, about={})
        return ["scan", "onnx", "-p", "baseline", "--images", "builtin:scenes", "--max-minutes", "0.1"]

    return Case(f"graph that grows: {name}, {kind}", build, (2, 5))


def cases() -> Iterator[Case]:
    for name in CHANGED:
        yield changed(name, "image")
        if not name.startswith(("weights", "200,000", "a million")):
            yield changed(name, "text")
        if CHANGED[name][1] == (1,):
            yield of_others(name, "text")
    yield from map(described, DESCRIBED)
    for part in range(1, 8):
        content = GOOD["image"][: len(GOOD["image"]) * part // 8]

        def cut(place: Path, content: bytes = content) -> list[str]:
            folder(place, content, GOOD["text"], {})
            return ["inspect", "onnx"]

        yield Case(f"graph: cut at {part}/8", cut, (2,))


def running() -> Iterator[Case]:
    """Graphs that have to run before they are found out."""
    for name in GROWING:
        yield growing(name, "image")
    for name in ("ConstantOfShape", "a matrix product that never ends", "a size from the pixels", "Concat, doubled"):
        yield growing(name, "text")
