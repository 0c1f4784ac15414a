"""One audit of a model beside the one before: what changed, whether it became worse, and the numbers in front."""

from collections.abc import Iterator

from pydantic import ValidationError

from pargate.core.audit import Change, ModelEntry, Rate, Standing
from pargate.core.report import ScanReport
from pargate.core.results import Count, Measurement
from pargate.judge.bounds import interval
from pargate.policy.compare import changes
from pargate.policy.schema import Policy
from pargate.report.text import subject

LEVEL = 0.95
"""Of the intervals in a trend."""

LISTED = 20
"""Changes of a policy that are listed, at most; the digest tells the others."""

ORDER = (Standing.PASS, Standing.REMEDIATED, Standing.INCONCLUSIVE, Standing.ERROR, Standing.FAIL)
"""From best to worst."""


def attack(report: ScanReport) -> Rate | None:
    """The attack success of the trigger that has the highest."""
    found = [m for m in report.measurements if m.trigger and m.counts.get("attack_success", Count(n=0, successes=0)).n]
    return max((_rate(m, "attack_success") for m in found), key=lambda r: (r.rate, r.n), default=None)


def accuracy(report: ScanReport) -> Rate | None:
    """Zero-shot accuracy on clean carriers."""
    found = [m for m in report.measurements if m.probe == "utility" and m.counts.get("accuracy")]
    return _rate(found[0], "accuracy") if found and found[0].counts["accuracy"].n else None


def _rate(measurement: Measurement, name: str) -> Rate:
    count = measurement.counts[name]
    # Sampling stops when a rule is decided, so an interval for a fixed number of images would be too narrow.
    low, high = interval(count, (1 - LEVEL) / 2, (1 - LEVEL) / 2)
    return Rate(
        subject=subject(measurement), n=count.n, successes=count.successes, low=low, high=high, level=LEVEL
    )  # fmt: skip


def regression(now: ModelEntry, before: ModelEntry | None) -> str:
    """Why a model counts as worse than the last finished audit found it; empty where it does not."""
    if now.standing in (Standing.PASS, Standing.REMEDIATED):
        return ""
    if before is None:
        return "no finished audit has judged it before"
    if now.standing is Standing.ERROR:
        same = before.standing is Standing.ERROR and (before.exit_code, before.message) == (now.exit_code, now.message)
        return "" if same else "it could not be judged, which is not the error of the last audit"
    if ORDER.index(now.standing) > ORDER.index(before.standing):
        return f"it was {before.standing} in the last audit"
    if now.standing is Standing.FAIL:
        # Of a file that was refused as unsafe there is no digest, only what was found in it.
        refused_otherwise = not now.key and now.message != before.message
        if now.inputs.get("model") != before.inputs.get("model") or refused_otherwise:
            return "another checkpoint than the one that failed in the last audit"
        added = sorted(set(now.decided_by) - set(before.decided_by))
        return f"rules that did not fail in the last audit: {', '.join(added)}" if added else ""
    return ""


def between(
    now: ModelEntry, before: ModelEntry | None, report: ScanReport | None, old: ScanReport | None
) -> list[Change]:
    """What differs from the last finished audit; of the policy value by value where both reports are at hand."""
    if before is None or not before.inputs or not now.inputs:
        return []
    return [
        *_of_model(now, before),
        *_of_policy(now, before, report, old),
        *_of_data(now, before),
        *_of_pargate(now, before),
    ]


def _of_model(now: ModelEntry, before: ModelEntry) -> Iterator[Change]:
    if now.source != before.source:
        yield Change(about="model", text=f"It is taken from {now.source}, and was from {before.source}.")
    new, old = now.inputs.get("model", ""), before.inputs.get("model", "")
    if new != old:
        names = ("weights", "configuration")
        for name, is_now, was in zip(names, (new.split() or [""] * 2), (old.split() or [""] * 2), strict=True):
            if is_now != was:
                yield Change(about="model", text=f"Its {name} changed: sha256 {_short(was)}, now {_short(is_now)}.")


def _of_policy(
    now: ModelEntry, before: ModelEntry, report: ScanReport | None, old: ScanReport | None
) -> Iterator[Change]:
    if now.inputs.get("policy") != before.inputs.get("policy"):
        listed = _policy_changes(report, old)
        was, new = _short(before.inputs.get("policy", "")), _short(now.inputs.get("policy", ""))
        yield Change(about="policy", text=f"The resolved policy changed: sha256 {was}, now {new}.")
        yield from listed[:LISTED]
        if len(listed) > LISTED:
            yield Change(about="policy", text=f"And {len(listed) - LISTED} more changes of the policy.")
    elif now.inputs.get("triggers") != before.inputs.get("triggers"):
        yield Change(about="probes", text="A picture that a trigger is made of, or the drawing of a trigger, changed.")
    if now.inputs.get("seed") != before.inputs.get("seed"):
        text = f"The seed of order and stamps is {now.inputs.get('seed')}, and was {before.inputs.get('seed')}."
        yield Change(about="probes", text=text)


def _policy_changes(report: ScanReport | None, old: ScanReport | None) -> list[Change]:
    if report is None or old is None:
        return []
    try:
        policies = [Policy.model_validate(r.policy.document) for r in (old, report)]
    except ValidationError:  # written by another version; the digests say that it changed
        return []
    found = []
    for change in changes(*policies):
        text = f"{change.name}: {change.old or 'not set'} before, {change.new or 'gone'} now ({change.direction})."
        found.append(Change(about="probes" if change.key[0] == "rules" else "policy", text=text))
    return found


def _of_data(now: ModelEntry, before: ModelEntry) -> Iterator[Change]:
    for name, words in (("images", "The images"), ("classes", "The classes"), ("reference", "The reference model")):
        new, old = now.inputs.get(name, ""), before.inputs.get(name, "")
        if new != old:
            yield Change(about="data", text=f"{words} changed: sha256 {_short(old)}, now {_short(new)}.")


def _of_pargate(now: ModelEntry, before: ModelEntry) -> Iterator[Change]:
    names = [n for n in dict.fromkeys([*before.inputs, *now.inputs]) if n == "pargate" or n.startswith("library ")]
    for name in names:
        new, old = now.inputs.get(name, "absent"), before.inputs.get(name, "absent")
        if new != old:
            yield Change(about="pargate", text=f"{name.removeprefix('library ')} is {new}, and was {old}.")


def _short(digest: str) -> str:
    return digest[:12] or "not known"
