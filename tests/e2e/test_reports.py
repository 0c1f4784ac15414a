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
    written = (place / "out").read_text(encoding="utf-8")
    # Without a finding that does not hold, GitLab gets an empty list.
    assert written == "[]\n" if (name, form) == ("passing", "code-quality") else len(written) > 100
    to_stdout = light("report", REPORTS / f"{name}.json", "-o", form, "-q")
    assert (to_stdout.code, to_stdout.out) == (ExitCode.OK, written)


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


def test_what_was_not_measured_is_open_under_another_policy(saved: Path, place: Path, light: Command) -> None:
    (place / "p.yaml").write_text(
        "pargate: 1\nname: x\nrules:\n  - {id: new, probe: attack, triggers: [tone], max: {excess: 30pp}}\n"
    )
    ended = light("report", saved, "-p", "p.yaml", "-o", "json")
    assert ended.code == ExitCode.INCONCLUSIVE
    (finding,) = ScanReport.from_json(ended.out).findings
    assert (finding.status, finding.message) == ("open", "tone: not measured.")


def test_a_report_on_other_prompts_than_the_policy_names_is_not_judged(saved: Path, light: Command) -> None:
    ended = light("report", saved, "-p", "paper")
    assert ended.code == ExitCode.INPUT and "prompts are not those of the policy paper" in ended.said


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
    assert passed.code == ExitCode.OK and "30 days left" in passed.said
    late = light("report", "r.json", "-p", "p.yaml", "--now", "2027-01-01")
    assert late.code == ExitCode.FAIL and "waiver-expired" in late.said
    without = light("report", "r.json", "-p", "p.yaml", "--now", "2026-12-01", "--no-waivers")
    assert without.code == ExitCode.FAIL and "waiver-ignored" in without.said


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
    assert words in ended.said and "Traceback" not in ended.said


@pytest.mark.parametrize("option", [["--no-waivers"], ["--strict"], ["--previous", "p.json"], ["--policy-ref", "main"]])
def test_what_bears_on_judging_needs_a_policy(option: list[str], light: Command) -> None:
    ended = light("report", REPORTS / "passing.json", *option)
    assert ended.code == ExitCode.INPUT
    assert f"{option[0]} needs --policy" in ended.said


@pytest.mark.parametrize(
    ("name", "code"),
    [("baseline", 0), ("release", 0), ("audit", 0), ("paper", 0), pytest.param("strict", 1, marks=pytest.mark.nightly)],
)
def test_every_shipped_policy_runs_on_the_clean_toy_model(name: str, code: int, tmp_path: Path) -> None:
    from pargate.cli.app import run

    # Under strict what is not decided fails, and stripes pull this toy almost as far as its limit by nature.
    assert run(["scan", str(POISONED.parent / "clean"), "-p", name, "--cache", str(tmp_path), "-q"]) == code


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.update(trigger=None),
        lambda m: m.update(probe="utility"),
        lambda m: m["target"].update(name="dog", given=True),
        lambda m: m["trigger"].update(digest="0" * 64),
    ],
)
def test_a_measurement_of_something_else_answers_nothing(
    spoil: Callable[[Any], None], saved: Path, place: Path, light: Command
) -> None:
    report = json.loads(saved.read_bytes())
    measured = next(m for m in report["measurements"] if "triangles" in m["id"])
    measured["counts"]["attack_success"]["successes"] = 0
    measured["pairs"] = None
    measured["target"]["given"] = False
    (place / "p.yaml").write_text(
        "pargate: 1\nname: x\nrules:\n  - {id: blended-triggers, probe: attack, target: banana, "
        "triggers: [{kind: triangles, scale: proportional}], max: {excess: 30pp}}\n"
    )
    measured["id"] = measured["id"].replace("unknown", "banana")
    measured["target"].update(name="banana", given=True)
    (place / "r.json").write_text(json.dumps(report))
    assert light("report", "r.json", "-p", "p.yaml").code == ExitCode.OK, "as it stands it answers"
    spoil(measured)
    (place / "r.json").write_text(json.dumps(report))
    assert light("report", "r.json", "-p", "p.yaml").code == ExitCode.INCONCLUSIVE


def test_a_report_that_measured_nothing_or_too_little_is_never_passed_again(place: Path, light: Command) -> None:
    report = json.loads((REPORTS / "passing.json").read_bytes())
    (place / "r.json").write_text(json.dumps({**report, "measurements": []}))
    assert light("report", "r.json", "-p", "baseline").code == ExitCode.INCONCLUSIVE
    (place / "p.yaml").write_text(
        "pargate: 1\nname: x\nimages: {min: 100000}\nrules:\n  - {id: u, probe: utility, min: {accuracy: 1%}}\n"
    )
    few = light("report", REPORTS / "passing.json", "-p", "p.yaml")
    assert few.code == ExitCode.INPUT and "asks for 100000" in few.said
