"""A report as GitHub workflow commands: annotations on the lines of the policy, worst first.

A step shows ten annotations of each kind and silently drops the rest, so the tenth counts the rest. GitHub executes
the printed commands, so foreign text is escaped.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pargate.core.report import ScanReport, SourceSpan
from pargate.core.results import Consequence, Finding, Outcome, Status
from pargate.report import text as texts
from pargate.report.formats.base import FORMATS, Format

MOST_SHOWN = 9
"""Maximum number of annotations of a kind, besides the one that counts the rest."""

MOST_TEXT = 4096
"""Maximum length of a message, in characters."""

VERDICTS = {
    Outcome.PASS: "notice",
    Outcome.REMEDIATED: "notice",
    Outcome.FAIL: "error",
    Outcome.INCONCLUSIVE: "warning",
}
COMMANDS = {Consequence.FAIL: "error", Consequence.WARN: "warning", Consequence.NOTE: "notice"}


@dataclass(frozen=True, slots=True)
class Annotation:
    """One workflow command, not yet escaped."""

    command: str
    title: str
    message: str
    place: SourceSpan | None = None


def render(report: ScanReport) -> str:
    """Return the workflow commands, one per line."""
    kinds: dict[str, list[Annotation]] = {command: [] for command in COMMANDS.values()}
    for annotation in _annotations(report):
        kinds[annotation.command].append(annotation)
    return "".join(f"{_line(a)}\n" for annotations in kinds.values() for a in _most(annotations))


def _most(annotations: list[Annotation]) -> list[Annotation]:
    shown, rest = annotations[:MOST_SHOWN], annotations[MOST_SHOWN:]
    if rest:
        command = rest[0].command
        shown.append(Annotation(command, "pargate", f"and {len(rest)} more of this kind; the JSON report has them all"))
    return shown


def _annotations(report: ScanReport) -> Iterator[Annotation]:
    """Yield all annotations, the worst of each kind first."""
    verdict = report.verdict
    yield Annotation(VERDICTS[verdict.status], f"pargate: {verdict.status}", verdict.summary)
    for finding in texts.worst_first(report):
        if finding.status is not Status.MET and not (finding.status is Status.OPEN and texts.unfit(report)):
            yield _finding(report, finding)
    for remark in report.remarks:
        place = texts.in_repository(report.policy.origins.get(remark.key))
        yield Annotation(COMMANDS[remark.level], f"pargate: {remark.id}", remark.message, place)
    for notice in report.notices:
        yield Annotation("notice", "pargate", notice)


def _finding(report: ScanReport, finding: Finding) -> Annotation:
    message = texts.alone(report, finding)
    match finding.status:
        case Status.OPEN:
            command = "warning"
        case Status.WAIVED:
            command = "notice"
            message = f"accepted by a waiver ({texts.acceptance(finding)}): {message}"
        case _:
            command = COMMANDS[finding.consequence]
    title = f"pargate: {finding.rule} {finding.status}"
    return Annotation(command, title, message, texts.place_of(report, finding))


def _line(annotation: Annotation) -> str:
    properties = {"title": annotation.title}
    if annotation.place is not None:
        place = annotation.place
        properties |= {"file": place.file, "line": str(place.line), "col": str(place.column)}
        properties |= {"endLine": str(place.line), "endColumn": str(place.end_column)}
    return command(annotation.command, annotation.message, **properties)


def command(kind: str, message: str, **properties: str) -> str:
    """Return a workflow command with its message and properties escaped."""
    joined = ",".join(
        f"{key}={_escape(value).replace(':', '%3A').replace(',', '%2C')}" for key, value in properties.items()
    )
    return f"::{kind} {joined}::{_escape(message)}"


def _escape(text: str) -> str:
    """Return escaped text of at most `MOST_TEXT` characters."""
    clean = texts.plain(text, MOST_TEXT)
    escaped = clean.replace("%", "%25")
    if len(escaped) <= MOST_TEXT:
        return escaped
    return re.sub("%2?$", "", escaped[: MOST_TEXT - 1]) + texts.CUT


FORMATS.add("github")(Format(render, "", "text/plain"))
