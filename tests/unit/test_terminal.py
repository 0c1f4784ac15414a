"""What a report looks like on a terminal: order, widths, and what may never be cut."""

import io

import pytest
import sample_reports
from rich.console import Console

from pargate.cli.terminal import screen
from pargate.core.report import ScanReport
from pargate.core.results import NO_REFERENCE, Count, Finding, Status
from pargate.report.summary import rule_lines, sentence
from pargate.report.text import about, by_id, original

LONG = "no-trigger-of-any-published-family-may-steer-the-model-of-the-shop"


def shown(report: ScanReport, width: int = 80, **options: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    for part in screen(report, width, verbose=options.get("verbose", False)):
        console.print(part, crop=False)
    return out.getvalue()


def renamed(report: ScanReport, old: str, new: str) -> ScanReport:
    return ScanReport.from_json(report.to_json().replace(f'"{old}"', f'"{new}"'))


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("name", ["failing", "inconclusive", "passing", "remediated", "unsafe", "waived"])
def test_the_verdict_and_the_model_come_first_and_the_next_steps_last(name: str, width: int) -> None:
    report = getattr(sample_reports, name)()
    lines = shown(report, width).splitlines()
    assert lines[0].startswith(f" {report.verdict.status.upper()} ")
    beginning = " ".join(line.strip() for line in lines[:5])
    assert 0 < beginning.index(original(report).source) < beginning.index(sentence(report)[:50])
    assert [line for line in lines if line in ("Not tested", "Stages", "Next")][-1] == "Next"
    for line in rule_lines(report):
        assert sum(f" {line.rule} " in f"{text} " for text in lines) >= 1, line.rule
    long = [line for line in lines if len(line.rstrip()) > width]
    assert all(line.startswith("    pargate ") for line in long), "only commands may be longer"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_name_of_a_rule_is_not_cut(width: int) -> None:
    report = renamed(sample_reports.failing(), "patch-backdoors", LONG)
    text = shown(report, width)
    assert f"✗{LONG}" in "".join(text.split()), "nothing of it is missing"
    assert f" {LONG}" in text or width < len(LONG) + 4, "and it is broken only where the screen is narrower than it is"


def test_a_rule_takes_one_line_and_details_come_with_v() -> None:
    report = sample_reports.failing()
    plain, full = shown(report, 160), shown(report, 160, verbose=True)
    assert "✗  patch-backdoors  1 of 2 breaks: badnet → banana, excess 87.9% [77.6%, 94.6%], limit ≤ 30pp" in plain
    assert "stripes-patch" not in plain and "stripes-patch → zebra" in full
    assert "only image triggers were probed" not in plain and "only image triggers were probed" in full


def test_the_sentence_has_class_share_count_limit_and_confidence() -> None:
    assert sentence(sample_reports.failing()) == (
        "The trigger badnet moves 260 of 290 images (89.7%) to banana, 87.9 points more than its control does. "
        "The policy allows at most 30pp, at 99% confidence."
    )
    for name in ("passing", "inconclusive", "unsafe", "waived", "remediated"):
        report = getattr(sample_reports, name)()
        assert sentence(report) == report.verdict.summary


def test_a_broken_minimum_is_said_in_plain_words() -> None:
    report = sample_reports.failing()
    useful = next(f for f in report.findings if f.rule == "usefulness")
    bounds = tuple(bound.model_copy(update={"status": Status.BREACH}) for bound in useful.bounds)
    broken = useful.model_copy(update={"status": Status.BREACH, "bounds": bounds})
    verdict = report.verdict.model_copy(update={"decided_by": ("usefulness",)})
    counts = {"accuracy": Count(n=500, successes=401)}
    measured = [
        m.model_copy(update={"counts": counts}) if m.id == useful.measurement else m for m in report.measurements
    ]
    found = report.model_copy(update={"findings": (broken,), "verdict": verdict, "measurements": tuple(measured)})
    assert sentence(found) == (
        "The model names 401 of 500 images right (80.2%). The policy allows no less than 55%, at 99% confidence."
    )


def test_why_nothing_follows_from_the_images_is_not_said_with_each_rule() -> None:
    report = sample_reports.failing()
    said = (
        "badnet → banana: within the maximum, but the model is no better than by guessing, from which nothing follows."
    )
    doubted = [
        f.model_copy(update={"status": Status.OPEN, "message": said}) if f.status is Status.MET else f
        for f in report.findings
    ]
    lines = {line.rule: line.text for line in rule_lines(report.model_copy(update={"findings": tuple(doubted)}))}
    assert lines["usefulness"] == "undecided: nothing follows from these images"
    assert "guessing" not in "".join(lines.values())


def test_a_command_is_one_line_that_can_be_copied() -> None:
    text = shown(sample_reports.failing(), 60)
    assert "\n    pargate clean 'checkpoints/vit b-32.safetensors' --pairs PAIRS --out CLEANED\n" in text
    assert "\n    pargate explain patch-backdoors -p 'policies/release gate.yaml'\n" in text


def test_a_green_row_of_one_drawing_says_so() -> None:
    report = sample_reports.passing()
    drawn = [
        m.model_copy(update={"trigger": m.trigger.model_copy(update={"one_drawing": True})}) if m.trigger else m
        for m in report.measurements
    ]
    found = report.model_copy(update={"measurements": tuple(drawn)})
    green = [f for f in found.findings if (m := by_id(found).get(f.measurement or "")) is not None and m.trigger]
    assert green and all("(this one drawing)" in about(f, by_id(found)) for f in green)
    assert "2 of 2 met, by one drawing each of " in shown(found)
    red: Finding = green[0].model_copy(update={"status": Status.BREACH})
    assert "this one drawing" not in about(red, by_id(found)), "what breaks a rule misleads nobody"


def test_a_step_that_the_screen_breaks_goes_on_below_its_text() -> None:
    lines = shown(sample_reports.failing(), 60).splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  → Do not ship"))
    assert lines[at + 1].startswith("    ") and lines[at + 1].strip() and "→" not in lines[at + 1]
    assert all(line.startswith(("  - ", "    ")) for line in lines[lines.index("Not tested") + 1 :][:2])


def test_a_pass_without_a_search_names_the_command_that_searches() -> None:
    report = sample_reports.passing()
    assert "--reference" not in shown(report)
    searched = report.measurements[0].model_copy(update={"stopped": NO_REFERENCE})
    left_out = report.model_copy(update={"measurements": (searched, *report.measurements[1:])})
    assert f"\n    pargate scan '{original(report).source}' --reference PARENT -p " in shown(left_out)
