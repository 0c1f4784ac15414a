"""The verdict for people: one sentence, and one line for each rule."""

from typing import NamedTuple

from pargate.core.report import ScanReport
from pargate.core.results import (
    CLASS_NAME,
    NOTHING_FOLLOWS,
    TUNED,
    TUNED_WEAKER,
    Consequence,
    Finding,
    Measurement,
    Metric,
    Outcome,
    Status,
)
from pargate.report.text import (
    about,
    by_id,
    confidence,
    deciding,
    left_out,
    limit,
    measured,
    percent,
    plain,
    plural,
    rules,
    worst_first,
)

OTHERS = {"reference": "the trusted model", TUNED: "the fine-tuned copy", TUNED_WEAKER: "the fine-tuned copy",
          CLASS_NAME: "the name of the class"}  # fmt: skip
"""Baselines in words; all others are controls."""

STATES = {Status.BREACH: "breaks", Status.OPEN: "undecided", Status.WAIVED: "waived", Status.MET: "met"}


def sentence(report: ScanReport) -> str:
    """Return what decided the verdict, in plain words: the class, the share, the count, the limit, the confidence."""
    broken = [f for f in worst_first(report) if f.status is Status.BREACH and f.consequence is Consequence.FAIL]
    found = broken[0] if broken and broken[0].rule in report.verdict.decided_by else None
    if any(stage.attempt for stage in report.stages):  # the verdict says what became of the attempts
        found = None
    said = _breach(report, found) if found is not None and report.verdict.status is Outcome.FAIL else ""
    return said or plain(report.verdict.summary)


def _breach(report: ScanReport, finding: Finding) -> str:
    """Return a breach of a limit in plain words; empty if it is of another kind."""
    measurement, bound = by_id(report).get(finding.measurement or ""), deciding(finding)
    if measurement is None or bound is None or bound.against != "limit":
        return ""
    allowed = f"The policy allows {'at most' if bound.upper else 'no less than'} {plain(bound.limit_text, 60)}"
    allowed += f", at {100 * confidence(report):g}% confidence."
    trigger, target = measurement.trigger, measurement.target
    # The share and the excess are of the same images, which may be fewer than those of the attack success.
    pairs = measurement.pairs if bound.metric == Metric.EXCESS else None
    counted = pairs.hits if pairs is not None else measurement.counts.get(str(Metric.ATTACK_SUCCESS))
    if trigger is not None and target is not None and counted is not None and counted.n:
        what = "captions" if measurement.probe == "text" else "images"
        share = f"{counted.successes:,} of {counted.n:,} {what} ({percent(counted.rate or 0.0)})"
        said = f"The trigger {plain(trigger.label, 100)} moves {share} to {plain(target.name, 100)}"
        if pairs is not None:
            other = OTHERS.get(pairs.baseline, "its control")
            said += f", {100 * (pairs.excess or 0.0):.1f} points more than {other} does"
        rank = measurement.searched.ranked if measurement.searched else None
        if bound.metric == Metric.P_VALUE and rank is not None:
            said += f", and the embeddings as far as {rank.as_high} of {plural(rank.models, 'trusted model')}"
            allowed = (
                f"That is a p-value of {percent(rank.p_value)}, and the policy asks for more than "
                f"{plain(bound.limit_text, 60)}."
            )
        return f"{said}. {allowed}"
    counted = measurement.counts.get(bound.metric)
    words = {"accuracy": "names {} right", "recall": "finds the caption of {}"}.get(bound.metric)
    if words is None or counted is None or not counted.n:
        return ""
    share = f"{counted.successes:,} of {counted.n:,} images"
    return f"The model {words.format(share)} ({percent(counted.rate or 0.0)}). {allowed}"


class RuleLine(NamedTuple):
    """The state of a rule on one line."""

    rule: str
    status: Status | None
    """The worst status of its comparisons; None if the scan left the rule out."""
    text: str


def rule_lines(report: ScanReport) -> list[RuleLine]:
    """Return one line for each rule, worst first; rules that were left out come last."""
    measurements = by_id(report)
    by_rule: dict[str, list[Finding]] = {}
    for finding in worst_first(report):
        by_rule.setdefault(finding.rule, []).append(finding)
    lines = [RuleLine(rule, found[0].status, _state(found, measurements)) for rule, found in by_rule.items()]
    why = left_out(report)
    others = [rule for rule in rules(report) if rule not in by_rule and report.measurements]
    return [
        *lines,
        *(RuleLine(rule, None, f"left out: {why.get(rule) or 'nothing was measured'}") for rule in others),
    ]


def _state(found: list[Finding], measurements: dict[str, Measurement]) -> str:
    """Return the state of a rule: how many comparisons are as the worst one, and the worst one itself."""
    worst = found[0]
    same = [finding for finding in found if finding.status is worst.status]
    said = "break" if worst.status is Status.BREACH and len(same) > 1 else STATES[worst.status]
    if len(found) > 1:
        said = f"{len(same)} of {len(found)} {said}"
        if worst.status is Status.MET:
            triggers = [m.trigger for f in found if (m := measurements.get(f.measurement or "")) is not None]
            drawn = dict.fromkeys(trigger.kind for trigger in triggers if trigger is not None and trigger.one_drawing)
            each = " each" if len(drawn) > 1 else ""
            return f"{said}, by one drawing{each} of {', '.join(drawn)}" if drawn else said
    if worst.consequence is not Consequence.FAIL and worst.status in (Status.BREACH, Status.OPEN):
        said += f" ({worst.consequence} only)"
    if worst.message.endswith(NOTHING_FOLLOWS):
        return f"{said}: nothing follows from these images"  # a note says why, once
    bound = deciding(worst)
    if bound is None:
        return f"{said}: {plain(worst.message, 300)}"
    return f"{said}: {about(worst, measurements)}, {measured(bound)}, limit {limit(bound)}"
