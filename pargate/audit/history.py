"""What became of one model in an audit, beside the audit before: its entry for the ledger, its state for the pages."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import ValidationError

from pargate.audit.fingerprint import Subject, age_of
from pargate.audit.inventory import Kept
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
"""Of the intervals in a trend."""

LISTED = 20
"""Changes of a policy that are listed, at most; the digest tells the others."""

ORDER = (Standing.PASS, Standing.REMEDIATED, Standing.INCONCLUSIVE, Standing.ERROR, Standing.FAIL)
"""From best to worst."""

CODES = {
    Standing.PASS: ExitCode.OK,
    Standing.REMEDIATED: ExitCode.OK,
    Standing.FAIL: ExitCode.FAIL,
    Standing.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}

MESSAGE = 4000
"""Characters of a message that are kept, at most."""


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one model: a report, or an error."""

    kept: Kept
    subject: Subject | None
    report: ScanReport | None = None
    content: bytes = b""
    """Of the report as it is judged now."""
    measured: str = ""
    reused: bool = False
    remeasured: str = ""
    error: PargateError | None = None


def entry_of(outcome: Outcome, digest: str, link: Linked) -> ModelEntry:
    """The entry of the ledger; `digest` is of the report as it is judged now."""
    report, subject, error = outcome.report, outcome.subject, outcome.error
    standing = Standing.ERROR if report is None else Standing(str(report.verdict.status))
    return ModelEntry(
        **link.model_dump(),
        model=outcome.kept.name,
        source=outcome.kept.source,
        standing=standing,
        exit_code=CODES[standing] if standing is not Standing.ERROR else (error.exit_code if error else ExitCode.BUG),
        message=_kept(report.verdict.summary if report is not None else (error.message if error else "")),
        decided_by=report.verdict.decided_by if report is not None else (),
        key=subject.key if subject is not None else "",
        inputs=subject.inputs if subject is not None else {},
        measured=outcome.measured,
        report=digest,
        attack=attack(report) if report is not None else None,
        accuracy=accuracy(report) if report is not None else None,
    )


def _kept(text: str) -> str:
    """A message as a ledger can hold it: names of files in it may be no text, or as long as a file."""
    return readable(text[:MESSAGE])


def state_of(outcome: Outcome, entry: ModelEntry, past: Sequence[ModelEntry], out: Path, today: date) -> ModelState:
    """What the pages say; `past` holds the model's entries of finished audits, and `out` their reports."""
    kept, report = outcome.kept, outcome.report
    before = past[-1] if past else None
    return ModelState(
        name=kept.name,
        slug=kept.slug,
        source=kept.source,
        owner=kept.owner,
        tags=kept.tags,
        policy=kept.policy,
        standing=entry.standing,
        exit_code=entry.exit_code,
        message=entry.message,
        hint=_kept(outcome.error.hint) if outcome.error else "",
        regression=regression(entry, before),
        key=entry.key,
        inputs=entry.inputs,
        measured=outcome.measured,
        report=entry.report,
        measured_at=report.run.started if report is not None else "",
        reused=outcome.reused,
        remeasured=outcome.remeasured,
        age_days=age_of(report, today) if report is not None else None,
        max_age=(outcome.subject.policy.policy.evidence.max_age or "") if outcome.subject else "",
        cadence_days=kept.cadence_days,
        overdue=_overdue(kept, entry, past),
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
    """The report that an entry is of, if it is still there as it was."""
    if entry is None or not entry.report:
        return None
    with contextlib.suppress(OSError, ValidationError):
        content = report_path(out, entry.report).read_bytes()
        if hashlib.sha256(content).hexdigest() == entry.report:
            return ScanReport.from_json(content)
    return None


def _overdue(kept: Kept, entry: ModelEntry, past: Sequence[ModelEntry]) -> str:
    """How late a model was judged, or that it still is not, against what the inventory expects."""
    if kept.cadence_days is None:
        return ""
    judged = [e for e in past if e.standing is not Standing.ERROR]
    expected = f"expected every {kept.cadence_days} days"
    if not judged:
        return f"It has not been judged yet; {expected}." if entry.standing is Standing.ERROR else ""
    days = (date.fromisoformat(entry.as_of) - date.fromisoformat(judged[-1].as_of)).days
    if days <= kept.cadence_days:
        return ""
    if entry.standing is Standing.ERROR:
        return f"It was last judged {days} days ago; {expected}."
    return f"It was judged {days} days after the time before; {expected}."
