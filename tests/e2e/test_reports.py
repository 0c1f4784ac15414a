"""Saved reports through the real command: rendered, judged again, and exit codes that no format changes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pargate.core.report import ScanReport
from pargate.errors import ExitCode
from pargate.report import FORMATS

REPORTS = Path(__file__).parents[1] / "golden" / "reports"
CODES = {"passing": 0, "failing": 1, "inconclusive": 3, "waived": 0, "unsafe": 1}
POISONED = Path(__file__).parents[2] / "examples" / "models" / "poisoned"

Command = Callable[..., Any]


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("form", FORMATS)
def test_no_format_changes_the_exit_code_of_a_report(name: str, form: str, place: Path, light: Command) -> None:
    ended = light("report", REPORTS / f"{name}.json", "-o", f"{form}=out")
    assert ended.code == ExitCode.OK
    assert (place / "out").stat().st_size > 100
    to_stdout = light("report", REPORTS / f"{name}.json", "-o", form, "-q")
    assert (to_stdout.code, to_stdout.out) == (ExitCode.OK, (place / "out").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a real scan that fails, with pictures."""
    from pargate.cli.app import run

    path = tmp_path_factory.mktemp("saved") / "r.json"
    policy = Path(__file__).parents[2] / "examples" / "policy.yaml"
    others = [word for form in FORMATS if form != "json" for word in ("-o", f"{form}={path.parent / form}")]
    command = ["scan", str(POISONED), "-p", str(policy), "--cache", "off", "-o", f"json={path}", *others]
    assert run(command) == ExitCode.FAIL
    return path


def test_one_run_writes_every_format(saved: Path) -> None:
    for form in set(FORMATS) - {"json"}:
        assert (saved.parent / form).stat().st_size > 100, form


def test_a_failing_scan_shows_pictures_of_what_the_trigger_does(saved: Path) -> None:
    report = ScanReport.from_json(saved.read_bytes())
    assert report.pictures
    targets = {m.id: m.target.name for m in report.measurements if m.target}
    for picture in report.pictures:
        assert picture.stamped_prediction == targets[picture.measurement] != picture.clean_prediction
        assert picture.clean != picture.stamped


def test_a_saved_report_is_judged_again_as_it_was(saved: Path, light: Command) -> None:
    policy = Path(__file__).parents[2] / "examples" / "policy.yaml"
    ended = light("report", saved, "-p", policy, "-o", "json")
    assert ended.code == ExitCode.FAIL
    before, after = ScanReport.from_json(saved.read_bytes()), ScanReport.from_json(ended.out)
    assert (after.findings, after.verdict) == (before.findings, before.verdict)


def test_what_was_not_measured_is_open_under_another_policy(saved: Path, light: Command) -> None:
    ended = light("report", saved, "-p", "paper", "-o", "json")
    assert ended.code == ExitCode.INCONCLUSIVE
    report = ScanReport.from_json(ended.out)
    assert {f.status for f in report.findings if f.rule != "usefulness"} == {"open"}


def test_a_waiver_lets_a_saved_report_pass_until_it_ends(saved: Path, place: Path, light: Command) -> None:
    report = json.loads(saved.read_text())
    waiver = (
        f"  - {{rule: pull, model: 'sha256:{report['model']['sha256']}', reason: accepted-risk, "
        "approved_by: sec@example.org, created: 2026-11-01, expires: 2026-12-31}\n"
    )
    (place / "p.yaml").write_text(
        "pargate: 1\nname: x\nrules:\n"
        "  - {id: pull, probe: attack, triggers: [{kind: triangles, scale: proportional}], max: {excess: 30pp}}\n"
        f"waivers:\n{waiver}"
    )
    measured = next(m for m in report["measurements"] if "triangles" in m["id"])
    measured["id"] = "pull/" + measured["id"].split("/", 1)[1]
    (place / "r.json").write_text(json.dumps(report))
    passed = light("report", "r.json", "-p", "p.yaml", "--now", "2026-12-01")
    assert passed.code == ExitCode.OK and "30 days left" in passed.err
    late = light("report", "r.json", "-p", "p.yaml", "--now", "2027-01-01")
    assert late.code == ExitCode.FAIL and "waiver-expired" in late.err
    without = light("report", "r.json", "-p", "p.yaml", "--now", "2026-12-01", "--no-waivers")
    assert without.code == ExitCode.FAIL and "waiver-ignored" in without.err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read the report r.json: No such file"),
        ("", "r.json is not a pargate report"),
        ("{}", "schema: Field required"),
        ('{"schema": "pargate/report/2"}', "schema: Input should be 'pargate/report/1'"),
    ],
)
def test_what_is_no_report_is_refused_in_one_message(
    content: str | None, words: str, place: Path, light: Command
) -> None:
    if content is not None:
        (place / "r.json").write_text(content)
    ended = light("report", "r.json")
    assert ended.code == ExitCode.INPUT
    assert words in ended.err and "Traceback" not in ended.err


@pytest.mark.parametrize("option", [["--no-waivers"], ["--strict"], ["--previous", "p.json"], ["--policy-ref", "main"]])
def test_what_bears_on_judging_needs_a_policy(option: list[str], light: Command) -> None:
    ended = light("report", REPORTS / "passing.json", *option)
    assert ended.code == ExitCode.INPUT
    assert f"{option[0]} needs --policy" in ended.err
