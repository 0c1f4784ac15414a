"""A report as SARIF 2.1.0, for code scanning.

The schema asks for little and GitHub for more: whole rules, a first location with all four numbers of its region, no
empty strings, one stable fingerprint. What holds is left out, since GitHub opens an alert for every result. A model
is no text file, so a result points at the line of the policy that it answers, and names the model beside it.
"""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from pargate.core.report import ScanReport, SourceSpan
from pargate.core.results import UNSAFE_FILE, Consequence, Finding, Outcome, Remark, Severity, Status
from pargate.errors import visible_json
from pargate.report import text as texts
from pargate.report.formats.base import FORMATS, Format

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

MOST_RESULTS = 25_000
"""GitHub rejects a file with more in one run."""

MOST_ID = 255
"""Characters of a rule's id that GitHub accepts."""

MOST_TEXT = 1024
"""Characters of a rule's descriptions that GitHub accepts."""

NOWHERE = SourceSpan(file="pargate.yaml", line=1, column=1, end_column=2)
"""GitHub drops a result without a place. A rule that is built in points at the file where a policy would be written."""

LEVELS = {Consequence.FAIL: "error", Consequence.WARN: "warning", Consequence.NOTE: "note"}

SCORES = {Severity.CRITICAL: "9.5", Severity.HIGH: "8.0", Severity.MEDIUM: "5.5", Severity.LOW: "2.0"}
"""GitHub names a score from 9.0 critical, from 7.0 high, from 4.0 medium; it must be a string."""

UNSAFE_RULE = {
    "probe": "file",
    "severity": "critical",
    "why": "A model file must not be able to run code when it is loaded.",
    "help": "Nothing of such a file is loaded. Ask its author for safetensors or ONNX.",
}
"""What refuses a file before any policy is asked, in the form of a policy's rules."""


Object = dict[str, Any]
"""An object of SARIF."""


def render(report: ScanReport) -> str:
    """SARIF 2.1.0 with one run, as JSON text.

    Raises:
        InputError: the report does not say when its run began.
    """
    name = texts.model_name(report)
    rules = {rule["id"]: rule for rule in _rules(report)}
    positions = {id: index for index, id in enumerate(rules)}
    notable = [
        (finding, fingerprint)
        for finding, fingerprint in zip(report.findings, texts.fingerprints(report), strict=True)
        if finding.status is not Status.MET
    ]
    left_out = max(0, len(notable) - MOST_RESULTS)
    began = texts.started(report)
    run = {
        "tool": {
            "driver": {
                "name": report.tool.name,
                "version": texts.plain(report.tool.version),
                "rules": [*rules.values()],
            }
        },
        "automationDetails": {"id": f"pargate/{quote(name)}/{quote(texts.policy_name(report), safe='')}/"},
        "invocations": [
            {
                "executionSuccessful": report.run.complete,
                "startTimeUtc": f"{began:%Y-%m-%dT%H:%M:%SZ}",
                "endTimeUtc": f"{began + timedelta(seconds=report.run.seconds):%Y-%m-%dT%H:%M:%SZ}",
                "toolExecutionNotifications": [*_notifications(report, left_out)],
            }
        ],
        "columnKind": "unicodeCodePoints",
        "properties": {
            "verdict": report.verdict.status,
            "modelSha256": texts.plain(report.model.sha256),
            "policySha256": texts.plain(report.policy.sha256),
        },
        "results": [
            _result(report, f, positions[texts.plain(f.rule, MOST_ID)], mark) for f, mark in notable[:MOST_RESULTS]
        ],
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return visible_json(json.dumps(_pruned(document), indent=1, ensure_ascii=False)) + "\n"


def _pruned(value: Any) -> Any:
    """Return the document without None, empty texts, tuples and objects, which GitHub refuses; an empty list stays."""
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if item is not None and item not in ("", (), {})}
    if isinstance(value, list | tuple):
        return [_pruned(item) for item in value]
    return value


def _rules(report: ScanReport) -> Iterator[Object]:
    """Every rule of the policy, whatever was found, then the one that no policy writes."""
    documents = texts.rules(report) | {UNSAFE_FILE: UNSAFE_RULE}
    for finding in report.findings:  # a saved report may name others
        documents.setdefault(finding.rule, {"severity": finding.severity})
    for id, rule in documents.items():
        probe = texts.plain(str(rule.get("probe") or "other"), 80)
        why = texts.plain(str(rule.get("why") or ""), MOST_TEXT)
        help = texts.plain(str(rule.get("help") or ""))
        asks = texts.plain(_asks(rule, probe), MOST_TEXT)
        yield {
            "id": texts.plain(id, MOST_ID),
            "shortDescription": {"text": why or asks},
            "fullDescription": {"text": texts.plain(f"{why} {asks}", MOST_TEXT)},
            "help": {"text": texts.plain(f"{why} {asks} {help}")},
            "helpUri": help if re.fullmatch(r"https://[!-~]+", help) else None,
            "properties": {
                "security-severity": SCORES.get(rule.get("severity", ""), SCORES[Severity.HIGH]),
                "tags": ["security", "machine-learning", f"probe/{probe}"],
                # What inspection reads is there or not; the rest is sampled.
                "precision": "very-high" if probe == "file" else "high",
            },
        }


def _asks(rule: dict[str, Any], probe: str) -> str:
    """What a rule of a policy asks, in one sentence."""
    parts = [f"The probe {probe}"]
    triggers = [t if isinstance(t, str) else str(t.get("kind", "")) for t in rule.get("triggers") or ()]
    if triggers:
        parts.append(f"with {', '.join(triggers)} towards {', '.join(map(str, rule.get('target') or ()))}")
    limits = [
        f"{metric} {word} {limit}"
        for key, word in (("max", "at most"), ("min", "at least"))
        for metric, limit in (rule.get(key) or {}).items()
    ]
    asked = ", ".join(limits) or "what the policy allows"
    return f"{' '.join(parts)}: {asked}."


def _result(report: ScanReport, finding: Finding, rule_index: int, fingerprint: str) -> Object:
    name = texts.model_name(report)
    # Standard SARIF knows a level for failures only; GitHub shows no result without one.
    open_ = finding.status is Status.OPEN
    bound = texts.deciding(finding)
    numbers = (
        {}
        if bound is None
        else bound.model_dump(mode="json", include={"metric", "limit", "n", "estimate", "low", "high"})
    )
    scanned = {"physicalLocation": {"artifactLocation": {"uri": quote(name)}}, "id": 1}
    return {
        "ruleId": texts.plain(finding.rule, MOST_ID),
        "ruleIndex": rule_index,
        "kind": "review" if open_ else "fail",
        "level": "warning" if open_ else LEVELS[finding.consequence],
        "message": {"text": texts.headline(finding)},
        "locations": [_location(texts.place_of(report, finding), name)],
        "relatedLocations": [scanned | {"message": {"text": "the model that was scanned"}}],
        "partialFingerprints": {"primaryLocationLineHash": fingerprint, "pargate/v1": fingerprint},
        "suppressions": ({"justification": texts.acceptance(finding), "kind": "external", "status": "accepted"},)
        if finding.status is Status.WAIVED
        else (),
        "properties": {"status": finding.status, "severity": finding.severity, **numbers},
    }


def _location(place: SourceSpan | None, name: str) -> Object:
    place = place or NOWHERE
    region = {  # counted from 1; the end column is the first one behind
        "startLine": place.line,
        "startColumn": place.column,
        "endLine": place.line,
        "endColumn": max(place.end_column, place.column + 1),
    }
    return {
        "physicalLocation": {"artifactLocation": {"uri": quote(place.file)}, "region": region},
        "logicalLocations": [{"fullyQualifiedName": name, "kind": "resource"}],
    }


def _notifications(report: ScanReport, left_out: int) -> Iterator[Object]:
    if not report.run.complete:
        yield _notification("error", "run-interrupted", "The run was interrupted before it was done.")
    if report.verdict.status is Outcome.INCONCLUSIVE:
        yield _notification("warning", "inconclusive", report.verdict.summary)
    if left_out:
        yield _notification("error", "results-left-out", f"{left_out} more results are in the JSON report alone.")
    for remark in report.remarks:
        yield _remark(report, remark)
    for notice in report.notices:
        yield _notification("note", "notice", notice)


def _remark(report: ScanReport, remark: Remark) -> Object:
    place = texts.in_repository(report.policy.origins.get(remark.key))
    where = (_location(place, texts.model_name(report)),) if place else ()
    return _notification(LEVELS[remark.level], remark.id, remark.message, where)


def _notification(level: str, id: str, message: str, locations: tuple[Object, ...] = ()) -> Object:
    return {
        "level": level,
        "message": {"text": texts.plain(message) or id},
        "descriptor": {"id": texts.plain(id)},
        "locations": locations,
    }


FORMATS.add("sarif")(Format(render, "report.sarif", "application/sarif+json"))
