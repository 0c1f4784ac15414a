"""Graphs that other tools exported: read as their own tool runs them, or refused with what to give."""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from foreign_layouts import beside_config, clip_model
from onnx import TensorProto, helper, numpy_helper
from open_clip.tokenizer import HFTokenizer
from other_graphs import AS_GRAPHS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPModel

from pargate.clean.run import refuse_untrainable
from pargate.core.model import unit
from pargate.errors import InputError, PargateError, UnsafeCheckpoint
from pargate.models import tokenizer as words
from pargate.models.onnx import normalised
from pargate.models.open import inspect, open_model

CAPTIONS = ["a photo of a dog", "two", "", "the quick brown fox! " * 30]
SIZE = 32


@functools.cache
def model() -> CLIPModel:
    """The model that the graphs are made of."""
    return clip_model(SIZE)


@functools.cache
def _place() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def written(name: str) -> Path:
    """A folder of graphs. Not to be changed."""
    folder = Path(_place().name) / name
    AS_GRAPHS[name](model(), folder)
    return folder


OPTIMUM = "ONNX, optimum's one graph"


@pytest.mark.parametrize("name", AS_GRAPHS)
def test_vectors_are_those_of_the_model_that_the_graphs_were_made_of(name):
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    with open_model(str(written(name))) as found:
        encoder = found.graph_encoder(device="cpu", threads=1)
    with torch.inference_mode():
        ids = torch.tensor(encoder.tokenize(CAPTIONS))
        mask = (torch.arange(ids.shape[1]) <= ids.argmax(dim=1, keepdim=True)).long()
        theirs = [
            model().get_image_features(torch.tensor(normalised(images, encoder.spec))),
            model().get_text_features(input_ids=ids, attention_mask=mask),
        ]
    theirs = [unit(getattr(vectors, "pooler_output", vectors).numpy()) for vectors in theirs]
    np.testing.assert_allclose(encoder.encode_images(encoder.put(images)), theirs[0], atol=1e-6)
    np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), theirs[1], atol=1e-6)


def test_the_facts_are_those_of_the_files():
    found = inspect(str(written(OPTIMUM)))
    file = written(OPTIMUM) / "model.onnx"
    assert (found.layout, found.format, found.size_bytes) == ("onnx", "onnx", file.stat().st_size)
    assert (found.dim, found.context_length, found.tokenizer) == (24, 77, "bpe")
    assert found.parameters == sum(weight.numel() for weight in model().parameters())
    assert "image tower: model.onnx, from pixel_values to image_embeds" in found.notes
    assert "text tower: model.onnx, from input_ids and attention_mask to text_embeds" in found.notes
    with pytest.raises(InputError, match="cannot be trained"):
        refuse_untrainable(found)


def test_a_graph_is_divided_into_its_towers():
    with open_model(str(written(OPTIMUM))) as found:
        towers = {kind: onnx.load_from_string(graph.content) for kind, graph in found.take_graphs().graphs.items()}
    ends = {
        kind: ([value.name for value in made.graph.input], [value.name for value in made.graph.output])
        for kind, made in towers.items()
    }
    assert ends == {
        "image": (["pixel_values"], ["image_embeds"]), "text": (["input_ids", "attention_mask"], ["text_embeds"])
    }  # fmt: skip
    sizes = [sum(len(tensor.raw_data) for tensor in made.graph.initializer) for made in towers.values()]
    assert sum(sizes) < (written(OPTIMUM) / "model.onnx").stat().st_size


# --- the files that are read ---


def graph(kind: str, width: int = 5, size: int = 32, given: str = "", wanted: str = "") -> onnx.ModelProto:
    """The smallest graph of a tower: a product, of the mean colour or of the token ids."""
    given, wanted = given or f"{kind}_in", wanted or f"{kind}_embeds"
    shape = ["n", 3, size, size] if kind == "image" else ["n", 16]
    start = helper.make_tensor_value_info(given, TensorProto.FLOAT if kind == "image" else TensorProto.INT64, shape)
    nodes = [
        helper.make_node("Cast", [given], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("GlobalAveragePool" if kind == "image" else "Identity", ["float"], ["mean"], "mean"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "weight"], [wanted], "product"),
    ]
    weight = np.random.default_rng(0).standard_normal((3 if kind == "image" else 16, width), dtype=np.float32)
    end = helper.make_tensor_value_info(wanted, TensorProto.FLOAT, ["n", width])
    made = helper.make_graph(nodes, "main", [start], [end], [numpy_helper.from_array(weight, "weight")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


CONFIG = b"""{"model_cfg": {"embed_dim": 5,
"vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1},
"text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}}}"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of two graphs in which all is well."""
    (tmp_path / "open_clip_config.json").write_bytes(CONFIG)
    onnx.save(graph("image"), tmp_path / "visual.onnx")
    onnx.save(graph("text"), tmp_path / "textual.onnx")
    return tmp_path


def change(place: Path, how: Callable[[onnx.ModelProto], object], file: str = "visual.onnx") -> None:
    made = onnx.load(place / file, load_external_data=False)
    how(made)
    (place / file).write_bytes(made.SerializeToString())


def refusal(source: object, error: type[PargateError] = InputError) -> str:
    with pytest.raises(error) as caught:
        inspect(str(source))
    assert type(caught.value) is error and caught.value.hint
    return f"{caught.value.message} → {caught.value.hint}"


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("vision_model.onnx", "text_model.onnx"),
        ("clip-visual.onnx", "clip-textual.onnx"),
        ("CLIP_Image.onnx", "CLIP_Text.onnx"),
    ],
)
def test_files_are_paired_by_their_names(place, image, text):
    for old, new in (("visual.onnx", image), ("textual.onnx", text)):
        (place / old).rename(place / new)
    for source in (place, f"{place}#{image}", f"{place}#{text}"):
        notes = " ".join(inspect(str(source)).notes)
        assert f"image tower: {image}" in notes and f"text tower: {text}" in notes


def test_another_variant_is_read_if_it_is_named(place):
    for kind, file in (("image", "visual_fp16.onnx"), ("text", "textual_fp16.onnx")):
        onnx.save(graph(kind), place / file)
    plain, named = (inspect(str(source)) for source in (place, f"{place}#visual_fp16.onnx"))
    assert "other graphs beside them were not read: textual_fp16.onnx, visual_fp16.onnx" in plain.notes
    assert any(note.startswith("image tower: visual_fp16.onnx") for note in named.notes)


def test_two_models_are_refused_by_name(place):
    for kind, file in (("image", "a-visual.onnx"), ("text", "a-textual.onnx")):
        onnx.save(graph(kind), place / file)
    said = refusal(place)
    assert "several models: a-textual.onnx, a-visual.onnx, textual.onnx, visual.onnx" in said
    assert f"name one: {place}#a-textual.onnx" in said


def test_one_tower_alone_is_refused(place):
    (place / "textual.onnx").unlink()
    for source in (place, place / "visual.onnx"):
        assert "visual.onnx holds the image tower alone" in refusal(source)


def test_two_graphs_of_one_tower_are_refused(place):
    onnx.save(graph("image"), place / "vision.onnx")
    assert "two graphs of one image tower: vision.onnx and visual.onnx" in refusal(place)


def test_a_pickle_called_a_graph_is_unsafe(place):
    (place / "visual.onnx").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "os.system" in refusal(place / "visual.onnx", UnsafeCheckpoint)


def test_graphs_beside_weights_are_not_read(place):
    beside_config(CONFIG, {"a": torch.ones(1)}, place)
    assert inspect(str(place)).format == "torch-zip"


def test_graphs_of_pargate_are_not_read_as_those_of_others(place):
    (place / "preprocess.json").touch()
    assert f"name them both: {place}" in refusal(place / "visual.onnx")


def test_without_a_configuration_the_architecture_must_be_named(place):
    (place / "open_clip_config.json").unlink()
    said = refusal(place)
    assert "no open_clip_config.json and no config.json" in said and "--arch ViT-B-32/openai" in said
    with pytest.raises(InputError, match=r"visual\.onnx: image_in \[n, 3, 32, 32\] does not fit to .* 3, 224, 224"):
        inspect(str(place), arch="ViT-B-32")
    for kind, file in (("image", "visual.onnx"), ("text", "textual.onnx")):
        onnx.save(graph(kind, width=512, size=224), place / file)
    change(place, lambda made: made.graph.input[0].type.tensor_type.shape.dim[1].Clear(), "textual.onnx")
    found = inspect(str(place), arch="ViT-B-32")
    assert (found.architecture, found.activation, found.preprocess.size) == ("ViT-B-32", None, (224, 224))


# --- what is refused ---


def second(name: str, *dims: int | str) -> Callable[[onnx.ModelProto], object]:
    def add(made: onnx.ModelProto) -> None:
        made.graph.node.append(helper.make_node("Identity", ["image_embeds"], [name]))
        made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims or ["n", 5]))

    return add


def renamed(old: str, new: str) -> Callable[[onnx.ModelProto], object]:
    def rename(made: onnx.ModelProto) -> None:
        made.graph.output[0].name = new
        made.graph.node[-1].output[0] = new

    return rename


WRONG = {
    "no input for pixels": (
        lambda made: made.graph.input[0].type.tensor_type.shape.dim.pop(),
        "must have one input for pixels [batch, 3, rows, columns], and has: image_in [n, 3, 32]",
    ),
    "two outputs": (second("image_features"), "cannot be told: it has image_embeds [n, 5], image_features [n, 5]"),
    "before the projection": (renamed("image_embeds", "pooler_output"), "cannot be told: it has pooler_output [n, 5]"),
    "another size": (
        lambda made: setattr(made.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 64),
        "image_in [n, 3, 64, 32] does not fit to the configuration, by which it is ['batch', 3, 32, 32]",
    ),
    "another width": (
        lambda made: made.CopyFrom(graph("image", width=7)),
        "image_embeds [n, 7] does not fit to the configuration, by which it is ['batch', 5]",
    ),
    "a batch of 8": (
        lambda made: setattr(made.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 8), "batches of 8 alone",
    ),
    "1,000 outputs": (
        lambda made: [second(f"o{number}")(made) for number in range(1000)], "has 1001 outputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_decided_or_does_not_fit_is_refused(place, name):
    how, words = WRONG[name]
    change(place, how)
    assert words in refusal(place)


def test_other_outputs_are_left_out(place):
    before = inspect(str(place)).notes
    change(place, second("last_hidden_state"))
    change(place, second("norm", "n", 5, 1))
    assert inspect(str(place)).notes == before


@pytest.mark.parametrize(
    ("location", "words"),
    [("../secret", "weights may lie in visual.onnx.data alone"), ("visual.onnx_data", "is a link to another place")],
)
def test_weights_outside_the_folder_are_unsafe(place, location, words):
    (place.parent / "secret").write_bytes(bytes(10**5))
    (place / "visual.onnx_data").symlink_to(place.parent / "secret")

    def move(made: onnx.ModelProto) -> None:
        (tensor,) = made.graph.initializer
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    change(place, move)
    assert words in refusal(place, UnsafeCheckpoint)


def test_weights_in_optimums_file_are_read(place):
    with open_model(str(place)) as found:
        images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
        before = found.graph_encoder(device="cpu", threads=1).encode_images(images)
    onnx.save(
        onnx.load(place / "visual.onnx"), place / "visual.onnx", save_as_external_data=True, size_threshold=0,
        location="visual.onnx_data",
    )  # fmt: skip
    with open_model(str(place)) as found:
        assert found.checkpoint.size_bytes > (place / "visual.onnx_data").stat().st_size > 0
        np.testing.assert_array_equal(found.graph_encoder(device="cpu", threads=1).encode_images(images), before)


def test_a_width_that_only_shows_when_the_graph_runs_is_refused(place):
    change(place, lambda made: made.CopyFrom(graph("image", width=7)))
    change(place, lambda made: made.graph.output[0].type.tensor_type.shape.dim[1].Clear())
    with open_model(str(place)) as found, pytest.raises(InputError, match=r"has the shape \[1, 7\], not \[1, 5\]"):
        found.graph_encoder(device="cpu")


# --- other tokenizers ---


def test_another_tokenizer_gives_the_ids_of_open_clip(tmp_path):
    vocabulary = {
        "[PAD]": 0,
        "[UNK]": 1,
        **{word: number for number, word in enumerate(["a", "photo", "of", "the", "dog"], 2)},
    }
    made = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    settings = '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}'
    (tmp_path / "tokenizer_config.json").write_text(settings)
    rule = words.TextRule(context_length=8, tokenizer="huggingface", clean="whitespace")
    content = words.of_one_length(tmp_path, 8)
    ours = words.tokenizer(rule, content, "tokenizer.json")
    captions = ["a photo of the  dog", "", "a " * 20]
    np.testing.assert_array_equal(ours(captions), HFTokenizer(str(tmp_path), context_length=8)(captions).numpy())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match="names no pad_token"):
        words.of_one_length(tmp_path, 8)
