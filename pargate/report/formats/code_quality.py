"""A report as a GitLab Code Quality document: one issue for each finding that does not hold, or one for the verdict.

GitLab shows an issue in the merge request by its path and line, and tells new ones from old ones by the fingerprint.
"""

import hashlib
import json
from typing import Any

from pargate.core.report import ScanReport, SourceSpan
from pargate.core.results import Consequence, Finding, Outcome, Severity, Status
from pargate.errors import visible_json
from pargate.report import text as texts
from pargate.report.formats.base import FORMATS, Format

SEVERITIES = {
    Severity.CRITICAL: "blocker",
    Severity.HIGH: "critical",
    Severity.MEDIUM: "major",
    Severity.LOW: "minor",
}
"""Severity of a breach; what is open, waived or only a warning is `info`."""


def render(report: ScanReport) -> str:
    """Return the issues, worst first, as a JSON list."""
    marks = dict(zip(map(id, report.findings), texts.fingerprints(report), strict=True))
    issues = [
        _issue(report, finding, marks[id(finding)])
        for finding in texts.worst_first(report)
        if finding.status is not Status.MET
    ]
    if not issues and not report.verdict.status.passes:  # decided by no rule, such as the accuracy budget of a gate
        issues = [_whole(report)]
    return visible_json(json.dumps(issues, indent=1, ensure_ascii=False)) + "\n"


def _issue(report: ScanReport, finding: Finding, fingerprint: str) -> dict[str, Any]:
    counts = finding.status is Status.BREACH and finding.consequence is Consequence.FAIL
    return {
        "description": f"{finding.status}: {texts.alone(report, finding)}",
        "check_name": texts.plain(finding.rule, 255),
        "fingerprint": fingerprint,
        "severity": SEVERITIES[finding.severity] if counts else "info",
        "location": _location(texts.place_of(report, finding) or texts.some_place(report)),
    }


def _whole(report: ScanReport) -> dict[str, Any]:
    """Return an issue for the verdict."""
    verdict = report.verdict
    name = texts.plain(next(iter(verdict.decided_by), "verdict"), 255)
    return {
        "description": texts.plain(f"{verdict.status}: {verdict.summary} Model: {texts.model_name(report)}."),
        "check_name": name,
        "fingerprint": hashlib.sha256(json.dumps(["verdict", name, texts.model_name(report)]).encode()).hexdigest(),
        "severity": "critical" if verdict.status is Outcome.FAIL else "info",
        "location": _location(texts.some_place(report)),
    }


def _location(place: SourceSpan | None) -> dict[str, Any]:
    return {"path": place.file if place else "pargate.yaml", "lines": {"begin": place.line if place else 1}}


FORMATS.add("code-quality")(Format(render, "gl-code-quality-report.json", "application/json"))
