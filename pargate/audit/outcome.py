"""What became of one model in an audit: its entry for the ledger, and its state for the pages."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import ValidationError

from pargate.audit.fingerprint import Subject
from pargate.audit.history import accuracy, attack, between, regression
from pargate.audit.inventory import Kept
from pargate.audit.ledger import report_path
from pargate.audit.reuse import age_of
from pargate.core.audit import Linked, ModelEntry, ModelState, Point, Previous, Standing
from pargate.core.report import ScanReport
from pargate.errors import ExitCode, PargateError
from pargate.files import readable

CODES = {
    Standing.PASS: ExitCode.OK,
    Standing.REMEDIATED: ExitCode.OK,
    Standing.FAIL: ExitCode.FAIL,
    Standing.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
}


MESSAGE = 4000
"""Characters of a message that are kept, at most."""


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
