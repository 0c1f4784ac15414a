"""A report as Markdown, for the summary of a step or a comment on a pull request.

A hidden marker comes first; a later run finds the comment by it. GitHub drops a summary of more than 1 MiB, so each
section has a maximum size and says what it leaves out. Syntax in foreign text is written as character references.
"""

import re
from collections.abc import Iterable, Iterator

from pargate.core.report import ScanReport
from pargate.core.results import NOTHING_FOLLOWS, Consequence, Finding, Measurement, Outcome, Status
from pargate.report import text as texts
from pargate.report.formats.base import FORMATS, Format
from pargate.report.steps import next_steps

TABLE_ROOM = 600_000
"""Maximum size of the table of findings, in bytes."""

PART_ROOM = 40_000
"""Maximum size of each of the seven other lists, in bytes: 880 000 with the table."""

VERDICTS = {
    Outcome.PASS: "✅ pass",
    Outcome.REMEDIATED: "✅ remediated",
    Outcome.FAIL: "❌ fail",
    Outcome.INCONCLUSIVE: "❔ inconclusive",
}

MARKS = {Status.BREACH: "❌ breach", Status.OPEN: "❔ open", Status.WAIVED: "⏸ waived", Status.MET: "✅ met"}

LEVELS = {Consequence.FAIL: "fails", Consequence.WARN: "warning", Consequence.NOTE: "note"}

HEADER = ("| | rule | trigger → target | measured | limit | n |", "|---|---|---|---|---|--:|")

# GitHub finds links and mentions after it resolves references, so those need more than a reference.
_SYNTAX = re.compile(r"[&<>|\\`*_\[\]#~$]|@|://|www\.")
_APART = {"@": "&#64;&#8203;", "://": "&#58;&#8203;//", "www.": "www&#8203;&#46;"}


def render(report: ScanReport) -> str:
    """Return GitHub Markdown of less than 900 000 bytes."""
    measurements = texts.by_id(report)
    blocks = [
        _marker(report),
        f"## {VERDICTS[report.verdict.status]}: {escape(texts.title(report), 400)}",
        escape(report.verdict.summary),
        _table(report, measurements),
        _list("Stages of the gate", (f"**{stage}** {escape(said)}" for stage, said in texts.stages(report))),
        _list("What to do next", (escape(step) for step in next_steps(report))),
        _list("Waivers", _waivers(report, measurements)),
        _list("Remarks", (f"**{LEVELS[r.level]}** {escape(r.message)}" for r in report.remarks)),
        _list("Notes", map(escape, report.notices)),
        "" if texts.unfit(report) else _coverage(report),
        _details(report),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(text: str, most: int = 1000) -> str:
    """Return foreign text as one line without GitHub Markdown syntax."""
    return _SYNTAX.sub(lambda m: _APART.get(m[0]) or f"&#{ord(m[0])};", texts.plain(text, most))


def _marker(report: ScanReport) -> str:
    about = f"{texts.model_name(report)}:{texts.policy_name(report)}"
    # Two dashes end a comment.
    return f"<!-- pargate:{re.sub(r'-{2,}', '-', re.sub(r'[^A-Za-z0-9._/:-]+', '-', about))} -->"


def fitting(lines: Iterable[str], room: int) -> tuple[list[str], int]:
    """Return the lines that fit into `room` bytes, and the number of the others."""
    shown: list[str] = []
    left_out = 0
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            left_out += 1
        else:
            shown.append(line)
    return shown, left_out


def _list(title: str, items: Iterable[str]) -> str:
    lines, left_out = fitting((f"- {item}" for item in items), PART_ROOM)
    if left_out:
        lines.append(f"- and {left_out} more; the JSON report has them all.")
    return "\n".join([f"### {title}", "", *lines]) if lines else ""


def _table(report: ScanReport, measurements: dict[str, Measurement]) -> str:
    if texts.unfit(report):
        return ""  # nothing follows from these rows
    rows = [row for finding in texts.worst_first(report) for row in _rows(finding, measurements)]
    rows += [
        f"| – left out | {escape(rule, 200)} | | {escape(why)} | | |" for rule, why in texts.left_out(report).items()
    ]
    shown, left_out = fitting(rows, TABLE_ROOM)
    if not shown:
        return ""
    lines = [*HEADER, *shown]
    if left_out:
        lines += ["", f"The table is cut: {left_out} more rows, none worse than these, are in the JSON report."]
    return "\n".join(lines)


def _rows(finding: Finding, measurements: dict[str, Measurement]) -> Iterator[str]:
    status = MARKS[finding.status]
    if finding.status is Status.BREACH and finding.consequence is not Consequence.FAIL:
        status += f" ({finding.consequence})"
    start = f"| {status} | {escape(finding.rule, 200)} | {escape(texts.about(finding, measurements))}"
    if not finding.bounds:
        yield f"{start} | {escape(finding.message)} | | |"
    for bound in finding.bounds:
        yield f"{start} | {texts.measured(bound)} | {escape(texts.limit(bound))} | {bound.n} |"


def _waivers(report: ScanReport, measurements: dict[str, Measurement]) -> Iterator[str]:
    for finding in report.findings:
        if finding.waiver is not None:
            about = escape(f"{finding.rule}, {texts.about(finding, measurements)}")
            yield f"**{about}**: {escape(texts.acceptance(finding))}"


def _coverage(report: ScanReport) -> str:
    probed = ", ".join(report.coverage.probed) or "nothing"
    sentence = f"Probed: {escape(probed)}. What this scan cannot show:"
    limits = _list("Coverage", (escape(limit) for limit in report.coverage.limits))
    return (
        limits.replace("### Coverage\n", f"### Coverage\n\n{sentence}\n", 1) or f"### Coverage\n\n{sentence} all else."
    )


def _details(report: ScanReport) -> str:
    run, images, named = report.run, report.images, texts.models(report)
    model = named[0][1]
    facts = {name.lower(): f"{m.source}, {m.format}, {m.size_bytes / 1e6:.1f} MB" for name, m in named}
    facts |= {f"SHA-256 of the {name.lower()}": m.sha256 for name, m in named}
    facts |= {
        "architecture": model.architecture and f"{model.architecture}, {model.parameters / 1e6:.1f} M parameters",
        "reference": f"{report.reference.source}, {report.reference.sha256}" if report.reference else "",
        "images": f"{images.read} of {images.listed} from {images.source}" if images.source else "",
        "classes": f"{report.classes.count} from {report.classes.source}" if report.classes.source else "",
        "policy": f"{report.policy.name}, {report.policy.source}, {report.policy.sha256}",
        "run": f"{run.id}, {run.started}, {run.seconds:.1f} s, {run.device}, {run.precision}, seed {run.seed}",
        "pargate": report.tool.version,
    }
    lines = [f"- {name}: {escape(value)}" for name, value in facts.items() if value]
    if not texts.unfit(report):
        # The table has the numbers of a decided finding; an open one also needs its reason, unless a note has it.
        undecided = (f for f in texts.worst_first(report) if f.status is Status.OPEN and f.bounds)
        lines += [f"- {escape(texts.headline(f))}" for f in undecided if not f.message.endswith(NOTHING_FOLLOWS)]
        measured = texts.by_id(report)
        found = (measured.get(f.measurement or "") for f in texts.worst_first(report) if f.status is not Status.MET)
        lines += [f"- {escape(said)}" for said in filter(None, map(texts.recipe, found))]
    shown, left_out = fitting(lines, PART_ROOM)
    if left_out:
        shown.append(f"- and {left_out} more; the JSON report has them all.")
    return "\n".join(["<details><summary>Details</summary>", "", *shown, "", "</details>"])


FORMATS.add("markdown")(Format(render, "report.md", "text/markdown"))
