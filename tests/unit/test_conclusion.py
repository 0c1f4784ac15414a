"""What the stages of a gate amount to."""

from pathlib import Path
from typing import Any

import pytest
from sample_reports import failing, inconclusive, passing, remediated, unsafe

from pargate.core.report import Examined, ScanReport, Stage
from pargate.core.results import BUDGET, Outcome, PairedCounts, Status
from pargate.judge.release import NOT_EXAMINED, PROOF, accepted, conclude, drop, may_be_cleaned, shortfall
from pargate.policy.fields import Limit
from pargate.policy.resolve import read
from pargate.policy.schema import Policy

POLICY = """
pargate: 1
name: gate
rules: [{id: patches, probe: attack, triggers: [badnet], max: {excess: 30pp}}]
clean: {when: fail, pairs: 'synthetic:', budget: {accuracy_drop: 3pp}}
export: {onnx: true}
"""


def policy(text: str = POLICY) -> Policy:
    return read(text, "policy.yaml", Path()).policy


def stages(**changed: Any) -> list[Stage]:
    """The stages of the sample that was cleaned, with parts of some replaced by their name."""
    own = {name: {"examined": passing().examined} for name in ("certify", "rescan")}
    spent = {name: measured(0) for name in ("pick", "certify")}
    found = [s.model_copy(update={**own.get(s.name, {}), **spent.get(s.name, {})}) for s in remediated().stages]
    return [s.model_copy(update=changed.get(s.name, {})) for s in found]


def outcome(found: list[Stage], text: str = POLICY) -> tuple[Outcome, tuple[str, ...]]:
    said = conclude(policy(text), found, passing().examined).verdict
    return said.status, said.decided_by


def scanned(report: ScanReport) -> dict[str, Examined]:
    return {"examined": report.examined}


def measured(lost: int, n: int = 1000) -> dict[str, Any]:
    pairs = PairedCounts(baseline="cleaned", target="", n=n, both=n // 2, trigger_only=lost, baseline_only=0)
    return {"drop": drop(pairs, Limit(text="3pp", value=0.03), 0.99)}


def test_what_failed_was_cleaned_and_passes_is_remediated() -> None:
    assert outcome(stages()) == (Outcome.REMEDIATED, ())


def test_the_failing_verdict_of_the_original_is_in_the_sentence() -> None:
    for found in (stages(), stages(certify=measured(35)), stages(certify=scanned(failing()))):
        said = conclude(policy(), found, passing().examined).verdict.summary
        assert said.startswith("The original breaks patch-backdoors. ")


def test_an_open_budget_says_that_the_original_breaks_and_the_cleaned_one_holds_every_rule() -> None:
    said = conclude(policy(), stages(certify=measured(35)), passing().examined).verdict
    assert said.summary.startswith(
        "The original breaks patch-backdoors. The cleaned model holds every rule. The accuracy budget is not decided: "
        "clean accuracy changed by -3.5% "
    )
    broken = conclude(policy(), stages(certify=scanned(failing())), passing().examined).verdict
    assert "The cleaned model does not pass: The model breaks patch-backdoors: " in broken.summary


def test_what_cleaning_cost_is_in_the_verdict_of_what_ships() -> None:
    said = conclude(policy(), stages(), passing().examined).verdict.summary
    assert said.endswith(" on 1000 images; a fall of 3pp is allowed.") and "changed by +0.0%" in said


def test_what_passes_as_it_is_passes() -> None:
    found = [s for s in stages(scan=scanned(passing())) if s.name in ("scan", "export", "rescan")]
    assert outcome(found) == (Outcome.PASS, ())


@pytest.mark.parametrize("name", ["certify", "rescan"])
def test_what_ships_decides_whatever_was_picked(name: str) -> None:
    assert outcome(stages(**{name: scanned(failing())}))[0] is Outcome.FAIL
    assert outcome(stages(**{name: scanned(inconclusive())}))[0] is Outcome.INCONCLUSIVE


def test_no_candidate_that_passes_fails() -> None:
    found = [s for s in stages(pick=scanned(failing())) if s.name in ("scan", "clean", "pick")]
    assert outcome(found)[0] is Outcome.FAIL


def test_an_original_that_fails_is_not_saved_by_what_was_not_cleaned() -> None:
    assert outcome([s for s in stages() if s.name in ("scan", "export", "rescan")])[0] is Outcome.FAIL


def test_cleaning_is_for_what_a_measurement_broke_and_the_policy_allows() -> None:
    assert may_be_cleaned(policy(), failing().examined)
    assert not may_be_cleaned(policy(), unsafe().examined)
    assert not may_be_cleaned(policy(), inconclusive().examined)
    assert not may_be_cleaned(policy(POLICY.replace("when: fail", "when: never")), failing().examined)


@pytest.mark.parametrize(
    ("lost", "status", "verdict"),
    [(0, Status.MET, Outcome.REMEDIATED), (35, Status.OPEN, Outcome.INCONCLUSIVE), (120, Status.BREACH, Outcome.FAIL)],
)
def test_the_budget_is_judged_on_the_interval(lost: int, status: Status, verdict: Outcome) -> None:
    cost = measured(lost)
    assert cost["drop"].status is status
    found = outcome(stages(certify=cost))
    assert found == (verdict, (BUDGET,) if verdict is not Outcome.REMEDIATED else ())


def test_a_policy_may_let_an_undecided_budget_pass_with_a_warning() -> None:
    lenient = POLICY.replace("3pp}", "3pp, undecided: warn}")
    for lost, verdict in ((25, Outcome.REMEDIATED), (35, Outcome.INCONCLUSIVE), (120, Outcome.FAIL)):
        found = conclude(policy(lenient), stages(certify=measured(lost)), passing().examined)
        assert found.verdict.status is verdict, "only if the estimate keeps the budget"
        assert [(r.id, str(r.level)) for r in found.remarks] == [(BUDGET, "warn" if lost == 25 else "fail")]
    assert outcome(stages(certify=measured(0, 31)), lenient) == (Outcome.INCONCLUSIVE, (BUDGET,))


@pytest.mark.parametrize(("lost", "certifies"), [(0, True), (35, True), (120, False)])
def test_an_undecided_budget_goes_on_to_the_images_that_certify(lost: int, certifies: bool) -> None:
    stage = next(s for s in stages(pick=measured(lost)) if s.name == "pick")
    assert stage.examined is not None and accepted(policy(), stage, stage.examined) is certifies
    said = shortfall(policy(), stage, stage.examined)
    assert said[0] is (Outcome.PASS if certifies else Outcome.FAIL) and ("accuracy" in said[1]) is not certifies


def test_the_attempt_that_ships_is_named_by_its_weights() -> None:
    found = stages()
    pick = next(s for s in found if s.name == "pick")
    assert pick.examined is not None
    other = pick.examined.model.model_copy(update={"sha256": "0" * 64})
    second = pick.model_copy(update={"attempt": 2, "examined": pick.examined.model_copy(update={"model": other})})
    said = conclude(policy(), [*found, second], passing().examined).verdict.summary
    assert f"at attempt {pick.attempt}," in said and pick.attempt != 2


def test_too_few_carriers_decide_nothing_about_accuracy() -> None:
    assert measured(0, 31)["drop"].status is Status.OPEN
    assert measured(0, 10**8)["drop"].status is Status.OPEN, "a count that no gate makes costs no hours"
    assert outcome(stages(certify={"drop": None}))[1] == (NOT_EXAMINED,)


def test_a_written_status_of_the_budget_is_not_believed() -> None:
    forged = measured(120)["drop"].model_copy(update={"status": Status.MET, "limit": 0.5})
    assert outcome(stages(certify={"drop": forged}))[0] is Outcome.FAIL


def test_a_proof_that_does_not_hold_fails() -> None:
    proof = next(s.proof for s in stages() if s.proof is not None)
    for change in ({"passed": False}, {"min_cosine": 0.99}, {"top1_of": 0}, {"top1_same": 500}):
        assert outcome(stages(export={"proof": proof.model_copy(update=change)})) == (Outcome.FAIL, (PROOF,))


@pytest.mark.parametrize("name", ["certify", "export", "rescan"])
def test_a_stage_that_is_not_there_is_no_pass(name: str) -> None:
    assert outcome([s for s in stages() if s.name != name])[0] is Outcome.INCONCLUSIVE


def test_without_graphs_nothing_is_asked_of_them() -> None:
    text = POLICY.replace("export: {onnx: true}", "")
    assert outcome([s for s in stages() if s.name not in ("export", "rescan")], text)[0] is Outcome.REMEDIATED


def test_a_policy_that_fails_what_is_undecided_fails_it_here_too() -> None:
    found = stages(certify=scanned(inconclusive()))
    assert outcome(found, POLICY + "on_inconclusive: fail\n")[0] is Outcome.FAIL
