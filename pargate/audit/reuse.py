"""Saved measurements in place of new ones: only where the very bytes that the ledger names are still there.

Whatever is missing, changed, cut short, too old for the policy or about something else is measured again.
"""

import hashlib
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import ValidationError

from pargate.audit.fingerprint import Subject
from pargate.audit.ledger import report_path
from pargate.core.report import ScanReport
from pargate.errors import InputError
from pargate.files import read_bytes
from pargate.judge.rejudge import judge


def saved(out: Path, subject: Subject, digest: str, today: date) -> ScanReport | str:
    """Saved measurements judged as of today, or why they are not used."""
    path = report_path(out, digest)
    try:
        content = read_bytes(path)
    except OSError:
        return "the saved report is not there"
    if hashlib.sha256(content).hexdigest() != digest:
        return "the saved report is not as it was written"
    try:
        report = ScanReport.from_json(content)
    except ValidationError:
        return "the saved report cannot be read by this pargate"
    if not report.run.complete or any(m.stopped == "budget" for m in report.measurements):
        return "the saved run was cut short"
    if report.model.sha256 != subject.model or report.policy.sha256 != subject.policy.sha256:
        return "the saved report is about something else"
    age = age_of(report, today)
    most = subject.policy.policy.evidence.max_age
    if age is None or age < -1:
        return "the saved report is not dated, or from the future"
    if most is not None and age > int(most.removesuffix("d")):
        return f"the saved measurements are {age} days old, and the policy lets them become {most}"
    try:
        return judge(report, subject.policy, today=today)
    except InputError as error:
        return error.message


def age_of(report: ScanReport, today: date) -> int | None:
    """Days since the measuring run began; negative for one in the future."""
    try:
        moment = datetime.fromisoformat(report.run.started)
    except ValueError:
        return None
    return (today - (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()).days
