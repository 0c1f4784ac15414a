"""Graphs: whatever kind of model, they give its vectors, at any batch, and hold nothing that they need not."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graph_models import MODELS, NAMES, TEMPLATES, exported, opened, write
from torch import nn

from pargate.errors import InputError
from pargate.export import folder, reduced
from pargate.export import onnx as graphs
from pargate.files import sha256_file
from pargate.models.graphs import GRAPHS, Description
from pargate.models.open import open_model

OFTEN = ("vit", "resnet", "siglip")
KINDS = [pytest.param(name, marks=() if name in OFTEN else pytest.mark.nightly) for name in MODELS]
CAPTIONS = ["a", "", "a dog and a cat", "word " * 40, "<end_of_text> x", "naïve 北京", "one", "two", "three"]


def pixels(name: str, n: int) -> np.ndarray:
    size = opened(name)[0].spec.preprocess.size
    return np.random.default_rng(n).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    np.testing.assert_allclose(np.linalg.norm(second, axis=1), 1, atol=1e-5)
    return (first.astype(np.float64) * second).sum(axis=1)


@pytest.mark.parametrize("name", KINDS)
def test_graphs_give_the_vectors_of_the_model_at_any_batch(name):
    encoder, _ = opened(name)
    with open_model(str(exported(name))) as found:
        runs = found.graph_encoder(device="cpu", threads=1)
    assert runs.spec.dim == encoder.spec.dim and runs.spec.logit_scale == encoder.spec.logit_scale
    assert runs.spec.logit_bias == encoder.spec.logit_bias == (-10 if name == "siglip" else None)
    for n in (1, 2, 3, 7, 17):
        batch = pixels(name, n)
        wanted = encoder.encode_images(encoder.put(batch))
        assert cosines(wanted, runs.encode_images(runs.put(batch))).min() > 0.999999
    for n in (1, 2, 3, 7):
        wanted = encoder.encode_texts(CAPTIONS[:n])
        assert cosines(wanted, runs.encode_texts(CAPTIONS[:n])).min() > 0.999999
    np.testing.assert_array_equal(runs.tokenize(CAPTIONS), encoder.tokenize(CAPTIONS).numpy())


@pytest.mark.parametrize("name", KINDS)
def test_graphs_are_right_on_token_ids_that_no_tokenizer_gives(name):
    encoder, _ = opened(name)
    ids = np.random.default_rng(0).integers(1, 49408, (8, 16))
    ids[:, -1] = 49407  # the end of the text, which some towers look for
    session = onnxruntime.InferenceSession(exported(name) / "text.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(["text_embeds"], {"input_ids": ids})
    from pargate.models.torch.encoder import _unit, embed

    with torch.inference_mode():
        wanted = _unit(embed(encoder.text, torch.from_numpy(ids)))
    assert cosines(wanted, given).min() > 0.999999


@pytest.mark.parametrize("name", KINDS)
def test_graphs_hold_standard_operators_a_free_batch_and_no_trace_of_the_machine(name):
    _, source = opened(name)
    for kind, file in GRAPHS.items():
        graph = onnx.load(exported(name) / file)
        onnx.checker.check_model(graph, full_check=True)
        assert {node.domain for node in graph.graph.node} == {""} and not graph.functions
        assert [imported.version for imported in graph.opset_import if imported.domain == ""] == [18]
        (given,), (out,) = graph.graph.input, graph.graph.output
        assert (given.name, out.name) == (
            ("pixel_values", "image_embeds") if kind == "image" else ("input_ids", "text_embeds")
        )
        assert given.type.tensor_type.shape.dim[0].dim_param == out.type.tensor_type.shape.dim[0].dim_param == "batch"
        names = [value for node in graph.graph.node for value in node.output]
        names += [given.name] + [tensor.name for tensor in graph.graph.initializer]
        assert len(names) == len(set(names))
        notes = {entry.key: entry.value for entry in graph.metadata_props}
        assert notes["pargate.kind"] == kind and notes["pargate.model"] == source.digest
        assert float(notes["pargate.logit_scale"]) == opened(name)[0].spec.logit_scale
        assert ("pargate.logit_bias" in notes) == (name == "siglip")
        content = (exported(name) / file).read_bytes()
        assert b".py" not in content and b"/site-packages" not in content
        if kind == "text" and name != "siglip":
            ints = [node for node in graph.graph.node if node.op_type == "Cast" and node.attribute[0].i == 6]
            assert ints, "the end of the text is looked for in 32 bits"


def test_what_lies_beside_the_graphs_says_how_they_are_used():
    place = exported("vit")
    encoder, source = opened("vit")
    assert sorted(entry.name for entry in place.iterdir()) == [
        "bpe_simple_vocab_16e6.txt.gz", "classes.txt", "example.py", "image.onnx", "preprocess.json", "text.onnx",
    ]  # fmt: skip
    described = Description.model_validate_json((place / "preprocess.json").read_bytes())
    assert described.image.preprocess() == encoder.spec.preprocess == source.preprocess
    assert described.checkpoint == source.digest and described.templates == TEMPLATES
    assert (place / "classes.txt").read_text().splitlines() == list(NAMES)


def test_two_exports_are_the_same_bytes_and_leave_model_and_process_as_they_were(tmp_path):
    exported("vit")
    encoder, _ = opened("vit")
    batch = pixels("vit", 4)
    before, fused = encoder.encode_images(encoder.put(batch)), torch.backends.mha.get_fastpath_enabled()
    again = write("vit", tmp_path / "again")["fp32"]
    np.testing.assert_array_equal(encoder.encode_images(encoder.put(batch)), before)
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert any(isinstance(m, nn.MultiheadAttention) for m in encoder.visual.modules())
    for file in sorted(entry.name for entry in again.iterdir()):
        assert sha256_file(again / file) == sha256_file(exported("vit") / file), file


@pytest.mark.slow
def test_large_weights_lie_beside_their_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "ONE_FILE", 1000)
    place = write("vit", tmp_path / "large", digests={"policy": "p" * 64})["fp32"]
    for file in GRAPHS.values():
        assert (place / f"{file}.data").is_file()
        lean = onnx.load(place / file, load_external_data=False)
        where = {entry.value for t in lean.graph.initializer for entry in t.external_data if entry.key == "location"}
        assert where == {f"{file}.data"}
        assert "p" * 64 in [entry.value for entry in lean.metadata_props]
    encoder, _ = opened("vit")
    with open_model(str(place)) as found:
        runs = found.graph_encoder(device="cpu", threads=1)
    batch = pixels("vit", 5)
    assert cosines(encoder.encode_images(encoder.put(batch)), runs.encode_images(batch)).min() > 0.999999
    assert cosines(encoder.encode_texts(CAPTIONS), runs.encode_texts(CAPTIONS)).min() > 0.999999
    with pytest.raises(InputError, match="more than 2 GiB and cannot be reduced to fp16"):
        reduced.reduce(place / "image.onnx", tmp_path / "image.onnx", "fp16")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_graphs_in_fewer_bits_keep_their_ends_and_come_near(name, precision, tmp_path):
    encoder, _ = opened(name)
    for file in GRAPHS.values():
        reduced.reduce(exported(name) / file, tmp_path / file, precision)
        graph = onnx.load(tmp_path / file)
        onnx.checker.check_model(graph)
        kinds = {graph.graph.input[0].type.tensor_type.elem_type, graph.graph.output[0].type.tensor_type.elem_type}
        assert kinds <= {1, 7}
        stored = {tensor.data_type for tensor in graph.graph.initializer}
        assert (10 if precision == "fp16" else 3) in stored or (name == "resnet" and file == "image.onnx")
        # A normalised vector never passes through 16 bits on its way out.
        last = {o: node for node in graph.graph.node for o in node.output}[graph.graph.output[0].name]
        assert last.op_type == "Div"
    about = json.loads((exported(name) / "preprocess.json").read_text())
    (tmp_path / "preprocess.json").write_text(json.dumps({**about, "precision": precision}))
    vocabulary = "bpe_simple_vocab_16e6.txt.gz"
    (tmp_path / vocabulary).write_bytes((exported(name) / vocabulary).read_bytes())
    with open_model(str(tmp_path)) as found:
        runs = found.graph_encoder(device="cpu", threads=1)
    batch = pixels(name, 3)
    least = min(
        cosines(encoder.encode_images(encoder.put(batch)), runs.encode_images(batch)).min(),
        cosines(encoder.encode_texts(CAPTIONS), runs.encode_texts(CAPTIONS)).min(),
    )
    assert least > (0.9999 if precision == "fp16" else 0.7)  # random and narrow: 8 bits are few


@pytest.mark.slow
def test_only_some_precisions_leave_only_their_folders(tmp_path):
    places = write("vit", tmp_path / "out", precisions=("int8",))
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["onnx-int8"] == [folder.folder_name("int8")]
    assert places["int8"] == tmp_path / "out" / "onnx-int8"


@pytest.mark.parametrize("opset", [17, 99])
def test_an_opset_that_cannot_be_written_is_refused(tmp_path, opset):
    with pytest.raises(InputError, match=f"opset {opset} cannot be written"):
        write("vit", tmp_path / "out", opset=opset)


class Strange(nn.Module):
    """A tower whose output depends on its input in a way that no graph can express."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x[:, 0]).real if float(x.sum()) > 0 else x[:, 0, 0]


def test_what_has_no_onnx_form_is_said(tmp_path, monkeypatch):
    encoder, _ = opened("vit")
    monkeypatch.setattr(type(encoder), "visual", property(lambda self: Strange()))
    with pytest.raises(InputError, match=r"the image tower of ViT.* has no ONNX form: .+") as caught:
        graphs.write(encoder, tmp_path, labels={})
    assert caught.value.hint and "\n" not in caught.value.message
    assert not list(tmp_path.iterdir())


def test_an_encoder_in_another_precision_is_no_source(tmp_path):
    from dataclasses import replace

    encoder, _ = opened("vit")
    rough = replace(encoder, spec=replace(encoder.spec, precision="bf16"))
    with pytest.raises(ValueError, match="float32"):
        graphs.write(rough, tmp_path, labels={})
