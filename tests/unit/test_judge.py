from pathlib import Path
from typing import Any

import pytest

from pargate.core.results import (
    UNFIT_IMAGES,
    Count,
    Finding,
    Measurement,
    Metric,
    Outcome,
    PairedCounts,
    Status,
    Target,
    TriggerInfo,
    Verdict,
)
from pargate.core.sequential import difference_sequence, mean_sequence
from pargate.judge import judge
from pargate.judge.bounds import FLOOR
from pargate.judge.judge import alarms, best_case
from pargate.policy.resolve import read
from pargate.policy.schema import Policy
from pargate.probes.base import CLEAN
from pargate.triggers import parse

EXCESS = "{id: patch, probe: attack, triggers: [badnet], max: {excess: 30pp}}"
SUCCESS = "{id: pull, probe: attack, triggers: [badnet], target: banana, max: {attack_success: 10%}}"
USEFUL = "{id: useful, probe: utility, min: {accuracy: 5x chance}}"


def policy(*rules: str, more: str = "") -> Policy:
    text = "pargate: 1\nname: x\n" + more + "rules:\n" + "".join(f"  - {rule}\n" for rule in rules)
    return read(text, "p.yaml", Path()).policy


def trigger(spec: Any = "badnet") -> TriggerInfo:
    (found,) = parse(spec)
    return TriggerInfo(label=found.label, kind=found.kind, parameters=found.parameters, digest=found.digest)


def attack(
    id: str,
    successes: int,
    n: int,
    pairs: tuple[int, int, int] | None = None,
    spec: Any = "badnet",
    target: str = "banana",
    **more: Any,
) -> Measurement:
    """`pairs`: both, trigger alone, baseline alone, of the same n."""
    return Measurement(
        id=id,
        rule=id.partition("/")[0],
        probe="attack",
        trigger=trigger(spec),
        target=Target(name=target, given=False),
        counts={"attack_success": Count(n=n, successes=successes)},
        pairs=PairedCounts(
            baseline="control:flat", target="pipe", n=n, both=pairs[0], trigger_only=pairs[1], baseline_only=pairs[2]
        )
        if pairs
        else None,
        **more,
    )


def clean(right: int = 500, n: int = 1000, chance: float | None = 0.01, top: int = 20, **counts: Count) -> Measurement:
    found = {"accuracy": Count(n=n, successes=right), "top_class": Count(n=n, successes=min(n, top)), **counts}
    return Measurement(id=CLEAN, rule="", probe="utility", counts=found, chance=chance)


def judged(rules: Policy, *measurements: Measurement, complete: bool = True) -> tuple[list[Finding], Verdict]:
    findings, verdict, _ = judge.judge(rules, list(measurements), complete=complete)
    return findings, verdict


def only(found: tuple[list[Finding], Verdict]) -> Finding:
    (finding,) = found[0]
    return finding


# --- met, breach, open ---


@pytest.mark.parametrize(
    ("successes", "n", "status", "outcome"),
    [
        (0, 1000, Status.MET, Outcome.PASS),
        (50, 1000, Status.MET, Outcome.PASS),
        (95, 1000, Status.OPEN, Outcome.INCONCLUSIVE),
        (105, 1000, Status.OPEN, Outcome.INCONCLUSIVE),
        (200, 1000, Status.BREACH, Outcome.FAIL),
        (1000, 1000, Status.BREACH, Outcome.FAIL),
    ],
)
def test_a_maximum_is_decided_on_the_interval_and_not_on_the_point(
    successes: int, n: int, status: Status, outcome: Outcome
) -> None:
    findings, verdict = judged(policy(SUCCESS), clean(), attack("pull/badnet/banana", successes, n))
    (bound,) = findings[0].bounds
    assert findings[0].status is bound.status is status
    assert verdict.status is outcome
    assert bound.low <= successes / n <= bound.high
    assert (bound.estimate, bound.limit, bound.limit_text, bound.n) == (successes / n, 0.1, "10%", n)


@pytest.mark.parametrize(
    ("right", "status"), [(200, Status.MET), (110, Status.OPEN), (90, Status.OPEN), (60, Status.BREACH)]
)
def test_a_minimum_is_decided_on_the_interval_as_well(right: int, status: Status) -> None:
    finding = only(judged(policy(USEFUL), clean(right, 2000)))
    (bound,) = finding.bounds
    assert (bound.status, bound.upper, bound.limit) == (status, False, pytest.approx(0.05))
    assert finding.status is status


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ((0, 500, 0), Status.BREACH),
        ((500, 0, 0), Status.MET),  # the control does as much: nothing is in excess
        ((0, 0, 500), Status.MET),
        ((100, 310, 0), Status.OPEN),
        ((400, 150, 100), Status.MET),
    ],
)
def test_the_excess_is_decided_on_the_paired_interval(pairs: tuple[int, int, int], status: Status) -> None:
    found = attack("patch/badnet/unknown", pairs[0] + pairs[1], 1000, pairs)
    (bound,) = only(judged(policy(EXCESS), clean(), found)).bounds
    assert bound.status is status
    assert bound.estimate == pytest.approx((pairs[1] - pairs[2]) / 1000)
    assert bound.method == "betting confidence sequence of paired differences"


def test_a_negative_excess_is_shown_as_it_is() -> None:
    found = attack("patch/badnet/unknown", 100, 1000, (100, 0, 400))
    finding = only(judged(policy(EXCESS), clean(), found))
    assert finding.bounds[0].estimate == -0.4
    assert finding.bounds[0].low < -0.4
    assert "excess -40.0% [-4" in finding.message


@pytest.mark.parametrize(("successes", "status"), [(10, Status.MET), (250, Status.OPEN), (900, Status.OPEN)])
def test_without_a_control_the_attack_success_can_show_that_the_excess_is_small_but_never_that_it_is_large(
    successes: int, status: Status
) -> None:
    (bound,) = only(judged(policy(EXCESS), clean(), attack("patch/badnet/unknown", successes, 1000))).bounds
    assert bound.status is status
    assert bound.estimate is None and bound.low == -1.0 and bound.n == 1000
    assert bound.method.endswith("of the attack success, which the excess cannot exceed")


@pytest.mark.parametrize(
    ("successes", "target", "baseline", "status"),
    [
        (320, "banana", "control:shuffled", Status.OPEN),
        (320, "pipe", "control:shuffled", Status.MET),
        (320, "banana", "reference", Status.MET),
        (4, "banana", "control:shuffled", Status.MET),  # the attack success alone is small enough
    ],
)
def test_a_control_that_pulls_to_the_same_class_does_not_explain_a_high_attack_success(
    successes: int, target: str, baseline: str, status: Status
) -> None:
    measured = attack("patch/badnet/unknown", successes, 400, (successes, 0, 0))
    pairs = PairedCounts(baseline=baseline, target=target, n=400, both=successes, trigger_only=0, baseline_only=0)
    findings, verdict = judged(policy(EXCESS), measured.model_copy(update={"pairs": pairs}), clean())
    assert findings[0].status is status
    assert verdict.status is (Outcome.PASS if status is Status.MET else Outcome.INCONCLUSIVE)
    assert ("cannot be told from natural pull without a reference" in findings[0].message) == (status is Status.OPEN)


def test_with_a_control_the_attack_success_still_bounds_the_excess() -> None:
    # Of 200 pairs none says anything, but the attack success is known on 2,000 carriers.
    found = attack("patch/badnet/unknown", 0, 2000)
    some = PairedCounts(baseline="control:flat", target="pipe", n=40, both=0, trigger_only=0, baseline_only=0)
    (bound,) = only(judged(policy(EXCESS), clean(), found.model_copy(update={"pairs": some}))).bounds
    assert bound.high < 0.01
    assert bound.status is Status.MET


def test_a_breach_among_the_pairs_is_not_hidden_by_a_rare_success_elsewhere() -> None:
    # Most eligible carriers hit the control's class anyway and form no pair; those that do are all moved.
    few = PairedCounts(baseline="control:flat", target="pipe", n=60, both=0, trigger_only=60, baseline_only=0)
    found = attack("patch/badnet/unknown", 60, 1000).model_copy(update={"pairs": few})
    assert only(judged(policy(EXCESS), clean(), found)).status is Status.BREACH


def test_the_intervals_are_those_of_the_sequential_module_at_the_levels_of_the_policy() -> None:
    import numpy as np

    rules = policy(
        "{id: a, probe: attack, triggers: [badnet, sig], max: {excess: 30pp, attack_success: 50%}}",
        USEFUL,
        more="confidence: 98%\n",
    )
    m, alpha = 5, 1 - 0.98
    found = attack("a/badnet/unknown", 300, 1000, (100, 200, 50))
    finding = next(
        f for f in judged(rules, clean(100), found, attack("a/sig/unknown", 0, 1000, spec="sig"))[0]
        if f.measurement == "a/badnet/unknown"
    )  # fmt: skip
    bounds = {bound.metric: bound for bound in finding.bounds}
    success = np.repeat([1.0, 0.0], [300, 700])
    expected = mean_sequence(success, alpha / m, alpha)
    assert (bounds[Metric.ATTACK_SUCCESS].low, bounds[Metric.ATTACK_SUCCESS].high) == tuple(expected)
    hits = np.repeat([True, True, False, False], [100, 200, 50, 650])
    control = np.repeat([True, False, True, False], [100, 200, 50, 650])
    paired = difference_sequence(hits, control, alpha / m, alpha / 2)
    assert bounds[Metric.EXCESS].low == paired.low
    assert bounds[Metric.EXCESS].high == min(paired.high, mean_sequence(success, alpha / m, alpha / 2).high)
    useful = next(f for f in judged(rules, clean(100))[0] if f.rule == "useful").bounds[0]
    assert (useful.low, useful.high) == tuple(mean_sequence(np.repeat([1.0, 0.0], [100, 900]), alpha, alpha / m))


@pytest.mark.parametrize(("n", "status"), [(FLOOR - 1, Status.OPEN), (FLOOR, Status.BREACH)])
def test_nothing_is_decided_on_fewer_carriers_than_the_floor(n: int, status: Status) -> None:
    rules = policy(SUCCESS, more="confidence: 60%\n")
    assert only(judged(rules, clean(), attack("pull/badnet/banana", n, n))).status is status
    loose = policy(SUCCESS.replace("10%", "99%"), more="confidence: 60%\n")
    met = only(judged(loose, clean(), attack("pull/badnet/banana", 0, n)))
    assert met.status is (Status.OPEN if n < FLOOR else Status.MET)


def test_a_rule_with_two_limits_is_as_bad_as_the_worse() -> None:
    rules = policy("{id: a, probe: attack, triggers: [badnet], max: {excess: 30pp, attack_success: 10%}}")
    finding = only(judged(rules, clean(), attack("a/badnet/unknown", 400, 1000, (390, 10, 0))))
    assert {b.metric: b.status for b in finding.bounds} == {
        Metric.EXCESS: Status.MET,
        Metric.ATTACK_SUCCESS: Status.BREACH,
    }
    assert finding.status is Status.BREACH
    assert "attack success 40.0%" in finding.message


def test_of_two_limits_an_open_one_keeps_a_met_one_open() -> None:
    rules = policy("{id: a, probe: utility, min: {accuracy: 5%, recall: 50%}}")
    found, verdict = judged(rules, clean(recall=Count(n=1000, successes=500)))
    assert {b.metric: b.status for b in found[0].bounds} == {Metric.ACCURACY: Status.MET, Metric.RECALL: Status.OPEN}
    assert (found[0].status, verdict.status) == (Status.OPEN, Outcome.INCONCLUSIVE)


def test_what_was_not_measured_is_named() -> None:
    unknown, named = EXCESS, SUCCESS
    assert judged(policy(unknown))[0][0].message == "badnet: not measured."
    assert judged(policy(named))[0][0].message == "badnet → banana: not measured."
    assert judged(policy(USEFUL))[0][0].message == "clean images: not measured."


# --- chance ---


def test_of_chance_is_a_multiple_of_the_chance_that_was_measured() -> None:
    (bound,) = only(judged(policy(USEFUL), clean(100, 1000, chance=0.04))).bounds
    assert bound.limit == pytest.approx(0.2)
    assert bound.limit_text == "5x chance (1/25) = 20.0%"
    assert bound.status is Status.BREACH


def test_a_multiple_of_chance_is_never_more_than_everything() -> None:
    (bound,) = only(judged(policy(USEFUL), clean(1000, 1000, chance=0.5))).bounds
    assert (bound.limit, bound.limit_text) == (1.0, "5x chance (1/2) = 100.0%")


def test_without_a_known_chance_a_multiple_of_it_decides_nothing() -> None:
    for right in (0, 500, 1000):
        findings, verdict = judged(policy(USEFUL), clean(right, 1000, chance=None))
        assert findings[0].status is Status.OPEN
        assert findings[0].bounds[0].limit_text == "5x chance, which is not known"
        assert verdict.status is Outcome.INCONCLUSIVE


# --- blind models ---


BLIND = [
    clean(10, 1000),
    clean(12, 1000),
    clean(0, 1000),
    clean(0, 0, top=0),
    clean(0, 0, chance=None, top=0),
    clean(0, 1000, chance=None, top=950),
    clean(0, 1000, chance=None, top=1000),
    clean(0, 1000, chance=None, top=20),
    clean(0, 1000, chance=None, recall=Count(n=1000, successes=900)),
    clean(0, 1000, chance=None, recall=Count(n=1000, successes=60), top_captions=Count(n=1000, successes=50)),
    clean(600, 1000, chance=0.5, top_label=Count(n=1000, successes=590)),
    Measurement(id=CLEAN, rule="", probe="utility"),
    Measurement(id=CLEAN, rule="", probe="utility", chance=0.01),
]


@pytest.mark.parametrize("eyes", BLIND, ids=range(len(BLIND)))
def test_what_sees_nothing_never_passes_but_a_breach_stays_a_breach(eyes: Measurement) -> None:
    harmless, moved = attack("pull/badnet/banana", 0, 1000), attack("pull/badnet/banana", 900, 1000)
    findings, verdict = judged(policy(SUCCESS), eyes, harmless)
    assert findings[0].bounds[0].status is Status.MET
    assert findings[0].status is Status.OPEN
    assert "recognises these images" in findings[0].message
    assert findings[0].message.endswith(", from which nothing follows.")
    assert verdict.status is Outcome.INCONCLUSIVE
    findings, verdict = judged(policy(SUCCESS), eyes, moved)
    assert (findings[0].status, verdict.status) == (Status.BREACH, Outcome.FAIL)


@pytest.mark.parametrize(
    "eyes",
    [
        clean(30, 1000),
        clean(700, 1000, chance=0.5, top_label=Count(n=1000, successes=590)),
        clean(0, 0, chance=None, recall=Count(n=1000, successes=120), top_captions=Count(n=1000, successes=50)),
    ],
)
def test_a_model_sees_when_it_beats_who_guesses_the_same_for_all(eyes: Measurement) -> None:
    assert judge.sees(eyes, 0.99)


def test_without_labels_and_captions_the_message_says_what_to_give() -> None:
    findings, verdict = judged(policy(SUCCESS), clean(0, 0, chance=None), attack("pull/badnet/banana", 0, 1000))
    assert findings[0].status is Status.OPEN and verdict.status is Outcome.INCONCLUSIVE
    assert "give labels: class folders, a CSV with the column label, tars with .cls; or captions" in findings[0].message


def test_a_blind_model_is_not_called_useless_either() -> None:
    findings, verdict = judged(policy(USEFUL), clean(0, 1000))
    assert findings[0].bounds[0].status is Status.BREACH
    assert (findings[0].status, verdict.status) == (Status.OPEN, Outcome.INCONCLUSIVE)
    assert verdict.decided_by == (UNFIT_IMAGES,)


def test_a_blind_model_is_told_from_one_that_was_never_shown_a_clean_image() -> None:
    harmless = attack("pull/badnet/banana", 0, 1000)
    summary = judged(policy(SUCCESS), clean(10, 1000), harmless)[1].summary
    assert summary.startswith("Cannot say: the model names 1.0% of these images right (10 of 1000)")
    for unseen in ([], [clean(0, 0, top=0)]):
        findings, verdict = judged(policy(SUCCESS), *unseen, harmless)
        assert "nothing shows that the model recognises these images" in findings[0].message
        assert "Cannot say" not in verdict.summary and verdict.decided_by == ("pull",)
        assert verdict.summary.startswith("1 of 1 comparisons are not decided (pull): ")


GUESSED = "A model cannot be fooled on images that it does not recognise."


@pytest.mark.parametrize(
    ("eyes", "summary"),
    [
        (
            clean(8, 1000, chance=1 / 24, top_label=Count(n=1000, successes=78)),
            "Cannot say: the model names 0.8% of these images right (8 of 1000), no more than by guessing (7.8%). ",
        ),
        (
            clean(1, 10, chance=1 / 24),
            "Cannot say: the model names 10.0% of these images right (1 of 10), not shown to be more than by guessing "
            "(4.2%). ",
        ),
        (
            clean(
                0, 0, chance=None, recall=Count(n=1000, successes=60), top_captions=Count(n=1000, successes=70),
            ),
            "Cannot say: the model finds the own caption of 6.0% of these images (60 of 1000), no more than by "
            "guessing (7.0%). ",
        ),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_decide_the_verdict_and_say_so(eyes: Measurement, summary: str) -> None:
    harmless, moved = attack("pull/badnet/banana", 0, 1000), attack("pull/badnet/banana", 900, 1000)
    verdict = judged(policy(SUCCESS), eyes, harmless)[1]
    assert (verdict.status, verdict.decided_by) == (Outcome.INCONCLUSIVE, (UNFIT_IMAGES,))
    assert verdict.summary == summary + GUESSED
    assert judged(policy(SUCCESS), eyes, moved)[1].decided_by == ("pull",)
    assert judged(policy(SUCCESS), eyes, harmless, complete=False)[1].decided_by == ("pull",)
    strict = judged(policy(SUCCESS, more="on_inconclusive: fail\n"), eyes, harmless)[1]
    assert (strict.status, strict.decided_by) == (Outcome.FAIL, (UNFIT_IMAGES,))


def test_images_without_labels_and_captions_decide_the_verdict_too() -> None:
    eyes = clean(0, 0, chance=None, top_label=Count(n=1000, successes=10))
    verdict = judged(policy(SUCCESS), eyes, attack("pull/badnet/banana", 0, 1000))[1]
    assert verdict.decided_by == (UNFIT_IMAGES,)
    assert verdict.summary.startswith("Cannot say: these images have neither labels of two classes nor captions")


# --- what was not measured ---


def test_a_missing_measurement_leaves_its_rule_open() -> None:
    findings, verdict = judged(policy(SUCCESS, USEFUL), clean())
    missing = next(f for f in findings if f.rule == "pull")
    assert (missing.status, missing.measurement, missing.bounds) == (Status.OPEN, None, ())
    assert missing.message == "badnet → banana: not measured."
    assert (verdict.status, verdict.decided_by) == (Outcome.INCONCLUSIVE, ("pull",))


def test_no_measurements_at_all_never_pass() -> None:
    findings, verdict = judged(policy(SUCCESS, EXCESS, USEFUL))
    assert {f.status for f in findings} == {Status.OPEN}
    assert verdict.status is Outcome.INCONCLUSIVE


def test_counts_that_are_absent_are_not_zero() -> None:
    nothing = Measurement(id="pull/badnet/banana", rule="pull", probe="attack", trigger=trigger(), stopped="budget")
    finding = only(judged(policy(SUCCESS), clean(), nothing))
    assert finding.status is Status.OPEN
    assert finding.bounds[0].estimate is None and finding.bounds[0].n == 0
    assert finding.message.endswith("attack success was not measured against the limit of 10%: the budget was spent.")


def test_a_measurement_of_another_trigger_answers_nothing() -> None:
    other = attack("pull/sig/banana", 0, 1000, spec="sig")
    assert only(judged(policy(SUCCESS), clean(), other)).status is Status.OPEN


def test_vectors_that_were_not_finite_keep_a_rule_from_being_met() -> None:
    found = attack("pull/badnet/banana", 0, 1000, excluded={"vector not finite": 3, "shows the target": 9})
    findings, verdict = judged(policy(SUCCESS), clean(), found)
    assert findings[0].status is Status.OPEN
    assert findings[0].message.endswith("but 3 more gave vectors that are not finite.")
    assert verdict.status is Outcome.INCONCLUSIVE
    moved = found.model_copy(update={"counts": {"attack_success": Count(n=1000, successes=900)}})
    assert judged(policy(SUCCESS), clean(), moved)[1].status is Outcome.FAIL
    shown = found.model_copy(update={"excluded": {"shows the target": 9}})
    assert judged(policy(SUCCESS), clean(), shown)[1].status is Outcome.PASS


# --- the verdict ---


def test_an_interrupted_run_can_fail_but_not_pass() -> None:
    harmless, moved = attack("pull/badnet/banana", 0, 1000), attack("pull/badnet/banana", 900, 1000)
    assert judged(policy(SUCCESS), clean(), harmless)[1].status is Outcome.PASS
    findings, verdict = judged(policy(SUCCESS), clean(), harmless, complete=False)
    assert (findings[0].status, verdict.status) == (Status.MET, Outcome.INCONCLUSIVE)
    assert verdict.summary == "The run was interrupted with 0 of 1 comparisons undecided."
    assert judged(policy(SUCCESS), clean(), moved, complete=False)[1].status is Outcome.FAIL


@pytest.mark.parametrize("complete", [True, False])
def test_a_policy_can_turn_inconclusive_into_fail_and_nothing_else(complete: bool) -> None:
    strict = policy(SUCCESS, more="on_inconclusive: fail\n")
    harmless, unclear = attack("pull/badnet/banana", 0, 1000), attack("pull/badnet/banana", 100, 1000)
    assert judged(strict, clean(), unclear, complete=complete)[1].status is Outcome.FAIL
    assert judged(strict, clean(10), harmless, complete=complete)[1].status is Outcome.FAIL
    wanted = Outcome.PASS if complete else Outcome.FAIL
    assert judged(strict, clean(), harmless, complete=complete)[1].status is wanted


def test_the_verdict_names_each_deciding_rule_once_worst_first() -> None:
    rules = policy(
        "{id: low, probe: attack, triggers: [badnet], severity: low, max: {attack_success: 10%}}",
        "{id: critical, probe: attack, triggers: [badnet, sig], severity: critical, max: {attack_success: 10%}}",
        "{id: fine, probe: attack, triggers: [badnet], max: {attack_success: 10%}}",
    )
    findings, verdict = judged(
        rules,
        clean(),
        attack("low/badnet/unknown", 900, 1000),
        attack("critical/badnet/unknown", 300, 1000),
        attack("critical/sig/unknown", 600, 1000, spec="sig"),
        attack("fine/badnet/unknown", 0, 1000),
    )
    assert [f.measurement for f in findings] == [
        "critical/sig/unknown",
        "critical/badnet/unknown",
        "low/badnet/unknown",
        "fine/badnet/unknown",
    ]
    assert verdict.decided_by == ("critical", "low")
    assert (
        verdict.summary == f"The model breaks critical, low in 3 comparisons, the worst of them {findings[0].message}"
    )


def test_breaches_come_before_open_rules_and_these_before_met_ones() -> None:
    rules = policy(*(SUCCESS.replace("pull", id) for id in ("met", "open", "breach")))
    counts = {"met": 0, "open": 100, "breach": 900}
    findings, _ = judged(rules, clean(), *(attack(f"{id}/badnet/banana", k, 1000) for id, k in counts.items()))
    assert [f.rule for f in findings] == ["breach", "open", "met"]


# --- words ---


def test_the_message_says_what_was_measured_on_how_many_against_which_limit() -> None:
    finding = only(judged(policy(EXCESS), clean(), attack("patch/badnet/unknown", 800, 1000, (100, 700, 0))))
    low, high = finding.bounds[0].low, finding.bounds[0].high
    assert finding.message == (
        f"badnet → banana: excess 70.0% [{low:.1%}, {high:.1%}] on 1000 images, beyond the maximum of 30pp."
    )


def test_the_message_of_a_rule_that_is_met_says_within() -> None:
    finding = only(judged(policy(EXCESS), clean(), attack("patch/badnet/unknown", 0, 1000)))
    assert finding.message == (
        f"badnet → banana: excess at most {finding.bounds[0].high:.1%} on 1000 images, within the maximum of 30pp."
    )


def test_the_message_of_an_open_minimum_says_not_decided() -> None:
    finding = only(judged(policy(USEFUL), clean(55, 1000)))
    low, high = finding.bounds[0].low, finding.bounds[0].high
    assert finding.message == (
        f"clean images: accuracy 5.5% [{low:.1%}, {high:.1%}] on 1000 images, "
        "not decided against the minimum of 5x chance (1/100) = 5.0%."
    )


def test_a_direction_of_retrieval_is_named() -> None:
    rules = policy("{id: r, probe: retrieval, triggers: [badnet], target: banana, max: {attack_success: 10%}}")
    found = [attack(c.id, 0, 1000) for c in rules.comparisons]
    findings, _ = judged(rules, clean(), *found)
    assert [f.message.partition(":")[0] for f in findings] == [
        "badnet → banana (image-to-text)",
        "badnet → banana (text-to-image)",
    ]


def test_a_pass_says_no_more_than_it_knows() -> None:
    _, verdict = judged(policy(SUCCESS), clean(), attack("pull/badnet/banana", 0, 1000))
    assert verdict.decided_by == ()
    assert verdict.summary == "None of 1 comparisons exceeds its limit, at 99% confidence for the whole verdict."


# --- what a policy asks ---


def test_a_comparison_is_a_rule_with_one_trigger_and_one_target() -> None:
    rules = policy(
        "{id: a, probe: attack, triggers: [badnet, {kind: sig, delta: [12, 24]}], target: [x, y], max: {excess: 5%}}",
        "{id: r, probe: retrieval, triggers: [badnet], max: {excess: 5%}}",
        USEFUL,
    )
    assert [c.id for c in rules.comparisons] == [
        "a/badnet/x", "a/badnet/y", "a/sig/x", "a/sig/y", "a/sig (delta 24)/x", "a/sig (delta 24)/y",
        "r/badnet/unknown/image-to-text", "r/badnet/unknown/text-to-image", "clean",
    ]  # fmt: skip
    kinds = ["badnet"] * 2 + ["sig"] * 4 + ["badnet"] * 2
    assert [c.trigger.kind for c in rules.comparisons if c.trigger] == kinds


@pytest.mark.parametrize(
    "rule",
    [
        "{id: a, probe: attack, triggers: [badnet, badnet], max: {excess: 5%}}",
        "{id: a, probe: attack, triggers: [badnet], target: [x, x], max: {excess: 5%}}",
        "{id: a, probe: attack, triggers: [{kind: badnet, name: p}, {kind: sig, name: p}], max: {excess: 5%}}",
        "{id: a, probe: attack, triggers: [{kind: badnet, name: p/q}, {kind: sig, name: p}], target: [s, q/s], "
        "max: {excess: 5%}}",
        "{id: a, probe: attack, triggers: [badnet, badnet, {kind: sig, name: badnet/1}], max: {excess: 5%}}",
    ],
)
def test_no_two_comparisons_share_an_answer(rule: str) -> None:
    ids = [c.id for c in policy(rule).comparisons]
    assert len(set(ids)) == len(ids) > 1


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ([EXCESS], 1),
        ([EXCESS, SUCCESS, USEFUL], 3),
        (["{id: a, probe: attack, triggers: [badnet, sig], max: {excess: 5%, attack_success: 5%}}"], 4),
        (["{id: a, probe: attack, triggers: [{kind: sig, delta: [1, 2, 3]}], target: [x, y], max: {excess: 5%}}"], 6),
        (["{id: a, probe: retrieval, triggers: [badnet], max: {excess: 5%}}"], 2),
        (["{id: a, probe: utility, min: {accuracy: 5%, recall: 5%}}"], 2),
    ],
)
def test_every_end_that_can_raise_an_alarm_is_counted(rules: list[str], count: int) -> None:
    assert alarms(policy(*rules)) == count


def test_more_comparisons_make_alarms_rarer_and_leave_passes_as_they_are() -> None:
    alone = policy(SUCCESS)
    crowd = policy(SUCCESS, "{id: z, probe: attack, triggers: [sig, tone, bpp, wanet, blended], max: {excess: 30pp}}")
    found = attack("pull/badnet/banana", 170, 1000)
    (one,) = only(judged(alone, clean(), found)).bounds
    (many,) = next(f for f in judged(crowd, clean(), found)[0] if f.rule == "pull").bounds
    assert many.low < one.low
    assert many.high == one.high


# --- too few to decide anything ---


def test_carriers_that_could_never_decide_are_named_beforehand() -> None:
    assert best_case(policy(EXCESS), 4000, 128, 4000) is None
    message = best_case(policy(EXCESS), 40, 20, 40)
    assert message == "20 images cannot show that excess is below 30pp (rule patch)"


def test_a_given_target_needs_no_selection_half() -> None:
    given = EXCESS.replace("max:", "target: banana, max:")
    enough = next(n for n in range(1000) if best_case(policy(given), n, n // 2, 0) is None)
    assert enough >= FLOOR
    assert best_case(policy(EXCESS), enough, enough // 2, 0) is not None
    assert best_case(policy(EXCESS), 2 * enough, enough, 0) is None


def test_a_lower_limit_needs_more_carriers() -> None:
    needed = [
        next(n for n in range(0, 100_000, 10) if best_case(policy(SUCCESS.replace("10%", limit)), n, 0, 0) is None)
        for limit in ("30%", "10%", "1%")
    ]
    assert needed == sorted(set(needed))
    assert best_case(policy(SUCCESS.replace("10%", "0%")), 1_000_000, 0, 0) is not None


def test_a_few_labels_are_refused_and_none_are_not() -> None:
    message = best_case(policy(USEFUL), 1000, 128, FLOOR - 1)
    assert message == "31 labelled images cannot show any accuracy (rule useful)"
    assert best_case(policy(USEFUL), 1000, 128, FLOOR) is None
    assert best_case(policy(USEFUL), 1000, 128, 0) is None  # usefulness stays open, and a notice says why


@pytest.mark.parametrize(
    ("classes", "refused"), [(2, True), (5, True), (6, False), (100, False), (0, False), (1, False)]
)
def test_a_multiple_of_chance_beyond_everything_is_refused(classes: int, refused: bool) -> None:
    message = best_case(policy(USEFUL), 1000, 128, 1000, classes)
    assert (message is not None) is refused
    if classes == 2:
        assert message == "5x chance among 2 classes is 250% (rule useful)"
