"""The result of one model against the last complete audit: its entry for the ledger, and its state for the pages."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import ValidationError

from pargate.audit.fingerprint import Fingerprint, age_of
from pargate.audit.inventory import Entry
from pargate.audit.ledger import report_path
from pargate.core.audit import Change, Linked, ModelEntry, ModelState, Point, Previous, Rate, Standing
from pargate.core.report import ScanReport
from pargate.core.results import Count, Measurement
from pargate.errors import ExitCode, PargateError
from pargate.files import readable
from pargate.judge.bounds import interval
from pargate.policy.compare import changes
from pargate.policy.schema import Policy
from pargate.report.text import subject

LEVEL = 0.95
"""Confidence level of the intervals in a trend."""

LISTED = 20
"""Maximum number of listed changes of a policy."""

ORDER = (Standing.PASS, Standing.REMEDIATED, Standing.INCONCLUSIVE, Standing.ERROR, Standing.FAIL)
"""Standings from best to worst."""

CODES = {
    Standing.PASS: ExitCode.OK,
    Standing.REMEDIATED: ExitCode.OK,
    Standing.FAIL: ExitCode.FAIL,
    Standing.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}

MESSAGE = 4000
"""Maximum length of a message, in characters."""


def attack(report: ScanReport) -> Rate | None:
    """Return the highest attack success of any trigger."""
    found = [m for m in report.measurements if m.trigger and m.counts.get("attack_success", Count(n=0, successes=0)).n]
    return max((_rate(m, "attack_success") for m in found), key=lambda r: (r.rate, r.n), default=None)


def accuracy(report: ScanReport) -> Rate | None:
    """Return the zero-shot accuracy on clean images."""
    found = [m for m in report.measurements if m.probe == "utility" and m.counts.get("accuracy")]
    return _rate(found[0], "accuracy") if found and found[0].counts["accuracy"].n else None


def _rate(measurement: Measurement, name: str) -> Rate:
    count = measurement.counts[name]
    # Sampling stops once a rule is decided, so a fixed-sample interval would be too narrow.
    low, high = interval(count, (1 - LEVEL) / 2, (1 - LEVEL) / 2)
    return Rate(
        subject=subject(measurement), n=count.n, successes=count.successes, low=low, high=high, level=LEVEL
    )  # fmt: skip


def regression(now: ModelEntry, before: ModelEntry | None) -> str:
    """Return why a model is worse than in the last complete audit; empty if it is not."""
    if now.standing in (Standing.PASS, Standing.REMEDIATED):
        return ""
    if before is None:
        return "no complete audit has judged it before"
    if now.standing is Standing.ERROR:
        same = before.standing is Standing.ERROR and (before.exit_code, before.message) == (now.exit_code, now.message)
        return "" if same else "it could not be judged, and the last audit had no such error"
    if ORDER.index(now.standing) > ORDER.index(before.standing):
        return f"it was {before.standing} in the last audit"
    if now.standing is Standing.FAIL:
        # A file that was refused as unsafe has no digest, only a message.
        refused_otherwise = not now.key and now.message != before.message
        if now.inputs.get("model") != before.inputs.get("model") or refused_otherwise:
            return "it is another checkpoint than the one that failed in the last audit"
        added = sorted(set(now.decided_by) - set(before.decided_by))
        return f"rules that did not fail in the last audit: {', '.join(added)}" if added else ""
    return ""


def between(
    now: ModelEntry, before: ModelEntry | None, report: ScanReport | None, old: ScanReport | None
) -> list[Change]:
    """Return the changes since the last complete audit; those of the policy by value if both reports exist."""
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
        yield Change(about="model", text=f"Its source is {now.source}, and was {before.source}.")
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
        yield Change(about="probes", text="A trigger, or a file that it reads, changed.")
    if now.inputs.get("seed") != before.inputs.get("seed"):
        text = f"The seed is {now.inputs.get('seed')}, and was {before.inputs.get('seed')}."
        yield Change(about="probes", text=text)


def _policy_changes(report: ScanReport | None, old: ScanReport | None) -> list[Change]:
    if report is None or old is None:
        return []
    try:
        policies = [Policy.model_validate(r.policy.document) for r in (old, report)]
    except ValidationError:  # written by another version
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


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The result of one model: a report, or an error."""

    item: Entry
    fingerprint: Fingerprint | None
    report: ScanReport | None = None
    content: bytes = b""
    """Bytes of the report as judged now."""
    measured: str = ""
    reused: bool = False
    remeasured: str = ""
    error: PargateError | None = None


def entry_of(result: ModelResult, digest: str, link: Linked) -> ModelEntry:
    """Return the entry of the ledger; `digest` is that of the report as judged now."""
    report, fingerprint, error = result.report, result.fingerprint, result.error
    standing = Standing.ERROR if report is None else Standing(str(report.verdict.status))
    return ModelEntry(
        **link.model_dump(),
        model=result.item.name,
        source=result.item.source,
        standing=standing,
        exit_code=CODES[standing] if standing is not Standing.ERROR else (error.exit_code if error else ExitCode.BUG),
        message=_bounded(report.verdict.summary if report is not None else (error.message if error else "")),
        decided_by=report.verdict.decided_by if report is not None else (),
        key=fingerprint.key if fingerprint is not None else "",
        inputs=fingerprint.inputs if fingerprint is not None else {},
        measured=result.measured,
        report=digest,
        attack=attack(report) if report is not None else None,
        accuracy=accuracy(report) if report is not None else None,
    )


def _bounded(text: str) -> str:
    """Return a message as valid text of at most `MESSAGE` characters."""
    return readable(text[:MESSAGE])


def state_of(result: ModelResult, entry: ModelEntry, past: Sequence[ModelEntry], out: Path, today: date) -> ModelState:
    """Return the state of a model for the pages; `past` holds its entries of complete audits, `out` their reports."""
    item, report = result.item, result.report
    before = past[-1] if past else None
    return ModelState(
        name=item.name,
        slug=item.slug,
        source=item.source,
        owner=item.owner,
        tags=item.tags,
        policy=item.policy,
        standing=entry.standing,
        exit_code=entry.exit_code,
        message=entry.message,
        hint=_bounded(result.error.hint) if result.error else "",
        regression=regression(entry, before),
        key=entry.key,
        inputs=entry.inputs,
        measured=result.measured,
        report=entry.report,
        measured_at=report.run.started if report is not None else "",
        reused=result.reused,
        remeasured=result.remeasured,
        age_days=age_of(report, today) if report is not None else None,
        max_age=(result.fingerprint.policy.policy.evidence.max_age or "") if result.fingerprint else "",
        cadence_days=item.cadence_days,
        overdue=_overdue(item, entry, past),
        attack=entry.attack,
        accuracy=entry.accuracy,
        images_read=report.images.read if report is not None else 0,
        probed=report.coverage.probed if report is not None else (),
        limits=report.coverage.limits if report is not None else (),
        previous=Previous(
            sequence=before.sequence, time=before.time, standing=before.standing, report=before.report
        ) if before else None,
        changes=tuple(between(entry, before, report, _report_of(before, out))),
        history=tuple(
            Point(time=e.time, standing=e.standing, attack=e.attack, accuracy=e.accuracy) for e in (*past, entry)
        ),
    )  # fmt: skip


def _report_of(entry: ModelEntry | None, out: Path) -> ScanReport | None:
    """Return the report of an entry; None if it is missing or changed."""
    if entry is None or not entry.report:
        return None
    with contextlib.suppress(OSError, ValidationError):
        content = report_path(out, entry.report).read_bytes()
        if hashlib.sha256(content).hexdigest() == entry.report:
            return ScanReport.from_json(content)
    return None


def _overdue(item: Entry, entry: ModelEntry, past: Sequence[ModelEntry]) -> str:
    """Return by how much a model misses the cadence of the inventory; empty if it does not."""
    if item.cadence_days is None:
        return ""
    judged = [e for e in past if e.standing is not Standing.ERROR]
    expected = f"expected every {item.cadence_days} days"
    if not judged:
        return f"It has not been judged yet; {expected}." if entry.standing is Standing.ERROR else ""
    days = (date.fromisoformat(entry.as_of) - date.fromisoformat(judged[-1].as_of)).days
    if days <= item.cadence_days:
        return ""
    if entry.standing is Standing.ERROR:
        return f"It was last judged {days} days ago; {expected}."
    return f"It was judged {days} days after the time before; {expected}."
