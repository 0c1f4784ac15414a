"""A report as SARIF 2.1.0, for code scanning.

GitHub requires more than the schema: complete rules, a first location with all four numbers of its region, no empty
strings and a stable fingerprint. Findings that are met are left out, since GitHub opens an alert for every result. A
result points at the line of the policy, because a model is not a text file. The picture of a found trigger is attached.
"""

import json
import re
import shlex
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
"""Maximum number of results in a run that GitHub accepts."""

MOST_ID = 255
"""Maximum length of a rule's id that GitHub accepts, in characters."""

MOST_TEXT = 1024
"""Maximum length of a rule's description that GitHub accepts, in characters."""

NOWHERE = SourceSpan(file="pargate.yaml", line=1, column=1, end_column=2)
"""Place of the findings about a model and a policy from elsewhere; GitHub drops a result without a place."""

LEVELS = {Consequence.FAIL: "error", Consequence.WARN: "warning", Consequence.NOTE: "note"}

SCORES = {Severity.CRITICAL: "9.5", Severity.HIGH: "8.0", Severity.MEDIUM: "5.5", Severity.LOW: "2.0"}
"""Scores as strings; GitHub shows a score from 9.0 as critical, from 7.0 as high and from 4.0 as medium."""

UNSAFE_RULE = {
    "probe": "file",
    "severity": "critical",
    "why": "A model file must not be able to run code when it is loaded.",
    "help": "Nothing of such a file is loaded. Ask its author for safetensors or ONNX.",
}
"""The rule that refuses a file before a policy is applied."""

Object = dict[str, Any]


def render(report: ScanReport) -> str:
    """Return SARIF 2.1.0 with one run, as JSON.

    Raises:
        InputError: the start of the run is not a time.
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
    shown = {finding.measurement for finding, _ in notable[:MOST_RESULTS]}
    triggers = {m.id: m.trigger for m in report.measurements if m.id in shown and m.trigger is not None}
    pictures = {id: picture for id, trigger in triggers.items() if (picture := texts.png(trigger.picture))}
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
        "artifacts": tuple(
            {"location": {"uri": _uri(id)}, "mimeType": "image/png", "contents": {"binary": picture}}
            for id, picture in pictures.items()
        ),
        "results": [
            _result(report, f, positions[texts.plain(f.rule, MOST_ID)], mark, [*pictures])
            for f, mark in notable[:MOST_RESULTS]
        ],
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return visible_json(json.dumps(_pruned(document), indent=1, ensure_ascii=False)) + "\n"


def _pruned(value: Any) -> Any:
    """Return the document without None, empty strings, tuples and objects, which GitHub refuses; empty lists stay."""
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if item is not None and item not in ("", (), {})}
    if isinstance(value, list | tuple):
        return [_pruned(item) for item in value]
    return value


def _rules(report: ScanReport) -> Iterator[Object]:
    """Yield every rule of the policy, then the built-in one and those of the findings alone."""
    documents = texts.rules(report) | {UNSAFE_FILE: UNSAFE_RULE}
    for finding in report.findings:  # a saved report may name others
        documents.setdefault(finding.rule, {"severity": finding.severity})
    for id, rule in documents.items():
        probe = texts.plain(str(rule.get("probe") or "other"), 80)
        why = texts.plain(str(rule.get("why") or ""), MOST_TEXT)
        help = texts.plain(str(rule.get("help") or ""))
        limited = {**(rule.get("max") or {}), **(rule.get("min") or {}), **(rule.get("worsening") or {})}
        meanings = " ".join(meaning for metric, meaning in texts.MEANINGS.items() if metric in limited)
        option = "" if id == UNSAFE_FILE else texts.policy_option(report)
        more = texts.plain(f"On the command line: pargate explain {shlex.quote(id)}{option}")
        asks = texts.plain(_asks(rule, probe), MOST_TEXT)
        yield {
            "id": texts.plain(id, MOST_ID),
            "shortDescription": {"text": why or asks},
            "fullDescription": {"text": texts.plain(f"{why} {asks}", MOST_TEXT)},
            "help": {"text": texts.plain(f"{why} {asks} {meanings} {help} {more}")},
            "helpUri": help if re.fullmatch(r"https://[!-~]+", help) else None,
            "properties": {
                "security-severity": SCORES.get(rule.get("severity", ""), SCORES[Severity.HIGH]),
                "tags": ["security", "machine-learning", f"probe/{probe}"],
                # Inspection is exact; other probes sample.
                "precision": "very-high" if probe == "file" else "high",
            },
        }


def _asks(rule: dict[str, Any], probe: str) -> str:
    """Return the requirement of a rule in one sentence."""
    parts = [f"The probe {probe}"]
    kinds = [t if isinstance(t, str) else str(t.get("kind", "")) for t in rule.get("triggers") or ()]
    triggers = dict.fromkeys(kinds)  # a rule may name several settings of a kind
    if triggers:
        parts.append(f"with {', '.join(triggers)} towards {', '.join(map(str, rule.get('target') or ()))}")
    allowed = (rule.get("allow") or {}).get("formats")
    limits = [f"the format {' or '.join(map(str, allowed))}"] if allowed else []
    limits += [
        f"{metric} {word} {limit}"
        for key, word in (("max", "at most"), ("min", "at least"))
        for metric, limit in (rule.get(key) or {}).items()
    ]
    limits += [f"{metric} at most {limit} worse" for metric, limit in (rule.get("worsening") or {}).items()]
    asked = ", ".join(limits) or "what the policy allows"
    return f"{' '.join(parts)}: {asked}."


def _uri(measurement: str) -> str:
    """Return the name of the picture of a found trigger."""
    return quote(f"{texts.plain(measurement, MOST_ID)}.png")


def _attachments(finding: Finding, pictures: list[str]) -> tuple[Object, ...]:
    """Return the picture of a found trigger; `pictures` holds the measurements that have one, in their order."""
    id = finding.measurement or ""
    if id not in pictures:
        return ()
    place = {"uri": _uri(id), "index": pictures.index(id)}
    return ({"description": {"text": "The pattern that the search found, as PNG."}, "artifactLocation": place},)


def _result(report: ScanReport, finding: Finding, rule_index: int, fingerprint: str, pictures: list[str]) -> Object:
    name = texts.model_name(report)
    # The standard has a level for failures only, but GitHub requires one for every result.
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
        "message": {"text": texts.alone(report, finding)},
        "locations": [_location(texts.place_of(report, finding) or texts.some_place(report), name)],
        "relatedLocations": [scanned | {"message": {"text": "the model that was scanned"}}],
        "attachments": _attachments(finding, pictures),
        "partialFingerprints": {"primaryLocationLineHash": fingerprint, "pargate/v1": fingerprint},
        "suppressions": ({"justification": texts.acceptance(finding), "kind": "external", "status": "accepted"},)
        if finding.status is Status.WAIVED
        else (),
        "properties": {"status": finding.status, "severity": finding.severity, **numbers},
    }


def _location(place: SourceSpan | None, name: str) -> Object:
    place = place or NOWHERE
    region = {  # counted from 1; the end column is exclusive
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
