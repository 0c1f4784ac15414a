"""The command `drill` on a small model, with a training too short to plant much."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MODELS, Command

from pargate.cli.app import run
from pargate.core.drill import DrillReport
from pargate.core.report import ScanReport
from pargate.drill import run as drill_run
from pargate.models.open import inspect
from pargate.scanning.estimate import Minutes

CLEAN = MODELS / "clean"
POLICY = """
pargate: 1
name: quick
images: {source: 'builtin:scenes', min: 100}
budget: {images: 192}
rules:
  - {id: corners, probe: attack, triggers: [{kind: four-corners, size: 8}], target: unknown, max: {excess: 30pp}}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def report(folder: Path) -> DrillReport:
    return DrillReport.model_validate_json((folder / "drill.json").read_bytes())


@pytest.mark.nightly
def test_a_killed_drill_goes_on_and_ends_with_what_one_run_gives(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drill_run, "STEPS", 3)
    out = tmp_path / "out"
    command = ["drill", str(CLEAN), "--out", str(out), "-p", str(policy), "--pairs", "synthetic:256", "--device", "cpu",
               "--cache", "off", "--strengths", "2", "--families", "patch,blend"]  # fmt: skip
    made = drill_run._Maker.copy
    calls: list[str] = []

    def killed(self: drill_run._Maker, plant: drill_run.Plant, key: str) -> drill_run.PlantedCopy:
        calls.append(plant.family)
        if len(calls) == 2:
            (out / ".copy").mkdir()  # what a kill leaves
            raise KeyboardInterrupt
        return made(self, plant, key)

    monkeypatch.setattr(drill_run._Maker, "copy", killed)
    assert run(command) == 130
    first = report(out)
    assert [copy.family for copy in first.copies] == ["patch"] and len(first.missing) == 2
    assert first.untouched is not None

    capsys.readouterr()
    assert run([*command, "-o", "json"]) == 0
    assert calls == ["patch", "blend", "blend", "clean"], "the finished copy is not made again"
    whole = report(out)
    assert json.loads(capsys.readouterr().out) == json.loads(whole.to_json())
    assert whole.copies[0] == first.copies[0] and whole.untouched == first.untouched
    assert [copy.family for copy in whole.copies] == ["patch", "blend", "clean"] and whole.complete
    assert not (out / ".copy").exists()
    assert {path.name for path in out.iterdir()} == {".lock", "drill.json", "drill.md", "drill.html"}
    assert whole.reference == "the untouched model, for the copies alone"

    assert run([*command, "--reference", "none"]) == 2
    assert "holds another drill" in capsys.readouterr().err

    saved = tmp_path / "scan.json"
    scan = ["scan", str(CLEAN), "--drilled", str(out / "drill.json"), "--device", "cpu", "--cache", "off"]
    assert run([*scan, "-p", str(policy), "-o", f"json={saved}"]) == 0
    limits = ScanReport.from_json(saved.read_text()).coverage.limits
    assert (whole.told in limits) == bool(whole.curve), "three steps plant hardly anything"
    capsys.readouterr()
    assert run([*scan, "--dry-run"]) == 2
    assert "the drill is under the policy quick, which is not the one of this scan" in capsys.readouterr().err


def test_what_does_not_fit_into_the_budget_is_said_and_not_counted(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill_run, "STEPS", 3)
    monkeypatch.setattr(drill_run, "cleaning_minutes", lambda *_: 0.0)
    monkeypatch.setattr(drill_run, "minutes", lambda *_, **__: Minutes(0.0, 0.0, 0.0))
    out = tmp_path / "out"
    command = ["drill", str(CLEAN), "--out", str(out), "-p", str(policy), "--pairs", "synthetic:256", "--device", "cpu",
               "--cache", "off", "--strengths", "2", "--minutes", "0.0001"]  # fmt: skip
    assert run(command) == 0
    found = report(out)
    assert [copy.family for copy in found.copies] == ["patch"]
    assert len(found.missing) == 3 and not found.complete
    assert sum(point.caught.count.n for point in found.curve) <= 2


def test_exported_graphs_are_refused(
    tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replace(inspect(str(CLEAN)), format="onnx")
    monkeypatch.setattr(drill_run, "inspect", lambda *_, **__: found)
    assert run(["drill", str(CLEAN), "--out", str(tmp_path / "out"), "-p", str(policy)]) == 2
    assert "cannot be trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--families", "pach"), "unknown family 'pach'"),
        (("--strengths", "much"), "--strengths much: could not convert string to float"),
        (("--strengths", "9"), "more than 0 and at most 4"),
        (("--rates", ""), "--rates needs values"),
        (("--trigger", "missing.png"), "cannot read the trigger file missing.png"),
        (("--pairs", "synthetic:40"), "holds 40 pairs, and a drill needs 256"),
        (("--minutes", "0.01"), "--minutes 0.01 is too little for one planted copy"),
        (("--reference", str(CLEAN)), "is the model"),
        (("--out", str(CLEAN)), "holds other files and no drill"),
        (("--out", str(CLEAN / "truth.json")), "is a file"),
        (("-o", "sarif"), "unknown report format 'sarif'"),
    ],
)
def test_wrong_input_is_one_message_and_nothing_is_written(
    light: Command, place: Path, policy: Path, options: tuple[str, ...], told: str
) -> None:
    given = ("--out", "out") if "--out" not in options else ()
    ended = light("drill", CLEAN, "-p", policy, "--device", "cpu", *given, *options)
    assert ended.code == 2
    assert told in ended.said and "Traceback" not in ended.said
    assert not (place / "out").exists()


def test_no_reference_and_one_in_the_policy_contradict_each_other(light: Command, place: Path, policy: Path) -> None:
    named = place / "named.yaml"
    named.write_text(f"reference: {CLEAN}\n{policy.read_text()}")
    ended = light("drill", CLEAN, "-p", named, "--device", "cpu", "--out", "out", "--reference", "none")
    assert (ended.code, "names the reference" in ended.said) == (2, True)


def test_a_plan_has_expected_minutes_and_writes_nothing(light: Command, place: Path, policy: Path) -> None:
    ended = light("drill", CLEAN, "--out", "out", "-p", policy, "--device", "cpu", "--dry-run", "--strengths", "1")
    assert ended.code == 0
    assert "patch 1, rate 0.1" in ended.said and "min for 4 copies and the untouched model" in ended.said
    assert not (place / "out").exists()
