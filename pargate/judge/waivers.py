"""Waivers, each of which accepts a measured breach of one rule by one model for a limited time.

A waiver decides nothing that was open. Above its cap, after its last day, or for another model it does not count, and
a remark says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from pargate.core.results import RANK, Consequence, Finding, Measurement, Remark, Status, WaiverUse
from pargate.judge.bounds import bound
from pargate.policy.schema import Policy, Waiver
from pargate.probes.base import PROBES


@dataclass(frozen=True, slots=True)
class Context:
    """Facts that a judgement depends on besides the policy and the measurements."""

    model: str = ""
    """SHA-256 of the checkpoint, in hex."""
    today: date = date.max
    """Day of the judgement, in UTC; by default no waiver counts."""
    waive: bool = True
    """Whether waivers count."""
    previous: tuple[Measurement, ...] | None = None
    """Measurements of the last release, if any."""


NO_CONTEXT = Context()


SOON = 14
"""Days before its end at which a remark announces it."""


def _refused(policy: Policy, waiver: Waiver, context: Context) -> str:
    """Return why a waiver for this model does not count today, as the id of a remark; empty if it counts."""
    if context.today > waiver.expires:
        return "waiver-expired"
    from_day = waiver.created or context.today
    if from_day > context.today or (waiver.expires - from_day).days > policy.waiver_days:
        return "waiver-too-long"
    return ""


def _for_model(waiver: Waiver, context: Context) -> bool:
    return bool(context.model) and waiver.model == f"sha256:{context.model}"


def waived(policy: Policy, finding: Finding, measurement: Measurement, m: int, context: Context) -> Finding:
    """Apply the first waiver that counts to a breach: the finding becomes waived, or stays a breach above the cap."""
    if not context.waive:
        return finding
    for waiver in policy.waivers:
        counts = waiver.rule == finding.rule and _for_model(waiver, context)
        if not counts or _refused(policy, waiver, context):
            continue
        caps = [
            bound(
                metric, cap, metric in PROBES[measurement.probe].maxima, measurement, 1 - policy.confidence, m
            ).model_copy(update={"against": "cap"})
            for metric, cap in waiver.cap.items()
        ]  # fmt: skip
        held = min((b.status for b in caps), key=RANK.__getitem__, default=Status.MET)
        if held is Status.MET:
            use = WaiverUse(
                reason=waiver.reason, note=waiver.note, approved_by=waiver.approved_by,
                expires=waiver.expires.isoformat(), days_left=(waiver.expires - context.today).days,
            )  # fmt: skip
            return finding.model_copy(
                update={"status": Status.WAIVED, "waiver": use, "bounds": (*finding.bounds, *caps)}
            )
        words = "is above the cap of its waiver" if held is Status.BREACH else "is not yet shown to be below its cap"
        return finding.model_copy(
            update={
                "status": held,
                "bounds": (*finding.bounds, *caps),
                "message": f"{finding.message.rstrip('.')}; it was waived, but {words}.",
            }
        )
    return finding


def remarks(
    policy: Policy, findings: Sequence[Finding], context: Context, *, strict: bool = False
) -> tuple[Remark, ...]:
    """Return the remarks about waivers and about comparisons with a previous report that were not possible.

    Under `strict`, an unused waiver fails the verdict, since it could hide a later breach.
    """
    found = []
    warn, note = Consequence.WARN, Consequence.NOTE
    for number, waiver in enumerate(policy.waivers):
        key, label = f"waivers.{number}", f"The waiver of {waiver.rule}, approved by {waiver.approved_by},"
        refused = _refused(policy, waiver, context)
        uses = [f for f in findings if f.rule == waiver.rule and f.waiver is not None]
        capped = [f for f in findings if f.rule == waiver.rule and any(b.against == "cap" for b in f.bounds)]
        days = (waiver.expires - context.today).days
        if not context.waive:
            text = f"{label} was left aside as asked."
            found.append(Remark(id="waiver-ignored", level=note, key=key, message=text))
        elif not _for_model(waiver, context):
            text = f"{label} is for another model."
            found.append(Remark(id="waiver-other-model", level=note, key=key, message=text))
        elif refused == "waiver-expired":
            text = f"{label} expired on {waiver.expires}: the rule counts again."
            found.append(Remark(id=refused, level=warn, key=key, message=text))
        elif refused:
            text = f"{label} does not count: it reaches further than {policy.waiver_days} days, or begins later."
            found.append(Remark(id=refused, level=warn, key=key, message=text))
        elif not capped and not uses:
            level = Consequence.FAIL if strict else warn
            text = f"{label} accepts nothing: the rule holds, or is gone. Remove it."
            found.append(Remark(id="waiver-unused", level=level, key=key, message=text))
        elif not uses:
            text = f"{label} does not count above its cap."
            found.append(Remark(id="waiver-over-cap", level=warn, key=key, message=text))
        elif days <= SOON:
            text = f"{label} ends in {days} days."
            found.append(Remark(id="waiver-expiring", level=note, key=key, message=text))
    for rule in policy.rules:
        compared = any(b.against == "previous" for f in findings if f.rule == rule.id for b in f.bounds)
        if rule.worsening and not compared:
            what = "no previous report was given" if context.previous is None else "the previous report lacks it"
            text = f"{rule.id} limits how much worse the model may become, but {what}."
            found.append(Remark(id="not-compared", level=warn, key=f"rules.{rule.id}.worsening", message=text))
    if context.previous is not None and not any(rule.worsening for rule in policy.rules):
        text = "A previous report was given, but no rule limits how much worse the model may become (`worsening`)."
        found.append(Remark(id="previous-unused", level=note, message=text))
    return tuple(found)
