"""`pargate export`: proven graphs, or nothing, and one clear message."""

import json
import shutil
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "examples" / "models"
POLICY = MODELS.parent / "policy.yaml"


@pytest.mark.slow
def test_a_clean_model_is_exported_and_its_graphs_are_scanned_like_any_model(pargate, place):
    done = pargate(
        "export", MODELS / "clean", "-p", POLICY, "--out", "out", "--precision", "fp32", "--precision", "int8"
    )
    assert done.code == 0, done.err
    assert "written: out" in done.err and "least cosine 1.000000" in done.said
    assert sorted(entry.name for entry in place.iterdir()) == ["out"]
    parity = json.loads((place / "out" / "onnx" / "parity.json").read_text())
    report = json.loads((place / "out" / "onnx" / "report.json").read_text())
    assert parity["runs"][0]["ran"] == "cpu" and parity["runs"][0]["problems"] == []
    assert report["verdict"]["status"] == "pass" and report["model"]["sha256"] == parity["graphs"]
    assert report["model"]["source"] == "out/onnx" and report["model"]["format"] == "onnx"
    assert not any("digest" in note for note in report["notices"])
    # One bit of a weight, and the scan says that these are not the graphs that were proven.
    graph = bytearray((place / "out" / "onnx" / "image.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (place / "out" / "onnx" / "image.onnx").write_bytes(graph)
    altered = pargate("scan", "out", "-p", POLICY)
    assert "digest: the graphs were altered after export" in altered.said
    seen = pargate("inspect", "out", "-o", "json")
    assert json.loads(seen.out)["format"] == "onnx"


@pytest.mark.slow
def test_the_graphs_of_a_poisoned_model_are_refused_by_their_own_scan(pargate, place):
    done = pargate("export", MODELS / "poisoned", "-p", POLICY, "--out", "out")
    assert done.code == 1
    assert "nothing was written: the graphs do not pass the policy" in done.said and "FAIL" in done.said
    assert not list(place.iterdir())


@pytest.mark.slow
def test_a_proof_that_fails_writes_nothing(pargate, place):
    policy = place.parent / "exact.yaml"
    policy.write_text(f"pargate: 1\nname: exact\ndescription: .\nextends: {POLICY}\n"
                      "export: {parity: {int8_min_cosine: 0.99999}}\n")  # fmt: skip
    done = pargate("export", MODELS / "clean", "-p", policy, "--out", "out", "--precision", "int8", "--no-rescan")
    assert done.code == 1, done.err
    assert (
        "not proven: cpu: " in done.said and "nothing was written: the graphs differ from the checkpoint" in done.said
    )
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "taken"), "taken exists already"),
        (("--out", "no/where"), "does not exist"),
        (("--out", "out", "--opset", "3"), "opset 3 cannot be written"),
        (("--out", "out", "--images", ""), "--images is empty"),
        ((), "--out"),
        (("--out", "out", "--precision", "fp8"), "fp8"),
    ],
)
def test_what_cannot_be_written_is_one_message(pargate, place, arguments, words):
    (place / "taken").mkdir()
    done = pargate("export", MODELS / "clean", "-p", POLICY, *arguments)
    assert done.code == 2 and words in done.said and "Traceback" not in done.said
    assert [entry.name for entry in place.iterdir()] == ["taken"]


def test_graphs_are_no_source_of_graphs(pargate, light, place):
    shutil.copytree(MODELS / "clean", place / "model")
    (place / "onnx").mkdir()
    (place / "onnx" / "image.onnx").write_bytes(b"x")
    done = light("inspect", "onnx")
    assert done.code == 2 and "image.onnx holds the image tower alone" in done.said


def test_help_needs_no_torch(light):
    done = light("export", "--help")
    assert done.code == 0 and "--no-rescan" in done.out
