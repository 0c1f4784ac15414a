"""Graphs behind the face of every encoder: the same contract as torch's, and honest about what runs them."""

import contextlib
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_models import exported, opened

from pargate.core.stamp import Mix
from pargate.errors import InputError, OperationalError
from pargate.models import onnx as adapter
from pargate.models.onnx import OnnxEncoder, normalised
from pargate.models.open import open_model
from pargate.triggers import TRIGGERS

CAPTIONS = ["a photo of a dog", "a", "", "one two three four", "a very long caption " * 9, "<end_of_text> x"]


@pytest.fixture(scope="module")
def runs() -> OnnxEncoder:
    with open_model(str(exported("vit"))) as found:
        return found.graph_encoder(device="cpu", threads=1)


def pixels(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def test_vectors_are_unit_rows_in_order(runs):
    images, texts = runs.encode_images(runs.put(pixels(5))), runs.encode_texts(CAPTIONS)
    for vectors in (images, texts):
        assert vectors.dtype == np.float32 and vectors.shape[1] == runs.spec.dim
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(runs.encode_texts(CAPTIONS[::-1]), texts[::-1], atol=1e-6)
    np.testing.assert_array_equal(runs.encode_images(runs.put(pixels(5))), images)


def test_no_captions_and_no_images_give_no_vectors(runs):
    assert runs.encode_texts([]).shape == (0, runs.spec.dim)
    assert runs.encode_images(runs.put(pixels(0))).shape == (0, runs.spec.dim)


@pytest.mark.parametrize("kind", ["blended", "badnet", "sig", "wanet", "tone"])
def test_stamped_vectors_are_torchs(runs, kind):
    encoder, _ = opened("vit")
    batch = pixels(5)
    kept = batch.copy()
    stamp = TRIGGERS[kind]().draw((32, 32), [f"{i:064x}" for i in range(5)], 0)
    wanted = encoder.encode_images(encoder.put(batch), stamp)
    np.testing.assert_allclose(runs.encode_images(runs.put(batch), stamp), wanted, atol=1e-5)
    np.testing.assert_array_equal(batch, kept)


def test_many_images_and_captions_go_through_a_few_at_a_time(runs, monkeypatch):
    batch, texts = pixels(7), [" ".join(["word"] * n) for n in range(9)]
    offset = np.random.default_rng(0).integers(-(90 << 16), 90 << 16, (7, 32, 32, 3), dtype=np.int32)
    stamp = Mix(np.full((1, 1, 1, 1), 1 << 16, np.int32), offset, "clip")
    whole, wholly = runs.encode_images(batch, stamp), runs.encode_texts(texts)
    monkeypatch.setitem(adapter.AT_A_TIME, "cpu", 3)
    np.testing.assert_allclose(runs.encode_images(batch, stamp), whole, atol=1e-6)
    np.testing.assert_allclose(runs.encode_texts(texts), wholly, atol=1e-6)


def test_a_graph_is_fed_the_bits_that_torchs_tower_is_fed(runs):
    encoder, _ = opened("vit")
    every = np.arange(256, dtype=np.uint8).repeat(12).reshape(1, 32, 32, 3)
    fed = encoder._normalised(encoder.put(every)).numpy()
    np.testing.assert_array_equal(normalised(every, runs.spec), fed)


def test_other_pictures_are_refused(runs):
    for wrong in (pixels(2).astype(np.float32), pixels(2)[0], pixels(2)[:, :16], pixels(2)[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            runs.put(wrong)


def test_the_spec_says_what_runs(runs):
    encoder, _ = opened("vit")
    assert runs.spec.backend == f"onnxruntime {onnxruntime.__version__}, CPUExecutionProvider"
    assert runs.spec == replace(encoder.spec, backend=runs.spec.backend)
    assert (runs.provider, runs.note) == ("cpu", "")


def test_graphs_keep_their_precision(runs):
    assert runs.into_precision("fp32") is runs
    with pytest.raises(InputError, match="are in fp32, and cannot run in bf16"):
        runs.into_precision("bf16")


class Session:
    """A runtime that takes every provider and runs on some."""

    def __init__(self, *found: str) -> None:
        self.found = found

    def get_providers(self) -> list[str]:
        return [*self.found, "CPUExecutionProvider"]


def pretend(monkeypatch: pytest.MonkeyPatch, *found: str) -> list[Any]:
    """A build for CUDA and TensorRT in which only `found` run; gives back what was asked for."""
    asked: list[Any] = []

    def session(content: bytes, options: Any, providers: list[Any]) -> Session:
        asked.append(providers)
        return Session(*found)

    everything = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write("cannot find libcuda"), raising=False)
    return asked


def opening(device: str) -> OnnxEncoder:
    with open_model(str(exported("vit"))) as found:
        return found.graph_encoder(device=device)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "tensorrt"])
def test_a_provider_that_fell_back_is_an_error_where_it_was_asked_for(monkeypatch, device, capsys):
    pretend(monkeypatch)
    with pytest.raises(OperationalError, match=r"fell back from .*ExecutionProvider to CPUExecutionProvider"):
        opening(device)
    assert capsys.readouterr().out == ""


def test_tensorrt_that_fell_back_to_cuda_did_not_run(monkeypatch):
    pretend(monkeypatch, "CUDAExecutionProvider")
    with pytest.raises(OperationalError, match="from TensorrtExecutionProvider to CUDAExecutionProvider"):
        opening("tensorrt")


def test_auto_takes_what_runs_and_says_what_did_not(monkeypatch):
    pretend(monkeypatch)
    fell = opening("auto")
    assert (fell.provider, fell.spec.device) == ("cpu", "cpu")
    assert fell.note == "CUDAExecutionProvider fell back to CPUExecutionProvider"
    asked = pretend(monkeypatch, "CUDAExecutionProvider")
    ran = opening("auto")
    assert (ran.provider, ran.note, ran.spec.device) == ("cuda", "", "cuda:0")
    (name, options), last = asked[0]
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"device_id": 0, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}


def test_a_device_that_is_none_is_refused():
    for device in ("gpu", "cpu:1", "auto:0", "cuda:x", "tensorrt:", ""):
        with pytest.raises(InputError, match="unknown device"):
            opening(device)


def test_nothing_is_printed_where_no_gpu_is(capfd):
    for device in ("auto", "cuda", "tensorrt"):
        with contextlib.suppress(OperationalError):
            opening(device)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_a_graph_that_the_runtime_cannot_open_is_refused(tmp_path: Path):
    shutil.copytree(exported("vit"), tmp_path / "g")
    made = onnx.load(tmp_path / "g" / "text.onnx")
    product = next(node for node in made.graph.node if node.op_type == "MatMul")
    product.input[1] = product.input[0]  # shapes that do not fit
    onnx.save(made, tmp_path / "g" / "text.onnx")
    with pytest.raises(InputError, match=r"text"), open_model(str(tmp_path / "g")) as found:
        found.graph_encoder(device="cpu").encode_texts(["a"])


def test_a_tokenizer_with_more_words_than_the_graph_is_refused(tmp_path: Path):
    shutil.copytree(exported("vit"), tmp_path / "g")
    made = onnx.load(tmp_path / "g" / "text.onnx")
    table = next(t for t in made.graph.initializer if t.name.endswith("token_embedding.weight"))
    table.raw_data, table.dims[0] = table.raw_data[: 100 * 32 * 4], 100
    onnx.save(made, tmp_path / "g" / "text.onnx")
    with open_model(str(tmp_path / "g")) as found:
        runs = found.graph_encoder(device="cpu")
    with pytest.raises(InputError, match="refuses its tokens"):
        runs.encode_texts(["a dog"])


def test_memory_that_ran_out_is_said(runs, monkeypatch):
    class Full:
        def run(self, *arguments: Any) -> Any:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

    with pytest.raises(OperationalError, match="out of memory while encoding 2 images"):
        replace(runs, _image=replace(runs._image, session=Full())).encode_images(pixels(2))


def test_captions_of_the_same_tokens_have_the_very_same_vector(runs):
    captions = ["a cat", "a dog and a very long story", "A  CAT", "one", "two", "a cat"]
    found = runs.encode_texts(captions)
    assert (runs.tokenize(["a cat"]) == runs.tokenize(["A  CAT"])).all()
    assert (found[2] == found[0]).all() and (found[5] == found[0]).all()
    assert found[[1, 3]] == pytest.approx(np.concatenate([runs.encode_texts([captions[i]]) for i in (1, 3)]), abs=1e-5)
