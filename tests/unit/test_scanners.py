"""Other scanners are asked where they are installed, and a contradiction is a finding."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from pargate import limits
from pargate.cli.app import app
from pargate.errors import OperationalError, UnsafeCheckpoint
from pargate.models import scanners
from pargate.models.scanners import SCANNERS, files_of, installed, opinions

MODEL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}

PLACES = {"picklescan": "cli.py", "fickling": "__main__.py", "modelscan": "cli.py"}
"""The module of each scanner that is started."""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that installs a scanner whose every answer is one exit code."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    monkeypatch.syspath_prepend(str(libraries))
    monkeypatch.setenv("PYTHONPATH", str(libraries))

    def install(name: str, code: int) -> None:
        (libraries / name).mkdir()
        (libraries / name / "__init__.py").touch()
        program = "import os, pathlib, sys\nassert pathlib.Path(sys.argv[-1]).is_file()\nassert not os.listdir()\n"
        (libraries / name / PLACES[name]).write_text(f"{program}open('results', 'w')\nsys.exit({code})\n")

    return install


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scanner is installed."""
    monkeypatch.setattr(scanners.importlib.util, "find_spec", lambda name: None)


def weights(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(save({"a": np.ones(3, np.float32)}))
    return path


@pytest.mark.parametrize("name", SCANNERS)
@pytest.mark.parametrize(("code", "answer"), [(0, "safe"), (1, "unsafe"), (2, "not read"), (3, "not read")])
def test_an_exit_code_is_an_answer(fake, tmp_path: Path, name: str, code: int, answer: str) -> None:
    fake(name, code)
    (found,) = opinions([name], [weights(tmp_path)])
    assert (found.scanner, found.answer, found.file) == (name, answer, str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("answer", "unsafe", "differs"),
    [
        ("safe", False, False), ("safe", True, True), ("unsafe", False, True), ("unsafe", True, False),
        ("not read", False, False), ("not read", True, False),
    ],
)  # fmt: skip
def test_only_an_answer_can_contradict(answer, unsafe: bool, differs: bool) -> None:
    assert scanners.Opinion("picklescan", "1", "m.pt", answer).differs(unsafe) is differs


def test_a_scanner_that_does_not_end_has_not_read_the_file(fake, tmp_path, monkeypatch) -> None:
    fake("picklescan", 0)
    monkeypatch.setattr(limits, "SCANNER_SECONDS", 0.01)
    (found,) = opinions(["picklescan"], [weights(tmp_path)])
    assert found.answer == "not read"


def test_without_a_scanner_the_extra_is_named(alone: None) -> None:
    with pytest.raises(OperationalError, match="none is installed") as caught:
        installed()
    assert caught.value.hint == "pip install 'pargate[scanners]'"


def test_the_files_of_an_index_and_of_a_folder_are_asked_about(tmp_path: Path) -> None:
    path = weights(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    assert files_of(str(path)) == files_of(str(tmp_path)) == files_of(str(index)) == [path]
    assert files_of("hf-hub:org/model") == []


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_command_lists_every_answer(fake, tmp_path, monkeypatch, code: int) -> None:
    for name in SCANNERS:
        fake(name, code)
    monkeypatch.setattr(scanners, "installed", lambda: list(SCANNERS))
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(os.getcwd))
    result = CliRunner().invoke(app, ["inspect", "--second-opinion", str(path)])
    assert isinstance(result.exception, UnsafeCheckpoint)
    assert all(name in result.output for name in SCANNERS)
    assert ("pargate finds it unsafe, fickling and modelscan and picklescan safe" in str(result.exception)) == (
        code == 0
    )
    assert ("no other scanner read it" in result.output) == (code == 2)


@pytest.mark.parametrize("code", [0, 1])
def test_a_model_that_another_scanner_finds_unsafe_is_a_finding(fake, tmp_path, monkeypatch, code: int) -> None:
    fake("picklescan", code)
    monkeypatch.setattr(scanners, "installed", lambda: ["picklescan"])
    place, out = tmp_path / "model", tmp_path / "found.json"
    synth = {"a.weight": np.ones(3, np.float32)}
    place.mkdir()
    (place / "open_clip_model.safetensors").write_bytes(save(synth))
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL}))
    monkeypatch.setattr("pargate.models.shapes.check", lambda checkpoint: True)
    result = CliRunner().invoke(app, ["inspect", "--second-opinion", str(place), "-o", f"json={out}"])
    assert [said["answer"] for said in json.loads(out.read_text())["second_opinion"]] == ["unsafe" if code else "safe"]
    assert isinstance(result.exception, UnsafeCheckpoint) == bool(code)
    assert not code or "pargate finds it safe, picklescan unsafe" in str(result.exception)


@pytest.mark.parametrize("name", SCANNERS)
def test_the_real_scanners_find_a_call_and_pass_what_is_plain(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name, reason=f"NOT TESTED: {name}; pip install 'pargate[scanners]'")

    class Call:
        def __reduce__(self):
            return os.system, ("true",)

    evil, plain = tmp_path / "evil.pkl", tmp_path / "plain.pkl"
    evil.write_bytes(pickle.dumps(Call(), 4))
    plain.write_bytes(pickle.dumps({"a": [1, 2.5]}, 4))
    assert [opinion.answer for opinion in opinions([name], [evil, plain])] == ["unsafe", "safe"]
