"""Graphs from outside: what an encoder does not need is refused by name, before anything runs."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pargate import limits
from pargate.clean import run as clean
from pargate.errors import InputError, PargateError, UnsafeCheckpoint
from pargate.models.open import inspect, open_model

NAMES = {"image": ("pixel_values", "image_embeds"), "text": ("input_ids", "text_embeds")}


def graph(kind: str) -> onnx.ModelProto:
    """The smallest graph of each kind: a sum, and a product."""
    given, wanted = NAMES[kind]
    if kind == "image":
        start = helper.make_tensor_value_info(given, TensorProto.FLOAT, ["batch", 3, 8, 8])
        nodes = [helper.make_node("Flatten", [given], ["flat"], "flatten")]
    else:
        start = helper.make_tensor_value_info(given, TensorProto.INT64, ["batch", 4])
        nodes = [helper.make_node("Cast", [given], ["flat"], "cast", to=TensorProto.FLOAT)]
    width = 192 if kind == "image" else 4
    weight = np.random.default_rng(0).standard_normal((width, 5), dtype=np.float32)
    nodes.append(helper.make_node("MatMul", ["flat", "weight"], [wanted], "product"))
    end = helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["batch", 5])
    made = helper.make_graph(nodes, "main", [start], [end], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


DESCRIPTION = {
    "schema": "pargate/onnx/1",
    "architecture": "tiny",
    "checkpoint": "0" * 64,
    "precision": "fp32",
    "opset": 18,
    "dim": 5,
    "logit_scale": 100.0,
    "logit_bias": None,
    "activation": "gelu",
    "image": {
        "size": [8, 8],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize": "shortest",
        "fill": 0,
    },
    "text": {"context_length": 4, "tokenizer": "bpe", "clean": "lower", "zeroed": None},
    "templates": ["a {}"],
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of graphs in which all is well; the vocabulary is not looked into before it is used."""
    folder = tmp_path / "onnx"
    folder.mkdir()
    for kind in NAMES:
        onnx.save(graph(kind), folder / f"{kind}.onnx")
    (folder / "preprocess.json").write_text(json.dumps(DESCRIPTION))
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(b"words")
    return folder


def change(place: Path, how: Callable[[onnx.ModelProto], None], kind: str = "image") -> None:
    made = onnx.load(place / f"{kind}.onnx", load_external_data=False)
    how(made)
    (place / f"{kind}.onnx").write_bytes(made.SerializeToString())


def refusal(place: Path, error: type[PargateError] = InputError) -> str:
    with pytest.raises(error) as caught:
        inspect(str(place))
    assert type(caught.value) is error and caught.value.hint
    return caught.value.message


def test_a_folder_of_graphs_is_a_checkpoint_with_one_digest_over_its_files(place):
    found = inspect(str(place))
    assert (found.format, found.architecture, found.parameters) == ("onnx", "tiny", 192 * 5 + 4 * 5)
    assert found.size_bytes == sum((place / f"{kind}.onnx").stat().st_size for kind in NAMES)
    assert found.preprocess.size == (8, 8) and found.folder == str(place)
    bundle = inspect(str(place.parent))
    assert (bundle.sha256, bundle.digest, bundle.source) == (found.sha256, found.digest, str(place.parent))


@pytest.mark.parametrize("file", ["image.onnx", "text.onnx", "preprocess.json", "bpe_simple_vocab_16e6.txt.gz"])
def test_every_file_counts_for_the_digest(place, file):
    before = inspect(str(place))
    if file.endswith(".onnx"):
        change(place, lambda made: made.metadata_props.add(key="a", value="b"), file.removesuffix(".onnx"))
    else:
        (place / file).write_bytes((place / file).read_bytes() + b" ")
    after = inspect(str(place))
    assert after.digest != before.digest
    assert (after.sha256 != before.sha256) == file.endswith(".onnx")


@pytest.mark.parametrize("file", ["image.onnx", "text.onnx", "preprocess.json", "bpe_simple_vocab_16e6.txt.gz"])
def test_a_missing_empty_or_linked_file_is_refused_by_name(place, file):
    (place / file).rename(place.parent / "elsewhere")
    if file != "image.onnx":  # the others alone make no folder of graphs
        assert file in refusal(place)
    (place / file).touch()
    assert file in refusal(place)
    (place / file).unlink()
    (place / file).symlink_to(place.parent / "elsewhere")
    assert "link" in refusal(place, UnsafeCheckpoint)


def test_graphs_of_the_hubs_cache_may_be_links_to_its_blobs(place, tmp_path):
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0123" / "onnx"
    snapshot.mkdir(parents=True)
    place.rename(cache / "blobs")
    for file in (cache / "blobs").iterdir():
        (snapshot / file.name).symlink_to(f"../../../blobs/{file.name}")
    assert inspect(str(snapshot)).format == "onnx"
    (snapshot / "text.onnx").unlink()
    (snapshot / "text.onnx").symlink_to(tmp_path / "elsewhere")
    (cache / "blobs" / "text.onnx").rename(tmp_path / "elsewhere")
    assert "link" in refusal(snapshot, UnsafeCheckpoint)


def nested(kind: str) -> Callable[[onnx.ModelProto], None]:
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "body", [], [])
    return lambda made: made.graph.node.append(helper.make_node(kind, ["flat"], ["inner"], "odd", body=body))


def added(kind: str, domain: str = "", **attributes: object) -> Callable[[onnx.ModelProto], None]:
    return lambda made: made.graph.node.append(
        helper.make_node(kind, ["flat"], ["extra"], "odd", domain=domain, **attributes)
    )


def constant_elsewhere(made: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "c")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    made.graph.node.append(helper.make_node("Constant", [], ["c"], "odd", value=tensor))


UNSAFE = {
    **{kind: (nested(kind), "it holds a program") for kind in ("Loop", "If", "Scan", "SequenceMap")},
    "a program in another operator": (nested("Abs"), "holds a program"),
    "another domain": (added("Abs", "ai.evil"), "the domain 'ai.evil'"),
    "a strange operator of the runtime": (added("Inverse", "com.microsoft"), "com.microsoft, which no encoder needs"),
    "random numbers": (added("RandomNormalLike"), "draws random numbers"),
    "an imported domain": (lambda made: made.opset_import.append(helper.make_opsetid("x.y", 1)), "the domain 'x.y'"),
    "a function": (
        lambda made: made.functions.append(helper.make_function("f", "f", [], [], [], [helper.make_opsetid("", 18)])),
        "functions of its own",
    ),
    "training": (lambda made: made.training_info.add(), "training program"),
    "settings for the runtime": (lambda made: made.metadata_props.add(key="ort_config", value="{}"), "ort_config"),
    "a constant elsewhere": (constant_elsewhere, "reads its constant from another file"),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_what_could_do_more_than_an_encoder_is_unsafe(place, name):
    how, words = UNSAFE[name]
    change(place, how)
    message = refusal(place, UnsafeCheckpoint)
    assert words in message and "image.onnx" in message


def test_operators_of_the_runtime_are_read_and_said(place):
    assert not inspect(str(place)).custom_ops

    def gelu(made: onnx.ModelProto) -> None:
        made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        added("Gelu", "com.microsoft")(made)

    change(place, gelu)
    assert inspect(str(place)).custom_ops


def shape(tensor: onnx.ValueInfoProto, *dims: int | str) -> None:
    del tensor.type.tensor_type.shape.dim[:]
    for dim in dims:
        entry = tensor.type.tensor_type.shape.dim.add()
        if isinstance(dim, str):
            entry.dim_param = dim
        else:
            entry.dim_value = dim


WRONG = {
    "a fixed batch": (lambda made: shape(made.graph.input[0], 1, 3, 8, 8), "its input pixel_values is [1, 3, 8, 8]"),
    "another size": (lambda made: shape(made.graph.input[0], "batch", 3, 9, 9), "should be ['batch', 3, 8, 8]"),
    "another length": (lambda made: shape(made.graph.output[0], "batch", 6), "its output image_embeds"),
    "a second input": (lambda made: made.graph.input.add(name="x"), "must have one input"),
    "a name twice": (
        lambda made: made.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "flat")),
        "two tensors have one name",
    ),
    "too few bytes": (
        lambda made: setattr(made.graph.initializer[0], "raw_data", made.graph.initializer[0].raw_data[:-4]),
        "not as many bytes",
    ),
    "a huge shape": (lambda made: made.graph.initializer[0].dims.insert(0, 1 << 40), "out of bounds"),
    "a type of its own": (lambda made: setattr(made.graph.initializer[0], "data_type", 8), "the type 8"),
    "a sparse tensor": (lambda made: made.graph.sparse_initializer.add(), "sparse"),
    "a key twice": (
        lambda made: (made.metadata_props.add(key="a", value="1"), made.metadata_props.add(key="a", value="2")),
        "occurs twice",
    ),
    "an unknown operator": (added("Dance"), "not a valid ONNX graph"),
    "an input from nowhere": (
        lambda made: made.graph.node[0].input.__setitem__(0, "nowhere"),
        "not a valid ONNX graph",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_graph_that_pargate_writes_is_refused(place, name):
    how, words = WRONG[name]
    change(place, how)
    assert words in refusal(place)


@pytest.mark.parametrize("content", [b"\x08\x07garbage", b"PK\x03\x04", bytes(64)])
def test_what_is_no_graph_at_all_is_refused(place, content):
    (place / "image.onnx").write_bytes(content)
    assert "image.onnx" in refusal(place)


@pytest.mark.parametrize(
    ("where", "value"),
    [("precision", "fp8"), ("schema", "pargate/onnx/9"), ("extra", 1), ("dim", "x")],
)
def test_a_description_of_another_kind_is_refused(place, where, value):
    (place / "preprocess.json").write_text(json.dumps({**DESCRIPTION, where: value}))
    assert where in refusal(place)


def test_a_description_out_of_bounds_is_refused(place):
    for wrong in ({"std": [0.5, 0.0, 0.5]}, {"std": [58.4, 57.1, 57.4]}, {"mean": [123.7, 116.3, 103.5]}):
        image = {**DESCRIPTION["image"], **wrong}
        (place / "preprocess.json").write_text(json.dumps({**DESCRIPTION, "image": image}))
        assert "standard deviation" in refusal(place)
    image = {**DESCRIPTION["image"], "size": [8, 1 << 20]}
    (place / "preprocess.json").write_text(json.dumps({**DESCRIPTION, "image": image}))
    assert "out of bounds" in refusal(place)


# --- weights beside the graph ---


def put_beside(place: Path, location: str = "image.onnx.data", **fields: str) -> None:
    """The image graph's weights in a file of their own."""

    def move(made: onnx.ModelProto) -> None:
        (tensor,) = made.graph.initializer
        if not (place / "image.onnx.data").exists():
            (place / "image.onnx.data").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": "0", "length": str(192 * 5 * 4), **fields}.items():
            tensor.external_data.add(key=key, value=value)

    change(place, move)


def test_weights_beside_their_graph_are_read_and_count_for_the_digest(place):
    plain = inspect(str(place)).sha256
    put_beside(place)
    before = open_model(str(place))
    assert before.checkpoint.sha256 != plain
    assert before.take_graphs().graphs["image"].data[:] == (place / "image.onnx.data").read_bytes()
    content = bytearray((place / "image.onnx.data").read_bytes())
    content[7] ^= 1
    (place / "image.onnx.data").write_bytes(content)
    assert inspect(str(place)).sha256 != before.checkpoint.sha256


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../secret", "text.onnx.data", "./image.onnx.data", "a/image.onnx.data", ""]
)
def test_weights_may_lie_in_one_place_alone(place, location):
    put_beside(place, location)
    assert "weights may lie in image.onnx.data alone" in refusal(place, UnsafeCheckpoint)


def test_weights_that_are_a_link_are_unsafe(place):
    put_beside(place)
    (place / "image.onnx.data").rename(place.parent / "secret")
    (place / "image.onnx.data").symlink_to(place.parent / "secret")
    assert "is a link" in refusal(place, UnsafeCheckpoint)


def test_weights_that_have_another_name_are_unsafe(place):
    put_beside(place)
    os.link(place / "image.onnx.data", place.parent / "secret")
    assert "2 names" in refusal(place, UnsafeCheckpoint)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"offset": "8"}, "would end at"),
        ({"offset": "-8"}, "does not say where"),
        ({"length": "8"}, "its shape needs"),
        ({"length": "9" * 30}, "does not say where"),
        ({"basepath": "/"}, "does not say where"),
    ],
)
def test_weights_out_of_range_are_refused(place, fields, words):
    put_beside(place, **fields)
    assert words in refusal(place)


def test_weights_that_are_missing_are_named(place):
    put_beside(place)
    (place / "image.onnx.data").unlink()
    assert "image.onnx.data" in refusal(place)


def test_a_folder_with_a_configuration_of_open_clip_is_no_folder_of_graphs(place):
    (place / "open_clip_config.json").write_text("{}")
    with pytest.raises(InputError, match="no weights file"):
        inspect(str(place))


def test_a_name_of_an_architecture_does_not_go_with_graphs(place):
    with pytest.raises(InputError, match="--arch ViT-B-32 does not go"):
        inspect(str(place), arch="ViT-B-32")


def test_graphs_that_were_only_inspected_cannot_be_run(place):
    with pytest.raises(RuntimeError, match="not kept"):
        open_model(str(place), keep=False).take_graphs()
    with open_model(str(place)) as found:
        assert found.take_graphs().description.dim == 5
    with pytest.raises(RuntimeError, match="not kept"):
        found.take_graphs()


def test_no_more_than_a_bound_is_read(place, monkeypatch):
    monkeypatch.setattr(limits, "GRAPH_BYTES", 100)
    assert "at most 100" in refusal(place)


def test_a_copy_of_a_folder_is_the_same_model(place, tmp_path):
    shutil.copytree(place, tmp_path / "copy")
    assert inspect(str(tmp_path / "copy")).digest == inspect(str(place)).digest


def test_graphs_are_not_cleaned_and_nothing_is_left_behind(place, tmp_path):
    request = clean.CleanRequest(str(place), "synthetic:16", tmp_path / "out", "2026-01-01T00:00:00+00:00")
    for act in (clean.look, clean.plan, clean.clean):
        with pytest.raises(InputError, match="holds exported graphs, which cannot be trained") as refused:
            act(request)
        assert refused.value.hint.startswith("give the checkpoint")
    assert not [*tmp_path.glob("out*")]
