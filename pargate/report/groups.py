"""The rules of a report with their comparisons, worst first, as the HTML page shows them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pargate.core.report import ScanReport
from pargate.core.results import (
    RANK,
    TUNED,
    TUNED_WEAKER,
    UNSAFE_FILE,
    Consequence,
    Count,
    Finding,
    Measurement,
    Metric,
    PairedCounts,
    Severity,
    Status,
    WaiverUse,
)
from pargate.report import text as texts
from pargate.report.bars import WORDS, Axis, Bar, axes_of, bar_of, share
from pargate.report.text import by_id, plain, plural, rules

BASELINES = {
    "control:flat": "Plain patch as control",
    "control:shuffled": "Shuffled pattern as control",
    "reference": "Reference model, same trigger",
    TUNED: "Fine-tuned copy, same trigger",
    TUNED_WEAKER: "Fine-tuned copy, same trigger",
}
DIRECTIONS = {"image-to-text": "image finds caption", "text-to-image": "caption finds image"}
EFFECTS = {
    Consequence.FAIL: "makes the verdict fail",
    Consequence.WARN: "warning",
    Consequence.NOTE: "note",
}
STOPPED = {
    "decided": "the rule was decided",
    "images": "there were no more images",
    "budget": "the budget was spent",
}

_LEVELS = list(Consequence)
_SEVERITIES = list(Severity)


@dataclass(frozen=True, slots=True)
class Pull:
    """The share of images that one kind of stamp moves to a class."""

    name: str
    kind: str
    rate: str
    width: float
    target: str
    count: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finding with its bars and details."""

    title: str
    target: str
    direction: str
    status: str
    word: str
    effect: str
    message: str
    bars: tuple[Bar, ...]
    found: str
    pulls: tuple[Pull, ...]
    details: tuple[tuple[str, str], ...]
    picture: str
    """Pattern that a search found: PNG as base64, or empty."""
    waiver: WaiverUse | None
    waiver_reason: str


@dataclass(frozen=True, slots=True)
class Group:
    """A rule with its comparisons, worst first."""

    id: str
    severity: str
    probe: str
    why: str
    help: str
    linked: bool
    status: str
    word: str
    counts: str
    shown: tuple[Comparison, ...]
    """Comparisons that are not met."""
    met: tuple[Comparison, ...]


def tally(findings: Sequence[Finding]) -> tuple[tuple[str, str, int], ...]:
    """Return each status, its name and its number of findings, worst first."""
    return tuple((str(s), WORDS[s], sum(f.status is s for f in findings)) for s in RANK)


def grouped(report: ScanReport) -> tuple[Group, ...]:
    """Return all rules of the policy and of the findings, worst first."""
    written = rules(report)
    by_rule: dict[str, list[Finding]] = {id: [] for id in written}
    for finding in report.findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    measurements = by_id(report)
    ranked = sorted(by_rule, key=lambda id: min(map(_rank, by_rule[id]), default=(len(RANK), 0, 0)))
    why = texts.left_out(report)
    return tuple(_group(id, written.get(id, {}), by_rule[id], measurements, why.get(id, "")) for id in ranked)


def _rank(finding: Finding) -> tuple[int, int, int]:
    return RANK[finding.status], _LEVELS.index(finding.consequence), _SEVERITIES.index(finding.severity)


def _closeness(finding: Finding) -> float:
    """Return the distance of the interval's end beyond the limit; negative if the limit is kept."""
    return max(((b.high - b.limit) if b.upper else (b.limit - b.low) for b in finding.bounds), default=0.0)


def _group(
    id: str,
    rule: Mapping[str, Any],
    findings: Sequence[Finding],
    measurements: Mapping[str, Measurement],
    left_out: str,
) -> Group:
    ordered = sorted(findings, key=lambda f: (_rank(f), -_closeness(f)))
    axes = axes_of([bound for finding in ordered for bound in finding.bounds])
    views = [_comparison(f, measurements.get(f.measurement or ""), axes) for f in ordered]
    link = str(rule.get("help") or "")
    counts = ", ".join(f"{n} {word.lower()}" for _, word, n in tally(ordered) if n)
    return Group(
        id=id,
        severity=str(ordered[0].severity if ordered else rule.get("severity", "")),
        probe=str(rule.get("probe", "")),
        why=str(rule.get("why") or ""),
        help=link,
        linked=_is_web(link),
        status=str(ordered[0].status) if ordered else "none",
        word=WORDS[ordered[0].status] if ordered else "Left out" if left_out else "Not judged",
        counts=counts or left_out or "no comparison was made",
        shown=tuple(view for view in views if view.status != Status.MET),
        met=tuple(view for view in views if view.status == Status.MET),
    )


def _is_web(link: str) -> bool:
    try:
        parts = urlsplit(link)
    except ValueError:
        return False
    return link == plain(link) and parts.scheme in ("http", "https") and bool(parts.hostname)


def _comparison(finding: Finding, measurement: Measurement | None, axes: Mapping[tuple[str, str], Axis]) -> Comparison:
    trigger = measurement.trigger if measurement else None
    target = measurement.target if measurement else None
    title = trigger.label if trigger else "The weights file" if measurement and measurement.facts else "Clean images"
    if trigger is not None and trigger.one_drawing and finding.status is Status.MET:
        title += " (this one drawing)"
    if measurement is None:
        title = "The weights file" if finding.rule == UNSAFE_FILE else "Not measured"
    baseline = measurement.pairs.baseline if measurement and measurement.pairs else ""
    found = ""
    if target is not None:
        found = (
            "The policy names this class."
            if target.given
            else f"The policy names no class. This one was chosen on {plural(target.selection_n, 'image')} that were "
            f"set aside for choosing (gain there {share(target.selection_gain)}); none of them was measured."
        )
    tail = measurement.id.rstrip("'").rsplit("/", 1)[-1] if measurement and measurement.probe == "retrieval" else ""
    return Comparison(
        title=title,
        target=target.name if target else "",
        direction=DIRECTIONS.get(tail, ""),
        status=str(finding.status),
        word=WORDS[finding.status],
        effect=""
        if finding.consequence is Consequence.FAIL or finding.status is Status.MET
        else f"{EFFECTS[finding.consequence]} only",
        message=finding.message,
        bars=tuple(bar_of(b, baseline, axes[b.metric, b.against]) for b in finding.bounds),
        found=found,
        pulls=tuple(_pulls(measurement)) if measurement else (),
        details=tuple(_details(finding, measurement)) if measurement else (),
        picture=png(trigger.picture) if trigger else "",
        waiver=finding.waiver,
        waiver_reason=finding.waiver.reason.replace("-", " ") if finding.waiver else "",
    )


def png(text: str) -> str:
    """Return the base64 of a PNG for a page, or an empty text if it is none."""
    from markupsafe import Markup

    # Markup, because `plain` would cut it; base64 needs no escaping.
    return Markup(texts.png(text))


def _pulls(measurement: Measurement) -> Iterator[Pull]:
    target, pairs = measurement.target, measurement.pairs
    if target is None:
        return
    if pairs is None:
        success = measurement.counts.get(str(Metric.ATTACK_SUCCESS), Count(n=0, successes=0))
        yield _pull("With the trigger", "trigger", success, target.name)
    else:  # both on the same images
        yield _pull("With the trigger", "trigger", pairs.hits, target.name)
        yield _pull(BASELINES.get(pairs.baseline, pairs.baseline), "baseline", pairs.baseline_hits, pairs.target)


def _pull(name: str, kind: str, count: Count, target: str) -> Pull:
    rate = count.rate
    return Pull(
        name=name,
        kind=kind,
        rate="not measured" if rate is None else share(rate),
        width=round(100 * (rate or 0.0), 2),
        target=target,
        count=f"{count.successes} of {plural(count.n, 'image')}",
    )


def _details(finding: Finding, measurement: Measurement) -> Iterator[tuple[str, str]]:
    trigger, facts = measurement.trigger, measurement.facts
    if trigger is not None:
        yield "Trigger", trigger.kind
        yield "Parameters", json.dumps(trigger.parameters, ensure_ascii=False)
        yield "Trigger digest", f"sha256:{trigger.digest}"
    for bound in finding.bounds:
        yield f"Method, {str(bound.metric).replace('_', ' ')}", bound.method
    for name, count in measurement.counts.items():
        rate = "" if count.rate is None else f", {share(count.rate)}"
        yield f"Count {name}", f"{count.successes} of {count.n}{rate}"
    if measurement.pairs is not None:
        yield "Pairs", _pairs(measurement.pairs)
    if measurement.searched is not None:
        yield "Shift that the search reached", f"{measurement.searched.shift:.3f} of 4"
        if measurement.searched.ranked is not None:
            rank = measurement.searched.ranked
            yield "Rank", f"{rank.as_high} of {plural(rank.models, 'trusted model')} as high; table {rank.table}"
    if said := texts.retrieved(measurement):
        yield "Images nearest to captions with it", said
    if measurement.chance is not None:
        yield "Guessing", share(measurement.chance)
    if facts is not None:
        yield "Format", facts.format
        yield "Holds a pickle", "yes" if facts.pickle else "no"
        yield "Names operators of its own", "yes" if facts.custom_ops else "no"
    if facts is not None and facts.signature is not None:
        signed = facts.signature
        yield "Signer", signed.signer
        yield "Signature", signed.problem or f"holds, and covers {plural(signed.files, 'file')}"
    for reason, n in measurement.excluded.items():
        yield "Did not count", f"{n}: {reason}"
    if measurement.stopped:
        yield "Sampling ended because", STOPPED.get(measurement.stopped, measurement.stopped)
    if measurement.forward_passes:
        yield "Forward passes", f"{measurement.forward_passes:,}"
    yield "Measurement", measurement.id


def _pairs(pairs: PairedCounts) -> str:
    return (
        f"on {plural(pairs.n, 'image')}: both hit {pairs.both}, the trigger alone {pairs.trigger_only}, "
        f"the baseline alone {pairs.baseline_only}"
    )
