"""Waivers, consequences, the static probe and the comparison with the last release, on counts made by hand."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pargate.core.results import Consequence, Count, FileFacts, Measurement, Outcome, Remark, Status, TriggerInfo
from pargate.core.sequential import mean_sequence
from pargate.errors import PolicyError
from pargate.judge.judge import Judgement, find, judge
from pargate.judge.waivers import Context
from pargate.policy.resolve import read, refuse_expired
from pargate.policy.schema import Policy
from pargate.probes.base import CLEAN, FILE
from pargate.triggers import parse

MODEL = "ab" * 32
TODAY = date(2026, 12, 1)
WAIVER = {
    "rule": "pull", "model": f"sha256:{MODEL}", "reason": "fix-scheduled", "approved_by": "sec@example.org",
    "created": "2026-11-20", "expires": "2027-01-31",
}  # fmt: skip
RULE = {"id": "pull", "probe": "attack", "triggers": ["badnet"], "target": "banana", "max": {"attack_success": "10%"}}


def policy(*rules: dict[str, Any], **more: Any) -> Policy:
    return Policy.model_validate({"pargate": 1, "name": "x", "rules": list(rules) or [RULE], **more})


def attack(successes: int, n: int = 400, spec: str = "badnet") -> Measurement:
    (found,) = parse(spec)
    info = TriggerInfo(label=found.label, kind=found.kind, parameters=found.parameters, digest=found.digest)
    counts = {"attack_success": Count(n=n, successes=successes)}
    return Measurement(id="pull/badnet/banana", rule="pull", probe="attack", trigger=info, counts=counts)


def clean(right: int = 300) -> Measurement:
    counts = {"accuracy": Count(n=400, successes=right), "top_class": Count(n=400, successes=9)}
    return Measurement(id=CLEAN, rule="", probe="utility", counts=counts, chance=0.01)


def judged(rules: Policy, *measured: Measurement, strict: bool = False, **context: Any) -> Judgement:
    known = {"model": MODEL, "today": TODAY, **context}
    return judge(rules, [clean(), *measured], context=Context(**known), strict=strict)


def ids(remarks: tuple[Remark, ...]) -> list[str]:
    return [remark.id for remark in remarks]


def test_a_waiver_accepts_a_breach_and_is_shown_with_the_days_it_has_left() -> None:
    findings, verdict, remarks = judged(policy(waivers=[WAIVER]), attack(80))
    assert (findings[0].status, verdict.status) == (Status.WAIVED, Outcome.PASS)
    assert findings[0].waiver is not None
    assert (findings[0].waiver.days_left, findings[0].waiver.reason) == (61, "fix-scheduled")
    assert "1 waived" in verdict.summary
    assert remarks == ()


@pytest.mark.parametrize(
    ("changed", "context", "remark"),
    [
        ({}, {"today": date(2027, 2, 1)}, "waiver-expired"),
        ({}, {"model": "cd" * 32}, "waiver-other-model"),
        ({}, {"waive": False}, "waiver-ignored"),
        ({"created": None}, {"today": date(2026, 10, 1)}, "waiver-too-long"),
        ({"created": "2026-12-02"}, {}, "waiver-too-long"),
        ({"created": "2026-10-01"}, {}, "waiver-too-long"),
        ({"cap": {"attack_success": "12%"}}, {}, "waiver-over-cap"),
    ],
)
def test_a_waiver_that_does_not_count_leaves_the_breach_and_says_why(
    changed: dict[str, Any], context: dict[str, Any], remark: str
) -> None:
    waiver = {key: value for key, value in {**WAIVER, **changed}.items() if value is not None}
    findings, verdict, remarks = judged(policy(waivers=[waiver]), attack(80), **context)
    assert (findings[0].status, verdict.status) == (Status.BREACH, Outcome.FAIL)
    assert ids(remarks) == [remark]


def test_a_waiver_counts_on_its_last_day_and_is_announced_before_it() -> None:
    _, verdict, remarks = judged(policy(waivers=[WAIVER]), attack(80), today=date(2027, 1, 31))
    assert (verdict.status, ids(remarks)) == (Outcome.PASS, ["waiver-expiring"])


def test_without_a_day_no_waiver_counts() -> None:
    found = judge(policy(waivers=[WAIVER]), [clean(), attack(80)], context=Context(model=MODEL))
    assert found.verdict.status is Outcome.FAIL


def test_below_its_cap_a_waiver_counts_and_near_it_more_carriers_are_needed() -> None:
    capped = policy(waivers=[{**WAIVER, "cap": {"attack_success": "40%"}}])
    assert judged(capped, attack(80)).verdict.status is Outcome.PASS
    near = policy(waivers=[{**WAIVER, "cap": {"attack_success": "22%"}}])
    context = Context(model=MODEL, today=TODAY)
    (comparison,) = near.comparisons
    assert find(near, comparison, attack(80), 1, context).status is Status.OPEN, "so that sampling goes on"
    assert judged(near, attack(80)).verdict.status is Outcome.FAIL, "but in the end a breach is a breach"


def test_what_was_not_decided_is_not_waived() -> None:
    findings, verdict, _ = judged(policy(waivers=[WAIVER]), attack(40))
    assert (findings[0].status, verdict.status) == (Status.OPEN, Outcome.INCONCLUSIVE)


def test_a_waiver_that_accepts_nothing_is_a_warning_and_under_strict_a_failure() -> None:
    unused = policy(waivers=[WAIVER])
    _, verdict, remarks = judged(unused, attack(0))
    assert (verdict.status, ids(remarks)) == (Outcome.PASS, ["waiver-unused"])
    _, verdict, _ = judged(unused, attack(0), strict=True)
    assert (verdict.status, verdict.decided_by) == (Outcome.FAIL, ("waiver-unused",))


def test_a_cap_on_what_the_rule_does_not_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="caps recall, which its probe does not measure"):
        policy(waivers=[{**WAIVER, "cap": {"recall": "0%"}}])


def test_facts_about_a_file_answer_no_other_rule() -> None:
    seen = attack(390).model_copy(update={"facts": FileFacts(format="safetensors", pickle=False, custom_ops=False)})
    assert judged(policy(), seen).verdict.status is Outcome.FAIL


def test_a_rule_can_be_closed_to_waivers() -> None:
    with pytest.raises(ValueError, match="may not be waived"):
        policy({**RULE, "waivable": False}, waivers=[WAIVER])


# --- consequences ---


def test_a_rule_that_only_warns_does_not_fail_and_still_shows() -> None:
    lenient = policy(RULE, {"id": "useful", "probe": "utility", "min": {"accuracy": "50%"}, "severity": "low"},
                     enforce={"low": "warn"})  # fmt: skip
    findings, verdict, _ = judge(lenient, [clean(100), attack(0)])
    worst = findings[0]
    assert (worst.rule, worst.status, worst.consequence) == ("useful", Status.BREACH, Consequence.WARN)
    assert verdict.status is Outcome.PASS and "only warn" in verdict.summary


def test_a_policy_under_which_nothing_can_fail_is_none() -> None:
    with pytest.raises(ValueError, match="no rule can fail"):
        policy(enforce={"high": "note"})


# --- the file ---


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        (("safetensors", False, False), Status.MET),
        (("torch-zip", True, False), Status.BREACH),
        (("safetensors", True, False), Status.BREACH),
        (("safetensors", False, True), Status.BREACH),
    ],
)
def test_the_weights_file_is_judged_by_what_inspection_saw(facts: tuple[str, bool, bool], status: Status) -> None:
    rule = {"id": "safe", "probe": "file", "allow": {"formats": ["safetensors"]}}
    seen = FileFacts(format=facts[0], pickle=facts[1], custom_ops=facts[2])
    measured = Measurement(id=FILE, rule="safe", probe="file", facts=seen)
    findings, _, _ = judge(policy(RULE, rule), [clean(), attack(0), measured])
    assert {f.rule: f.status for f in findings}["safe"] is status


def test_a_file_that_nobody_looked_at_passes_nothing() -> None:
    rule = {"id": "safe", "probe": "file", "allow": {"formats": ["safetensors"]}}
    assert judge(policy(rule), [clean()]).verdict.status is Outcome.INCONCLUSIVE


# --- the last release ---

WORSE = {**RULE, "max": {"attack_success": "90%"}, "worsening": {"attack_success": "20pp"}}


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [(40, 40, Status.MET), (80, 40, Status.MET), (0, 300, Status.BREACH), (40, 120, Status.OPEN)],
)
def test_a_model_may_become_only_so_much_worse(before: int, after: int, status: Status) -> None:
    found = judged(policy(WORSE), attack(after), previous=(attack(before),))
    (_, bound) = found.findings[0].bounds
    assert (bound.status, bound.against, bound.upper) == (status, "previous", True)
    assert bound.estimate == pytest.approx((after - before) / 400)


def test_accuracy_becomes_worse_downwards() -> None:
    rule = {"id": "useful", "probe": "utility", "min": {"accuracy": "5%"}, "worsening": {"accuracy": "10pp"}}
    found = judged(policy(rule), previous=(clean(390),))
    (_, bound) = found.findings[0].bounds
    assert (bound.status, bound.upper, bound.limit) == (Status.BREACH, False, -0.1)
    # α = 0.01, two ends that can raise an alarm, each of which takes half of its error from either interval.
    now = mean_sequence(np.repeat([1.0, 0.0], [300, 100]), 0.005, 0.0025)
    before = mean_sequence(np.repeat([1.0, 0.0], [390, 10]), 0.0025, 0.005)
    assert bound.high == pytest.approx(now.high - before.low)
    assert bound.low == pytest.approx(now.low - before.high)


def test_another_trigger_of_the_same_name_is_not_compared_with() -> None:
    other = attack(40, spec="lattice").model_copy(update={"id": "pull/badnet/banana"})
    _, _, remarks = judged(policy(WORSE), attack(40), previous=(other,))
    assert ids(remarks) == ["not-compared"]


def test_without_a_previous_report_it_is_said_that_nothing_was_compared() -> None:
    found = judged(policy(WORSE), attack(40))
    assert ids(found.remarks) == ["not-compared"]
    assert found.verdict.status is Outcome.PASS


def test_a_previous_report_that_no_rule_uses_is_said_to_be_unused() -> None:
    rule = {key: value for key, value in WORSE.items() if key != "worsening"}
    assert ids(judged(policy(rule), attack(40), previous=(attack(40),)).remarks) == ["previous-unused"]
    assert ids(judged(policy(rule), attack(40)).remarks) == []
    assert ids(judged(policy(WORSE), attack(40), previous=(attack(40),)).remarks) == []


# --- the policy itself ---


def test_a_policy_past_its_last_day_is_refused_with_its_place() -> None:
    text = "pargate: 1\nname: x\nvalid_until: 2026-11-30\nrules:\n  - {id: u, probe: utility, min: {accuracy: 5%}}\n"
    resolved = read(text, "p.yaml", Path())
    refuse_expired(resolved, date(2026, 11, 30))
    with pytest.raises(PolicyError, match=r"p\.yaml:3:1: the policy x was valid until 2026-11-30"):
        refuse_expired(resolved, TODAY)
