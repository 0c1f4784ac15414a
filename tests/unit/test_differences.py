"""What changed between two audits, and what counts as worse."""

from pathlib import Path
from typing import Any

import pytest

from pargate.audit.history import ORDER, accuracy, attack, between, regression
from pargate.audit.run import exit_code
from pargate.core.audit import ModelEntry, ModelState, Standing
from pargate.core.choices import FailOn
from pargate.core.report import ScanReport
from pargate.errors import ExitCode

REPORTS = Path(__file__).parents[1] / "golden" / "reports"
INPUTS = {
    "model": "a" * 64 + " " + "b" * 64, "policy": "c" * 64, "triggers": "d" * 64, "images": "e" * 64,
    "classes": "f" * 64, "seed": "0", "pargate": "1.0", "library torch": "2.11",
}  # fmt: skip


def entry(standing: str, **changes: Any) -> ModelEntry:
    given = {
        "sequence": 1, "previous": "0" * 64, "audit": "a", "time": "2026-11-01T00:00:00+00:00",
        "as_of": "2026-11-01", "model": "m", "source": "m", "standing": standing, "exit_code": 0, "message": "x",
        "inputs": INPUTS,
    }  # fmt: skip
    return ModelEntry(**{**given, **changes})


@pytest.mark.parametrize("before", ORDER)
@pytest.mark.parametrize("now", ORDER)
def test_whatever_is_further_down_is_worse_and_a_pass_never_is(now: Standing, before: Standing) -> None:
    said = regression(entry(now), entry(before))
    if now in ("pass", "remediated"):
        assert said == ""
    elif now == "error":
        assert bool(said) == (before != "error")
    else:
        assert bool(said) == (ORDER.index(now) > ORDER.index(before))


@pytest.mark.parametrize("now", ORDER)
def test_what_nobody_has_judged_before_counts_unless_it_passes(now: Standing) -> None:
    assert bool(regression(entry(now), None)) == (now not in ("pass", "remediated"))


def test_the_same_error_is_known_and_another_one_is_new() -> None:
    before = entry("error", exit_code=2, message="no file")
    assert regression(entry("error", exit_code=2, message="no file"), before) == ""
    assert regression(entry("error", exit_code=5, message="no file"), before)
    assert regression(entry("error", exit_code=2, message="no memory"), before)


def test_a_failing_model_counts_again_for_another_rule_or_other_weights() -> None:
    before = entry("fail", decided_by=("a",))
    assert regression(entry("fail", decided_by=("a",)), before) == ""
    assert "b" in regression(entry("fail", decided_by=("a", "b")), before)
    other = {**INPUTS, "model": "0" * 64 + " " + "b" * 64}
    assert "another checkpoint" in regression(entry("fail", decided_by=("a",), inputs=other), before)


def state(code: int, regression: str = "") -> ModelState:
    standing = {0: "pass", 1: "fail", 3: "inconclusive"}.get(code, "error")
    return ModelState(
        name="m", slug="m", source="m", owner="", policy="p", standing=standing, exit_code=code, message="",
        regression=regression,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 3], 3),
        ([3, 2], 2),
        ([2, 4], 4),
        ([4, 5], 5),
        ([5, 70], 70),
        ([70, 1, 3], 1),
        ([99], 70),
    ],
)
def test_the_worst_code_is_that_of_the_audit(codes: list[int], worst: int) -> None:
    assert exit_code([state(code) for code in codes], FailOn.ANY) == worst


def test_only_regressions_count_where_that_is_asked() -> None:
    found = [state(1), state(3, "it was pass"), state(0)]
    assert exit_code(found, FailOn.NEW) == ExitCode.INCONCLUSIVE
    assert exit_code(found, FailOn.ANY) == ExitCode.FAIL


@pytest.mark.parametrize(
    ("key", "value", "about"),
    [
        ("model", "9" * 64 + " " + "b" * 64, "model"),
        ("model", "a" * 64 + " " + "9" * 64, "model"),
        ("policy", "9" * 64, "policy"),
        ("triggers", "9" * 64, "probes"),
        ("seed", "1", "probes"),
        ("images", "9" * 64, "data"),
        ("classes", "9" * 64, "data"),
        ("reference", "9" * 64, "data"),
        ("pargate", "1.1", "pargate"),
        ("library torch", "2.12", "pargate"),
        ("library numpy", "2.1", "pargate"),
    ],
)
def test_each_input_that_changed_is_named_by_what_it_is(key: str, value: str, about: str) -> None:
    (change,) = between(entry("pass", inputs={**INPUTS, key: value}), entry("pass"), None, None)
    assert change.about == about


def test_nothing_changed_is_no_change_and_what_could_not_be_read_is_not_compared() -> None:
    assert between(entry("pass"), entry("pass"), None, None) == []
    assert between(entry("error", inputs={}), entry("pass"), None, None) == []
    assert between(entry("pass"), None, None, None) == []


def test_the_numbers_in_front_come_with_their_intervals() -> None:
    report = ScanReport.from_json((REPORTS / "failing.json").read_bytes())
    worst, seen = attack(report), accuracy(report)
    rates = [m.counts["attack_success"].rate for m in report.measurements if m.trigger]
    assert worst is not None and worst.rate == max(r for r in rates if r is not None)
    assert worst.low < worst.rate <= worst.high and worst.n > 0
    assert seen is not None and seen.low < seen.rate < seen.high


def test_a_report_that_measured_nothing_has_no_numbers() -> None:
    report = ScanReport.from_json((REPORTS / "unsafe.json").read_bytes())
    assert attack(report) is None and accuracy(report) is None
