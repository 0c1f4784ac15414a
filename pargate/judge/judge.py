"""Findings and a verdict from measurements and a policy, without side effects.

A rule is decided on its interval, never on the estimate: it is met if the interval lies wholly on the right side of
the limit, a breach if wholly on the wrong side, else open. Intervals are anytime-valid, so judging after every block
costs no confidence.

The policy's confidence 1 − α holds for the whole verdict. The end of an interval that can raise an alarm errs with
α / m, where m is the number of comparisons (rule × trigger × target × limit): a model that keeps every rule fails with
probability at most α. The end that can pass errs with α: a model that breaks one rule passes only if that rule errs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pargate.core.results import (
    CLASS_NAME,
    GRAPHS_OF_CHECKPOINT,
    NO_REFERENCE,
    NOT_FINITE,
    NOTHING_FOLLOWS,
    RANK,
    TOP_CAPTIONS,
    TOP_LABEL,
    UNFIT_IMAGES,
    Bound,
    Consequence,
    Count,
    FileFacts,
    Finding,
    Measurement,
    Metric,
    Outcome,
    Ranked,
    Remark,
    Severity,
    Status,
    Verdict,
)
from pargate.judge.bounds import FLOOR, at_most, bound, interval, same, worsened
from pargate.judge.waivers import NO_CONTEXT, Context, remarks, waived
from pargate.policy.schema import Comparison, Policy, Rule
from pargate.probes.base import CLEAN, FILE, PROBES, UNKNOWN

_SEVERITIES = list(Severity)
_CONSEQUENCES = list(Consequence)


class Judgement(NamedTuple):
    """The answer to a policy."""

    findings: list[Finding]
    """Worst first."""
    verdict: Verdict
    remarks: tuple[Remark, ...]


def alarms(policy: Policy) -> int:
    """Return the number m of interval ends that can raise an alarm."""
    # A p-value has no interval; its limit is the error that it allows.
    rules = [comparison.rule for comparison in policy.comparisons]
    return max(1, sum(len(r.max) + len(r.min.keys() - {Metric.P_VALUE}) + len(r.worsening) for r in rules))


def guessing(measurement: Measurement | None) -> tuple[Count, float] | None:
    """Return the count of correct answers that shows whether the model sees, and the share that guessing gets right.

    It is the accuracy, or the recall of captions without labels of two classes; None without either. Guessing may use
    which classes and captions occur, and how often.
    """
    if measurement is None:
        return None
    metric, most = (Metric.RECALL, TOP_CAPTIONS) if measurement.chance is None else (Metric.ACCURACY, TOP_LABEL)
    right, same = measurement.counts.get(str(metric)), measurement.counts.get(most)
    if right is None or not right.n or (measurement.chance is None and same is None):
        return None
    return right, max(measurement.chance or 0.0, (same.rate if same else None) or 0.0)


def sees(measurement: Measurement | None, confidence: float) -> bool:
    """Return whether the model is shown to be right more often than guessing; False without labels and captions."""
    found = guessing(measurement)
    return found is not None and interval(found[0], 1 - confidence, 1 - confidence).low > found[1]


def find(
    policy: Policy, comparison: Comparison, measurement: Measurement | None, m: int, context: Context = NO_CONTEXT
) -> Finding:
    """Answer one comparison, whether or not the model sees anything."""
    rule = comparison.rule
    alpha = 1 - policy.confidence
    bounds: list[Bound] = []
    if measurement is not None:
        for limits, upper in ((rule.max, True), (rule.min, False)):
            bounds += [
                bound(metric, limit, upper, measurement, alpha, m)
                for metric, limit in limits.items()
                if metric != _other_metric(rule, measurement)
            ]
        before = same(measurement, context.previous)
        if before is not None:
            bounds += [
                worsened(metric, limit, metric in PROBES[rule.probe].minima, before, measurement, alpha, m)
                for metric, limit in rule.worsening.items()
            ]
    status = min((b.status for b in bounds), key=RANK.__getitem__, default=Status.OPEN)
    message = _message(comparison, measurement, bounds, status)
    if comparison.id == FILE and measurement is not None and measurement.facts is not None:
        status, message = _static(rule, measurement.facts)
    broken = measurement.excluded.get(NOT_FINITE, 0) if measurement and measurement.trigger else 0
    if broken and status is Status.MET:  # the trigger's effect on these images is unknown
        status = Status.OPEN
        message = f"{message.rstrip('.')}, but {broken} more gave vectors that are not finite."
    finding = Finding(
        rule=rule.id,
        comparison=comparison.id,
        measurement=measurement.id if measurement else None,
        severity=rule.severity,
        status=status,
        bounds=tuple(bounds),
        message=message,
        consequence=policy.consequence(rule),
    )
    return waived(policy, finding, measurement, m, context) if status is Status.BREACH and measurement else finding


def _other_metric(rule: Rule, measurement: Measurement) -> Metric | None:
    """Return the metric that a rule with a calibration table leaves to scans of the other kind.

    Over another model the excess decides, and without one the rank among trusted models.
    """
    if rule.calibration is None:
        return None
    return Metric.EXCESS if measurement.pairs is None else Metric.P_VALUE


def left_out(comparison: Comparison, measurement: Measurement | None) -> bool:
    """Return whether a scan left a search out: the policy allows it, or its graphs equal a searched checkpoint."""
    if measurement is None or not comparison.rule.families:
        return False
    if measurement.stopped == NO_REFERENCE:
        return comparison.rule.needs_reference
    return measurement.stopped == GRAPHS_OF_CHECKPOINT and comparison.rule.probe == "search"


def _static(rule: Rule, facts: FileFacts) -> tuple[Status, str]:
    """Return the status of the weights file under the rule's `allow` and `signed_by`, and a message."""
    allow, signer, signature = rule.allow, rule.signed_by, facts.signature
    wrong = []
    if allow is not None and facts.format not in allow.formats:
        wrong.append(f"its format is {facts.format}, allowed are {', '.join(allow.formats)}")
    if allow is not None and facts.pickle and not allow.pickle:
        wrong.append("it holds a pickle")
    if allow is not None and facts.custom_ops and not allow.custom_ops:
        wrong.append("it names operators outside the standard set")
    checked = signer is not None and signature is not None and signature.signer == signer.signer
    broken = [f"The weights file is not as the policy allows: {'; '.join(wrong)}"] if wrong else []
    if checked and signature is not None and signature.problem:
        broken.append(f"The model is not signed as the policy asks: {signature.problem}")
    if broken:
        return Status.BREACH, f"{'. '.join(broken)}."
    if signer is not None and not checked:
        return Status.OPEN, f"The signature by {signer.brief} was not checked."
    said = [f"The weights file is {facts.format}, as the policy allows"] if allow is not None else []
    if signer is not None and signature is not None:
        said.append(f"The model is signed by {signer.brief}, and its {signature.files} files are as signed")
    return Status.MET, f"{'. '.join(said)}."


# --- the verdict -------------------------------------------------------------------------------------


def judge(
    policy: Policy,
    measurements: Sequence[Measurement],
    *,
    complete: bool = True,
    context: Context = NO_CONTEXT,
    strict: bool = False,
) -> Judgement:
    """Judge measurements: all findings, worst first, the verdict, and remarks.

    Args:
        policy: the policy.
        measurements: measurements under the policy; those missing stay open.
        complete: False for an interrupted run, which can fail but not pass.
        context: what the judgement depends on besides.
        strict: whether an unused waiver fails the verdict.
    """
    by_id = {measurement.id: measurement for measurement in measurements}
    m = alarms(policy)
    clean = by_id.get(CLEAN)
    looked = guessing(clean) is not None
    blind = not sees(clean, policy.confidence)
    doubt = (
        "the model recognises these images no better than by guessing"
        if looked
        else "nothing shows that the model recognises these images"
    )
    if clean is not None and clean.chance is None and not looked:
        doubt += " (give labels: class folders, a CSV with the column label, tars with .cls; or captions)"
    findings = []
    for comparison in policy.comparisons:
        if left_out(comparison, by_id.get(comparison.id)):
            continue
        finding = find(policy, comparison, by_id.get(comparison.id), m, context)
        if finding.status is Status.OPEN and any(b.against == "cap" for b in finding.bounds):
            # While measuring, more images may show that it is below the cap; at the end a breach is a breach.
            finding = finding.model_copy(update={"status": Status.BREACH})
        # A model that recognises nothing can neither be fooled nor be shown useless: the images may be unlike its
        # training data. A breach by a trigger still counts.
        doubted = Status.BREACH if comparison.id == CLEAN else Status.MET
        if blind and finding.status is doubted and comparison.id != FILE:
            finding = finding.model_copy(
                update={
                    "status": Status.OPEN,
                    "message": f"{finding.message.rstrip('.')}, but {doubt}, {NOTHING_FOLLOWS}",
                }
            )
        findings.append(finding)
    findings.sort(
        key=lambda f: (
            RANK[f.status], _CONSEQUENCES.index(f.consequence), _SEVERITIES.index(f.severity), -_margin(f),
        )
    )  # fmt: skip
    said = remarks(policy, findings, context, strict=strict)
    return Judgement(findings, _verdict(policy, findings, said, _unfit(clean) if blind else "", complete), said)


def _unfit(clean: Measurement | None) -> str:
    """Return what the images show of a model that is not shown to recognise them; empty if none was read."""
    if clean is None or not any(count.n for count in clean.counts.values()):
        return ""
    found = guessing(clean)
    if found is None:
        if clean.chance is not None:
            return ""  # labels exist, and no labelled image was read yet
        return (
            "Cannot say: these images have neither labels of two classes nor captions, so nothing shows that the model "
            "recognises them."
        )
    (right, guess), rate = found, found[0].rate or 0.0
    does = "names" if clean.chance is not None else "finds the own caption of"
    ending = " right" if clean.chance is not None else ""
    no_more = "no more than" if rate <= guess else "not shown to be more than"
    return (
        f"Cannot say: the model {does} {rate:.1%} of these images{ending} ({right.successes} of {right.n}), {no_more} "
        f"by guessing ({guess:.1%}). A model cannot be fooled on images that it does not recognise."
    )


def _margin(finding: Finding) -> float:
    """Return how far the estimate lies on the wrong side of its limit."""
    margins = [
        ((b.high if b.estimate is None else b.estimate) - b.limit) * (1 if b.upper else -1) for b in finding.bounds
    ]
    return max(margins, default=0.0)


def _message(comparison: Comparison, measurement: Measurement | None, bounds: Sequence[Bound], status: Status) -> str:
    subject = f"{comparison.rule.probe} ({comparison.direction})" if comparison.rule.families else "clean images"
    if measurement is None or not bounds:
        if comparison.trigger is not None:
            to = "" if comparison.target == UNKNOWN else f" → {comparison.target}"
            subject = f"{comparison.trigger.label}{to}"
        return f"{'the weights file' if comparison.id == FILE else subject}: not measured."
    if measurement.trigger is not None:
        subject = measurement.trigger.label
        if measurement.target is not None:
            subject += f" → {measurement.target.name}"
        if comparison.direction and not comparison.rule.families:  # the label of what was found names the family
            subject += f" ({comparison.direction})"
    worst = min(bounds, key=lambda b: RANK[b.status])
    name = str(worst.metric).replace("_", " ")
    if worst.metric == Metric.EXCESS and measurement.pairs and measurement.pairs.over_copy:
        name += " over the fine-tuned copy"
    if worst.metric == Metric.P_VALUE and measurement.searched and measurement.searched.ranked:
        return f"{subject}: {_ranked_message(worst, measurement.searched.ranked, status)}."
    if worst.n == 0:
        lacking = "labelled images" if worst.metric == Metric.ACCURACY else "eligible images"
        why = {"budget": "the budget was spent"}.get(
            measurement.stopped, measurement.stopped or f"there were no {lacking}"
        )
        return f"{subject}: {name} was not measured against the limit of {worst.limit_text}: {why}."
    estimate = "at most" if worst.estimate is None else f"{worst.estimate:.1%}"
    words = {Status.MET: "within", Status.BREACH: "beyond", Status.OPEN: "not decided against"}
    kind = "maximum" if worst.upper else "minimum"
    span = f"{worst.high:.1%}" if worst.estimate is None else f"[{max(worst.low, -1.0):.1%}, {worst.high:.1%}]"
    counted = "captions" if PROBES[comparison.rule.probe].on_captions else "images"
    found = (
        f"{subject}: {name} {estimate} {span} on {worst.n} {counted}, {words[status]} the {kind} of {worst.limit_text}"
    )
    if worst.metric != Metric.EXCESS or worst.status is not Status.OPEN:
        return f"{found}."
    if measurement.pairs is not None and measurement.pairs.baseline == CLASS_NAME:
        found += (
            ": it is not shown to move fewer captions than the name of a class does, and only a reference can show "
            "whether it is planted"
        )
    elif worst.high <= worst.limit and worst.n >= FLOOR:
        found += (
            ": the control pulls to the same class, so the attack success cannot be told from natural pull without "
            "a reference"
        )
    if comparison.rule.families and measurement.pairs is None:
        found += ": without a reference it cannot be told from natural pull"
    elif measurement.pairs is not None and measurement.pairs.over_copy:
        found += ": a pull that stays in the fine-tuned copy can be natural or planted"
    return f"{found}."


def _ranked_message(limit: Bound, rank: Ranked, status: Status) -> str:
    """Return what the rank among trusted models says about the limit on the p-value."""
    words = {Status.MET: "within", Status.BREACH: "below", Status.OPEN: "not decided against"}
    answer = f"{words[status]} the minimum of {limit.limit_text}"
    if not at_most(rank.smallest, limit.limit):
        answer += f", which needs {math.ceil(1 / limit.limit - 1e-9) - 1} of them"
    if not rank.models:
        return f"no p-value, as the table holds no other model of this architecture; {answer}"
    return (
        f"p-value {rank.p_value:.1%}, as a searched trigger moves {rank.as_high} of {rank.models} trusted models of "
        f"this architecture as far, {answer}"
    )


def _verdict(
    policy: Policy, findings: Sequence[Finding], said: Sequence[Remark], unfit: str, complete: bool
) -> Verdict:
    counting = [f for f in findings if f.consequence is Consequence.FAIL]
    breached = [f for f in counting if f.status is Status.BREACH]
    undecided = [f for f in counting if f.status is Status.OPEN]
    decisive = [remark for remark in said if remark.level is Consequence.FAIL]
    if decisive and not breached:
        ids = tuple(dict.fromkeys(remark.id for remark in decisive))
        return Verdict(status=Outcome.FAIL, decided_by=ids, summary=decisive[0].message)
    if breached:
        outcome, deciding = Outcome.FAIL, breached
    elif undecided or not counting or not complete:
        outcome = Outcome.FAIL if policy.on_inconclusive == "fail" else Outcome.INCONCLUSIVE
        deciding = undecided
        if unfit and undecided and complete:
            return Verdict(status=outcome, decided_by=(UNFIT_IMAGES,), summary=unfit)
    else:
        outcome, deciding = Outcome.PASS, []
    ids = tuple(dict.fromkeys(f.rule for f in deciding))
    return Verdict(
        status=outcome,
        decided_by=ids,
        summary=_summary(policy, findings, breached, undecided, ids, complete),
    )


def _summary(
    policy: Policy,
    findings: Sequence[Finding],
    breached: Sequence[Finding],
    undecided: Sequence[Finding],
    ids: Sequence[str],
    complete: bool,
) -> str:
    level = f"{policy.confidence * 100:g}%"
    if breached:
        named = f"The model breaks {', '.join(ids)}"
        if len(breached) == 1:
            return f"{named}: {breached[0].message}"
        return f"{named} in {len(breached)} comparisons, the worst of them {breached[0].message}"
    if not complete:
        return f"The run was interrupted with {len(undecided)} of {len(findings)} comparisons undecided."
    if undecided:
        count = f"{len(undecided)} of {len(findings)} comparisons"
        return f"{count} are not decided ({', '.join(ids)}): {undecided[0].message}"
    waived = sum(f.status is Status.WAIVED for f in findings)
    lenient = sum(f.status in (Status.BREACH, Status.OPEN) for f in findings)  # of rules that only warn
    extra = f" {waived} waived." if waived else ""
    extra += f" {lenient} beyond or undecided under rules that only warn." if lenient else ""
    if not findings:
        return "No comparison was made: every rule was left out."
    held = f"None of {len(findings)} comparisons" if not (waived or lenient) else "No comparison that counts"
    return f"{held} exceeds its limit, at {level} confidence for the whole verdict.{extra}"


def best_case(policy: Policy, images: int, selection: int, labelled: int, classes: int = 0) -> str | None:
    """Return why these images could not decide some rule even in the best case, or None.

    Args:
        policy: the policy.
        images: number of images.
        selection: images that choose an unknown target and do not measure.
        labelled: labelled images.
        classes: classes that occur among the labels.
    """
    m = alarms(policy)
    for comparison in policy.comparisons:
        rule = comparison.rule
        n = images - (selection if comparison.target == UNKNOWN and comparison.id != CLEAN else 0)
        for metric, limit in rule.max.items():
            clean = Measurement(
                id="", rule=rule.id, probe=rule.probe,
                counts=dict.fromkeys((str(Metric.ATTACK_SUCCESS), metric), Count(n=max(n, 0), successes=0)),
            )  # fmt: skip
            if bound(metric, limit, True, clean, 1 - policy.confidence, m).status is not Status.MET:
                return f"{n} images cannot show that {metric} is below {limit.text} (rule {rule.id})"
        for limit in rule.min.values():
            if limit.of_chance and 1 < classes <= limit.value:
                return f"{limit.text} among {classes} classes is {limit.value / classes:.0%} (rule {rule.id})"
        if Metric.ACCURACY in rule.min and 0 < labelled < FLOOR:
            return f"{labelled} labelled images cannot show any accuracy (rule {rule.id})"
    return None
