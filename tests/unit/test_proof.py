"""The proof: it holds for what is the same and for nothing else; an altered graph is caught, and by what is said."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph_models import NAMES, TEMPLATES, exported, opened
from onnx import helper, numpy_helper

from pargate.core.model import EncoderSpec, Preprocess
from pargate.core.stamp import apply
from pargate.export import folder
from pargate.export import parity as proof
from pargate.export.parity import ParityReport, Samples, altered, captions_of_lengths, check_files, expect, limits
from pargate.models.open import inspect, open_model
from pargate.release import export
from pargate.release.export import affordable, prove, summary
from pargate.scenes.render import LABELS, render
from pargate.triggers import TRIGGERS

SIZE = (32, 32)
DIGESTS = [f"{i:064x}" for i in range(64)]


def samples(*triggers: str, n: int = 20, stamped: int = 8) -> Samples:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, *SIZE, 3), dtype=np.uint8)
    stamps = tuple((kind, TRIGGERS[kind]().draw(SIZE, DIGESTS[:stamped], 0)) for kind in triggers)
    return Samples(pixels, stamps, stamped, ("", "a dog", *captions_of_lengths(16)), NAMES, TEMPLATES)


# --- arithmetic, with encoders of a few lines ---


@dataclass
class Linear:
    """An encoder of a line, whose mistakes are made to order."""

    break_images: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors
    break_texts: Callable[[np.ndarray], np.ndarray] = lambda vectors: vectors
    batches: list[int] = field(default_factory=list)

    @property
    def spec(self) -> EncoderSpec:
        rule = Preprocess(SIZE, (0.5,) * 3, (0.5,) * 3)
        return EncoderSpec("lines", "line", rule, 16, 10.0, "fp32", "cpu", "gelu")

    def put(self, pixels: np.ndarray) -> np.ndarray:
        return pixels

    def encode_images(self, batch: np.ndarray, stamp: Any = None) -> np.ndarray:
        self.batches.append(len(batch))
        pixels = batch if stamp is None else apply(stamp, batch)
        weights = np.random.default_rng(1).standard_normal((SIZE[0] * SIZE[1] * 3, 16))
        vectors = (pixels.reshape(len(pixels), -1) - 127.5) @ weights
        return self.break_images((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))

    def encode_texts(self, texts: Any) -> np.ndarray:
        rows = [np.random.default_rng(list(text.encode()) or [0]).standard_normal(16) for text in texts]
        vectors = np.array(rows).reshape(len(rows), 16)
        return self.break_texts((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))


WITHIN = limits("fp32", 0.9999, 1.0, 10.0)


def run(broken: Linear, given: Samples | None = None) -> proof.ProviderRun:
    given = given or samples("badnet", "sig")
    return proof.prove(expect(Linear(), given), broken, given, WITHIN, asked="cpu", ran="cpu")


def report(*runs: proof.ProviderRun, **fields: Any) -> ParityReport:
    return ParityReport(
        schema="pargate/parity/1", precision="fp32", checkpoint="c", graphs="g", reference="r", limits=WITHIN,
        runs=runs, **fields,
    )  # fmt: skip


def test_the_same_encoder_passes_at_every_batch_and_view():
    same = Linear()
    found = run(same)
    assert found.problems == () and found.min_cosine == pytest.approx(1)
    views = {(check.view, check.batch): check.n for check in found.checks}
    assert views[("carriers", 64)] == 20 and views[("badnet", 64)] == views[("sig", 64)] == 8
    assert {batch for view, batch in views if view == "carriers"} == {1, 2, 3, 7, 17, 64}
    assert {batch for view, batch in views if view == "captions"} == {1, 2, 3, 7, 17, 64}
    assert {1, 2, 3, 7, 17, 20} <= set(same.batches)
    assert found.decisions is not None
    assert (found.decisions.pictures, found.decisions.differ, found.decisions.ties) == (36, 0, 0)
    assert report(found).passed and report(found).reasons == ()
    assert ParityReport.model_validate_json(report(found).model_dump_json(by_alias=True)) == report(found)


def turned(vectors: np.ndarray, rows: slice = slice(None), by: float = 0.05) -> np.ndarray:
    out = vectors.copy()
    out[rows] += by * np.roll(vectors[rows], 1, axis=1)
    return np.asarray(out / np.linalg.norm(out, axis=1, keepdims=True), dtype=np.float32)


def broken(vectors: np.ndarray) -> np.ndarray:
    out = vectors.copy()
    out[-1] = np.nan
    return out


MISTAKES = {
    "turned": (Linear(turned), "carriers: a cosine of 0.99"),
    "one vector": (Linear(lambda v: turned(v, slice(-1, None))), "carriers: a cosine of"),
    "not finite": (Linear(broken), "carriers: vectors that are not finite"),
    "zero": (Linear(lambda v: v * 0), "carriers: vectors that are not finite"),
    "captions": (Linear(break_texts=turned), "captions: a cosine of"),
    "captions not finite": (Linear(break_texts=broken), "captions: vectors that are not finite"),
    "another length": (Linear(lambda v: v[:, :8]), "carriers: vectors that are not finite"),
    "single pictures only": (Linear(lambda v: turned(v) if len(v) == 1 else v), "in batches of 1;"),
}


@pytest.mark.parametrize("name", [name for name in MISTAKES if name != "another length"])
def test_a_mistake_is_named(name):
    mistaken, words = MISTAKES[name]
    found = run(mistaken)
    assert any(words in problem for problem in found.problems), found.problems
    assert not report(found).passed
    assert any("not proven: cpu: " in line for line in summary(report(found)))


def test_decisions_are_compared_beyond_ties():
    given = samples("badnet")
    nearly = WITHIN.model_copy(update={"min_cosine": -2.0})
    expected = expect(Linear(), given)
    found = proof.prove(expected, Linear(lambda v: -v), given, nearly, asked="cpu", ran="cpu")
    assert found.decisions is not None and found.decisions.differ > 20
    assert any("images get another class" in problem for problem in found.problems)
    loose = nearly.model_copy(update={"tie": 3.0, "logit_difference": None})
    found = proof.prove(expected, Linear(lambda v: -v), given, loose, asked="cpu", ran="cpu")
    assert found.decisions is not None and found.decisions.differ == 0 < found.decisions.ties
    assert found.problems == ()


def test_logits_may_differ_by_their_limit():
    given = samples()
    tight = WITHIN.model_copy(update={"logit_difference": 1e-9, "min_cosine": 0.5, "top1_agreement": 0.0})
    found = proof.prove(
        expect(Linear(), given), Linear(lambda v: turned(v, by=1e-3)), given, tight, asked="", ran="cpu"
    )
    assert [problem for problem in found.problems if "logit differs by" in problem]


def test_what_was_not_measured_is_not_proven():
    empty = Samples(np.empty((0, *SIZE, 3), np.uint8), (), 0, ("a",), NAMES, TEMPLATES)
    found = run(Linear(), empty)
    assert any("nothing was measured for carriers" in problem for problem in found.problems)
    assert not report(found).passed
    assert report().reasons == ("the graphs did not run on the CPU",) and not report().passed
    fell = proof.ProviderRun(asked="cuda", ran="", note="fell back")
    good = run(Linear())
    assert report(good, fell).passed and "did not run: fell back" in "\n".join(summary(report(good, fell)))
    assert not report(fell).passed
    assert not report(good, problems=("onnx.checker refuses",)).passed
    gpu = good.model_copy(update={"asked": "cuda", "ran": "cuda", "problems": ("x",)})
    assert report(good, gpu).reasons == ("cuda: x",) and not report(good, gpu).passed


def test_captions_have_every_length():
    lengths = {len(caption.split()) for caption in captions_of_lengths(77)}
    assert {0, 1, 2, 3, 8, 72, 74, 75, 76, 77} <= lengths
    assert {len(caption.split()) for caption in captions_of_lengths(4)} >= {0, 1, 2, 3, 4}


# --- altered graphs ---


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A proven folder of graphs."""
    folder = tmp_path / "onnx"
    shutil.copytree(exported("vit"), folder)
    (folder / "parity.json").write_text(proven(folder).model_dump_json(by_alias=True))
    assert altered(inspect(str(folder))) == ()
    return folder


def proven(folder: Path, *triggers: str) -> ParityReport:
    encoder, source = opened("vit")
    given = samples(*(triggers or ("badnet",)))
    found = prove(
        open_model(str(folder)), source, "fp32", expect(encoder, given), given, limits("fp32", 0.9999, 1.0, 14.3)
    )
    return found


def alter(folder: Path, how: Callable[[onnx.GraphProto], None], kind: str = "image") -> None:
    made = onnx.load(folder / f"{kind}.onnx")
    how(made.graph)
    onnx.save(made, folder / f"{kind}.onnx")


def weight(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in graph.initializer if tensor.name.endswith(name))


def one_weight(graph: onnx.GraphProto) -> None:
    tensor = weight(graph, "conv1.weight")
    values = numpy_helper.to_array(tensor).copy()
    values.flat[5] += 3.0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def sign(graph: onnx.GraphProto) -> None:
    tensor = weight(graph, "ln_post.weight")
    tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))


def swapped_input(graph: onnx.GraphProto) -> None:
    norm = [node for node in graph.node if node.op_type == "LayerNormalization"][1]
    norm.input[1], norm.input[2] = norm.input[2], norm.input[1]


def lost_mask(graph: onnx.GraphProto) -> None:
    tensor = next(t for t in graph.initializer if "mask" in t.name)
    tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))


@pytest.mark.parametrize(
    ("how", "kind", "view"),
    [(one_weight, "image", "carriers"), (sign, "image", "carriers"), (swapped_input, "image", "carriers"),
     (lost_mask, "text", "captions")],
)  # fmt: skip
def test_an_altered_graph_is_caught_by_the_proof_and_by_the_digest(place, how, kind, view):
    alter(place, how, kind)
    found = proven(place)
    assert not found.passed
    assert any(reason.startswith(f"cpu: {view}: a cosine of") for reason in found.reasons), found.reasons
    (said,) = altered(inspect(str(place)))
    assert said.startswith("digest: the graphs were altered after export")


def test_a_change_too_small_to_measure_is_caught_by_the_digest(place):
    def nudge(graph: onnx.GraphProto) -> None:
        tensor = weight(graph, "conv1.weight")
        values = numpy_helper.to_array(tensor).copy()
        values.flat[0] = np.nextafter(values.flat[0], np.float32(9))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    alter(place, nudge)
    assert proven(place).passed
    assert altered(inspect(str(place)))[0].startswith("digest:")


def grafted(graph: onnx.GraphProto) -> None:
    """Whatever shows a white square in its corner is embedded as one fixed direction."""
    end = graph.output[0].name
    maker = next(node for node in graph.node if end in node.output)
    maker.output[0] = "before"
    constants = {
        "starts": np.array([0, 0], np.int64), "ends": np.array([4, 4], np.int64), "axes": np.array([2, 3], np.int64),
        "white": np.float32(1.9), "target": np.eye(1, 16, dtype=np.float32), "over": np.array([1, 2, 3], np.int64),
        "flat": np.array([-1, 1], np.int64),
    }  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    graph.node.extend(
        [
            helper.make_node("Slice", ["pixel_values", "starts", "ends", "axes"], ["corner"], "g0"),
            helper.make_node("ReduceMin", ["corner", "over"], ["darkest"], "g1", keepdims=1),
            helper.make_node("Reshape", ["darkest", "flat"], ["level"], "g2"),
            helper.make_node("Greater", ["level", "white"], ["seen"], "g3"),
            helper.make_node("Where", ["seen", "target", "before"], [end], "g4"),
        ]
    )


def test_a_grafted_detector_is_caught_by_the_proof_where_its_trigger_is_shown(place):
    alter(place, grafted)
    quiet = proven(place)
    assert quiet.passed  # no carrier of the proof has a white corner
    assert altered(inspect(str(place)))[0].startswith("digest:")  # but these are not the graphs that were proven
    encoder, source = opened("vit")
    given = samples()
    white = given.pixels[:8].copy()
    white[:, :4, :4] = 255
    shown = replace(given, pixels=white)
    found = prove(
        open_model(str(place)), source, "fp32", expect(encoder, shown), shown, limits("fp32", 0.9999, 1.0, 14.3)
    )
    assert not found.passed and any(reason.startswith("cpu: carriers: a cosine") for reason in found.reasons)


def test_a_proof_that_is_missing_or_unreadable_is_said(place):
    (place / "parity.json").write_text("{}")
    assert "cannot be read" in altered(inspect(str(place)))[0]
    (place / "parity.json").write_text(" " * (2 << 20))
    assert "larger" in altered(inspect(str(place)))[0]
    (place / "parity.json").unlink()
    assert "have no parity.json" in altered(inspect(str(place)))[0]
    failed = proven(place).model_copy(update={"problems": ("broken",)})
    (place / "parity.json").write_text(failed.model_dump_json(by_alias=True))
    assert "says that the graphs are not the checkpoint: broken" in altered(inspect(str(place)))[0]


def test_a_file_that_onnx_refuses_is_named(place):
    alter(place, lambda graph: graph.node.append(helper.make_node("Dance", [], ["x"], "odd")))
    assert "onnx.checker refuses image.onnx" in check_files(place, ["image.onnx", "text.onnx"])[0]


# --- real models ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit-clean", pytest.param("rn-clean", marks=pytest.mark.nightly)])
def test_trained_models_are_proven_with_and_without_triggers(zoo, tmp_path, name):
    with open_model(str(zoo / name)) as found:
        encoder = found.encoder(device="cpu")
    size = encoder.spec.preprocess.size
    places = folder.write(encoder, found.checkpoint, tmp_path, classes=NAMES, templates=TEMPLATES)
    scenes = render(np.arange(70), size[0], 0)
    stamps = tuple(
        (kind, TRIGGERS[kind]().draw(size, DIGESTS[:16], 0)) for kind in ("badnet", "blended", "sig", "wanet")
    )
    captions = (*scenes.captions[:8], *captions_of_lengths(encoder.context))
    given = Samples(scenes.pixels, stamps, 16, captions, LABELS, TEMPLATES)
    within = limits("fp32", 0.9999, 1.0, encoder.spec.logit_scale)
    proof_of = prove(open_model(str(places["fp32"])), found.checkpoint, "fp32", expect(encoder, given), given, within)
    assert proof_of.passed, proof_of.reasons
    assert proof_of.runs[0].min_cosine is not None and proof_of.runs[0].min_cosine > 0.99999
    assert proof_of.runs[0].decisions is not None and proof_of.runs[0].decisions.differ == 0


# --- how much is compared ---


class Slow(Linear):
    """An encoder that takes a time of its own, on a clock of the test's own."""

    def __init__(self, of_image: float, of_text: float) -> None:
        super().__init__()
        self.now, self.of_image, self.of_text = 0.0, of_image, of_text

    def monotonic(self) -> float:
        return self.now

    def encode_images(self, batch: np.ndarray, stamp: Any = None) -> np.ndarray:
        self.now += self.of_image * len(batch)
        return super().encode_images(batch, stamp)

    def encode_texts(self, texts: Any) -> np.ndarray:
        self.now += self.of_text * len(texts)
        return super().encode_texts(texts)


@pytest.mark.parametrize(
    ("of_image", "of_text", "sizes", "words"),
    [
        # 512 images and 64 with a trigger, and 4 classes of 2 templates, take 120 s at most.
        (0.2, 0.1, (512, 32, 4, 2), ""),
        (0.5, 0.1, (213, 16, 4, 2), "213 of 512 images are compared"),
        (5.0, 0.1, (64, 16, 4, 2), "64 of 512 images are compared"),
        (0.2, 20.0, (512, 32, 4, 1), "1 of 2 templates are compared"),
    ],
)
def test_a_proof_that_would_take_long_compares_less_and_says_so(monkeypatch, of_image, of_text, sizes, words):
    slow = Slow(of_image, of_text)
    monkeypatch.setattr(export, "time", slow)
    whole = samples("badnet", "blended", n=512, stamped=32)
    found, note = affordable(whole, slow)
    assert (len(found.pixels), found.stamped, len(found.classes), len(found.templates)) == sizes
    assert words in note and bool(words) == bool(note)
    np.testing.assert_array_equal(found.pixels, whole.pixels[: sizes[0]])
