"""The verdict over the stages of a gate. Without side effects, so that `gate` and `verify` agree.

The scan of the original decides whether to clean. A gate passes only on evidence about the bytes that ship: the
certifying scan of the checkpoint, the proof of its graphs, and the scan of the graphs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pargate import limits
from pargate.core.paired import fall_interval, largest_p
from pargate.core.report import AccuracyDrop, Examined, Stage
from pargate.core.results import BUDGET, UNSAFE_FILE, Consequence, Outcome, PairedCounts, Remark, Status, Verdict
from pargate.judge.bounds import FLOOR
from pargate.policy.fields import Limit
from pargate.policy.schema import Policy

PROOF = "export-proof"
NOT_EXAMINED = "not-examined"


class Conclusion(NamedTuple):
    """The verdict of a gate."""

    verdict: Verdict
    remarks: tuple[Remark, ...]
    """Reasons for the verdict that are not rules."""


def conclude(policy: Policy, stages: Sequence[Stage], last: Examined) -> Conclusion:
    """Return the verdict of a whole gate.

    Args:
        policy: the policy.
        stages: the stages, in order.
        last: scan of the one scanning stage that holds none itself.
    """
    scans = [(stage, stage.examined or last) for stage in stages if stage.name in ("scan", "pick", "certify", "rescan")]
    first = scans[0][1]
    cleaned = any(stage.name == "clean" for stage in stages)
    if first.verdict.status is not Outcome.PASS and not cleaned:
        return Conclusion(first.verdict, ())
    picks = [(stage, examined) for stage, examined in scans if stage.name == "pick"]
    if cleaned and not any(accepted(policy, stage, examined) for stage, examined in picks):
        problems = [p for stage, examined in picks[-1:] for p in _problems(policy, stage, examined)]
        found = _worst(policy, problems or [_unexamined("the cleaned model was never scanned")])
        # An undecided candidate makes the verdict inconclusive, not a failure.
        tries = f"{len(picks)} attempt{'' if len(picks) == 1 else 's'} at cleaning"
        return _told(f"{_original(first)} After {tries} the model still does not pass:", found)
    problems = [p for stage in stages for p in _shipping_problems(policy, stage, last)]
    if all(problem.outcome is Outcome.PASS for problem in problems):  # after a problem, a gate makes no more stages
        problems += _missing(policy, stages, cleaned)
    if any(problem.outcome is not Outcome.PASS for problem in problems):
        found = _worst(policy, problems)
        if not cleaned:
            return found
        held = all(problem.id == BUDGET for problem in problems)
        state = "The cleaned model holds every rule." if held else "The cleaned model does not pass:"
        return _told(f"{_original(first)} {state}", found)
    shown = scans[-1][1].verdict.summary
    if not cleaned:
        return Conclusion(Verdict(status=Outcome.PASS, decided_by=(), summary=shown), ())
    certified = [examined.model.sha256 for stage, examined in scans if stage.name == "certify"][-1]
    attempts = [stage.attempt for stage, examined in picks if examined.model.sha256 == certified]
    attempt = max(attempts or [stage.attempt for stage, _ in picks])
    lost = [stage.drop for stage, _ in scans if stage.name == "certify" and stage.drop is not None]
    price = f" {capital(cost(lost[-1]))}." if lost else ""
    summary = f"{_original(first)} Cleaned at attempt {attempt}, what ships passes: {shown}{price}"
    return Conclusion(Verdict(status=Outcome.REMEDIATED, decided_by=(), summary=summary), _remarks(problems))


def _original(first: Examined) -> str:
    """Return what is wrong with the original, in a sentence."""
    broken = [f.rule for f in first.findings if f.status is Status.BREACH and f.consequence is Consequence.FAIL]
    return f"The original breaks {', '.join(dict.fromkeys(broken))}." if broken else "The original does not pass."


def _told(beginning: str, found: Conclusion) -> Conclusion:
    """Return a conclusion with a beginning before its summary."""
    summary = f"{beginning} {found.verdict.summary}"
    return found._replace(verdict=found.verdict.model_copy(update={"summary": summary}))


def may_be_cleaned(policy: Policy, first: Examined) -> bool:
    """Return whether the policy allows cleaning and the failure is one that cleaning can change."""
    unsafe = any(finding.rule == UNSAFE_FILE for finding in first.findings)
    signatures = [m.facts.signature for m in first.measurements if m.facts is not None and m.facts.signature]
    unsafe = unsafe or (policy.signed_by is not None and any(signature.problem for signature in signatures))
    return policy.clean.when == "fail" and first.verdict.status is Outcome.FAIL and not unsafe


def accepted(policy: Policy, stage: Stage, examined: Examined) -> bool:
    """Return whether a cleaned model may certify: it passes its scan, and does not break the accuracy budget.

    An undecided budget does not reject it: more images certify than pick, and they decide.
    """
    return shortfall(policy, stage, examined)[0] is Outcome.PASS


def shortfall(policy: Policy, stage: Stage, examined: Examined) -> tuple[Outcome, str]:
    """Return what a stage makes of a cleaned model, and why, in a sentence that is empty if nothing is wrong."""
    problems = list(_problems(policy, stage, examined))
    worst = min(problems, key=_severity, default=None)
    return (worst.outcome, worst.summary) if worst else (Outcome.PASS, "")


def drop(pairs: PairedCounts, limit: Limit, confidence: float) -> AccuracyDrop:
    """Compare the loss of accuracy with its budget.

    Args:
        pairs: correct predictions before cleaning (as the trigger's hits) and after (as the baseline's).
        limit: the budget.
        confidence: confidence of the interval.
    """
    alpha = round(1 - confidence, 12)  # 0.01, not 0.010000000000000009
    n, lost, gained = pairs.n, pairs.trigger_only, pairs.baseline_only
    decides = FLOOR <= n <= limits.COMPARED_IMAGES
    low, high = fall_interval(n, lost, gained, alpha) if n <= limits.COMPARED_IMAGES else (-1.0, 1.0)
    status = Status.OPEN
    if decides and largest_p(n, lost, gained, limit.value, alpha) <= alpha:
        status = Status.MET
    elif decides and largest_p(n, gained, lost, -limit.value, alpha) <= alpha:
        status = Status.BREACH
    return AccuracyDrop(
        pairs=pairs, limit=limit.value, limit_text=limit.text, low=low, high=high,
        method="exact score test of paired answers", status=status,
    )  # fmt: skip


def cost(found: AccuracyDrop) -> str:
    """Return the loss of accuracy in words."""
    if not found.pairs.n:
        return f"clean accuracy could not be compared with the original's; it may fall by {found.limit_text} at most"
    change = 0.0 - (found.pairs.excess or 0.0)  # never -0.0
    return (
        f"clean accuracy changed by {change:+.1%} [{-found.high:+.1%}, {-found.low:+.1%}] on "
        f"{found.pairs.n} images; a fall of {found.limit_text} is allowed"
    )


def capital(text: str) -> str:
    """Return a text with its first letter as at the beginning of a sentence."""
    return f"{text[:1].upper()}{text[1:]}"


class _Problem(NamedTuple):
    outcome: Outcome
    """`PASS` for a warning, which changes no verdict."""
    id: str
    """Id of the remark; empty if rules decided."""
    decided_by: tuple[str, ...]
    summary: str


def _severity(problem: _Problem) -> int:
    return (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS).index(problem.outcome)


def _problems(policy: Policy, stage: Stage, examined: Examined) -> Iterator[_Problem]:
    verdict = examined.verdict
    if verdict.status is not Outcome.PASS:
        yield _Problem(verdict.status, "", verdict.decided_by, verdict.summary)
    limit = policy.clean.budget.accuracy_drop
    if limit is None or stage.name == "rescan":
        return
    if stage.drop is None:
        yield _unexamined("nothing says what cleaning cost in accuracy")
        return
    # Judged again: the report's own status is not trusted.
    again = drop(stage.drop.pairs, limit, policy.confidence)
    said = f"{capital(cost(again))}."
    if again.status is Status.BREACH:
        yield _Problem(Outcome.FAIL, BUDGET, (BUDGET,), said)
    elif again.status is Status.OPEN and stage.name != "pick":
        lenient = policy.clean.budget.undecided == "warn" and again.pairs.n >= FLOOR
        within = lenient and (again.pairs.excess or 0.0) <= limit.value
        said = f"The accuracy budget is not decided: {cost(again)}."
        yield _Problem(Outcome.PASS if within else Outcome.INCONCLUSIVE, BUDGET, (BUDGET,), said)


def _shipping_problems(policy: Policy, stage: Stage, last: Examined) -> Iterator[_Problem]:
    """Yield the problems of a stage that examines the files that ship."""
    if stage.name == "certify" and stage.drop is not None:
        yield from _problems(policy, stage, stage.examined or last)
    elif stage.name in ("certify", "rescan"):
        verdict = (stage.examined or last).verdict
        if verdict.status is not Outcome.PASS:
            yield _Problem(verdict.status, "", verdict.decided_by, f"Stage {stage.name}: {verdict.summary}")
    elif stage.name == "export" and stage.proof is not None and not holds(policy, stage):
        summary = f"The exported graphs do not match the model: {stage.proof.summary}"
        yield _Problem(Outcome.FAIL, PROOF, (PROOF,), summary)


def holds(policy: Policy, stage: Stage) -> bool:
    """Return whether the exported graphs meet the policy's parity limits."""
    proof, asked = stage.proof, policy.export.parity
    if proof is None or not proof.passed or proof.top1_of == 0:
        return False
    if proof.precision != "fp32":
        return True  # the proof has its own limits for reduced precision
    share = asked.top1_agreement.value if asked.top1_agreement is not None else 1.0
    return proof.min_cosine >= asked.min_cosine and proof.top1_same >= share * proof.top1_of


def _missing(policy: Policy, stages: Sequence[Stage], cleaned: bool) -> Iterator[_Problem]:
    """Yield a problem for each stage that the policy requires and the gate lacks."""
    names = [stage.name for stage in stages]
    if cleaned and "certify" not in names:
        yield _unexamined("the cleaned model was not certified")
    if cleaned and policy.clean.budget.accuracy_drop is not None:
        certified = [stage for stage in stages if stage.name == "certify"]
        if certified and certified[-1].drop is None:
            yield _unexamined("nothing says what cleaning cost in accuracy")
    exported = [stage for stage in stages if stage.name == "export"]
    if policy.export.onnx is not None and not exported:
        yield _unexamined("the graphs that the policy asks for were not made")
    if any(stage.proof is None for stage in exported):
        yield _unexamined("the exported graphs were not proven")
    if policy.export.rescan and names.count("rescan") < len(exported):
        yield _unexamined("the exported graphs were not scanned")


def _unexamined(what: str) -> _Problem:
    return _Problem(Outcome.INCONCLUSIVE, NOT_EXAMINED, (NOT_EXAMINED,), f"{what.capitalize()}.")


def _worst(policy: Policy, problems: Sequence[_Problem]) -> Conclusion:
    chosen = min(problems, key=_severity)
    outcome = Outcome.FAIL if policy.on_inconclusive == "fail" else chosen.outcome
    verdict = Verdict(status=outcome, decided_by=chosen.decided_by, summary=chosen.summary)
    return Conclusion(verdict, _remarks(problems))


def _remarks(problems: Sequence[_Problem]) -> tuple[Remark, ...]:
    levels = {Outcome.PASS: Consequence.WARN}
    return tuple(
        Remark(id=p.id, level=levels.get(p.outcome, Consequence.FAIL), message=p.summary) for p in problems if p.id
    )
