"""A report on a terminal or in a log: the verdict first, then what decided it, and what to do next."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pargate.cli.style import MARKS, STYLES, VERDICTS, Shown
from pargate.report.steps import command_of, next_steps
from pargate.report.summary import RuleLine, rule_lines, sentence
from pargate.report.text import (
    about,
    acceptance,
    bundle_name,
    by_id,
    classes,
    compared_with,
    models,
    original,
    stages,
    unfit,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pargate.core.report import ScanReport
    from pargate.core.results import Bound, Finding, Measurement, Verdict

INDENT = 2

NOTES = 100
"""Maximum number of notes of a report."""


def screen(
    report: "ScanReport", width: int, *, verbose: bool, made: Iterable[str] = (), folder: str = ""
) -> "Iterator[RenderableType]":
    """Yield a report from its verdict to its next steps, for a screen of `width` columns.

    `verbose` adds all rows; `made` says what was written, and `folder` is that of the bundle.
    """
    yield badge(report.verdict).append(f" {named(report)}")
    yield Shown(sentence(report))
    for line in _subject(report):
        yield Shown(line, style="dim")
    if verbose or not unfit(report):  # rules from which nothing follows only mislead
        yield ""
        yield from _rules(rule_lines(report), width)
    if verbose:
        yield ""
        yield from _details(report)
    yield from _said(report, notices=verbose or not unfit(report))
    limits = report.coverage.limits
    yield from _listed("Not tested", limits if verbose else (_first(limit) for limit in limits))
    yield from _listed("Stages", (f"{name}: {said}" for name, said in stages(report)))
    made = list(made)
    if made:
        yield ""
    yield from map(Shown, made)
    yield from _listed("Next", next_steps(report, folder), bold=True)


def named(report: "ScanReport") -> str:
    """Return the model as the command named it, and the bundle that was made from it."""
    bundle, source = bundle_name(report), original(report).source
    return f"{bundle}, made from {source}" if bundle else source


def badge(verdict: "Verdict") -> Shown:
    """Return a verdict in colour."""
    return Shown().append(f" {verdict.status.upper()} ", style=VERDICTS[verdict.status])


def _rules(lines: "list[RuleLine]", width: int) -> "Iterator[RenderableType]":
    """Yield the mark, the name and the state of each rule; no name is cut or broken."""
    names = max((len(line.rule) for line in lines), default=0)
    beside = names + 4 <= width // 2
    grid = Table.grid(padding=(0, 2), pad_edge=False)
    for _ in range(2 if beside else 1):
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        mark, style = (MARKS[line.status][:1], STYLES[line.status]) if line.status is not None else ("–", "dim")
        if beside:
            grid.add_row(Shown(mark, style=style), Shown(line.rule), Shown(line.text))
        else:
            grid.add_row(Shown(mark, style=style), Shown(f"{line.rule}:").append(f" {line.text}"))
    yield grid


def _details(report: "ScanReport") -> "Iterator[RenderableType]":
    """Yield each comparison: what was measured on two lines, so that narrow screens break no number."""
    measurements = by_id(report)
    for finding in report.findings:
        style = STYLES[finding.status]
        yield Shown(f"{MARKS[finding.status]} ", style=style).append(
            f"{finding.rule}: {about(finding, measurements)}", style="default"
        )
        for row in _rows(finding, measurements.get(finding.measurement or "")):
            yield Padding(Shown(row), (0, 0, 0, 2 * INDENT), expand=False)


def _rows(finding: "Finding", measurement: "Measurement | None") -> Iterator[str]:
    if not finding.bounds:
        yield finding.message
    for bound in finding.bounds:
        limit = f"{'≤' if bound.upper else '≥'} {bound.limit_text}"
        parts = [_measured(bound, measurement), _interval(bound), f"limit {limit}", f"n {bound.n}"]
        yield ", ".join(part for part in parts if part)


def _measured(bound: "Bound", measurement: "Measurement | None") -> str:
    name = bound.metric.replace("_", " ")
    success = measurement.counts.get("attack_success") if measurement is not None else None
    if measurement is not None and measurement.pairs is not None and bound.metric == "excess":
        success = measurement.pairs.hits  # of the same images as the excess
    rate = success.rate if success is not None else None
    if bound.estimate is not None:
        text = f"{name} {bound.estimate:.1%}"
        if bound.metric in ("excess", "p_value") and rate is not None:
            text += f" (success {rate:.1%})"
        return text
    return f"{name} below success {rate:.1%}" if rate is not None and bound.n else f"{name} not measured"


def _interval(bound: "Bound") -> str:
    if bound.metric == "p_value":
        return ""
    low = "" if bound.estimate is None else f"{bound.low:.1%} "
    return f"{low}… {bound.high:.1%}"


def _said(report: "ScanReport", *, notices: bool) -> "Iterator[RenderableType]":
    lines = [(f"note: {notice}", "yellow") for notice in report.notices if notices]
    lines += [(f"{remark.id}: {remark.message}", "yellow") for remark in report.remarks]
    lines += [
        (f"waived: {finding.rule}: {acceptance(finding)}", "cyan")
        for finding in report.findings
        if finding.waiver is not None
    ]
    if len(lines) > NOTES:
        lines[NOTES:] = [(f"note: {len(lines) - NOTES} more notes are in the report", "yellow")]
    if lines:
        yield ""
    for text, style in lines:
        yield Shown(text, style=style)


def _listed(title: str, items: Iterable[str], *, bold: bool = False) -> "Iterator[RenderableType]":
    """Yield a title and its items, each indented; nothing without items."""
    rows = list(items)
    if not rows:
        return
    yield ""
    yield Text(title, style="bold" if bold else "dim")
    for row in rows:
        # A command stands on a line of its own that is not broken, so that it can be copied.
        text, command = command_of(row)
        if text:
            yield hanging(f"{' ' * INDENT}{'→' if bold else '-'} ", Shown(text, style="" if bold else "dim"))
        if command:
            # In a group, since printing a text alone forgets that it must not wrap.
            yield Group(Shown(f"{' ' * 2 * INDENT}{command}", no_wrap=True, overflow="ignore"))


def hanging(mark: str | Text, text: Text) -> Table:
    """Return a text behind a mark; lines that the screen breaks begin below the text, not below the mark."""
    grid = Table.grid(padding=0)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Shown(mark, style="dim") if isinstance(mark, str) else mark, text)
    return grid


def _first(text: str) -> str:
    """Return the first part of a limit of the scan; the rest explains it."""
    return text.split(": ")[0].split(". ")[0].rstrip(".") + "."


def _subject(report: "ScanReport") -> Iterator[str]:
    run = report.run
    if not report.run.device:
        yield f"policy {report.policy.name}; nothing was loaded or measured"
        return
    reference = f", {compared_with(report)} {report.reference.source}" if report.reference else ""
    (_, model), *others = models(report)
    made = "".join(f"; {name.lower()} sha256 {other.sha256[:12]}" for name, other in others)
    yield f"{model.architecture}, {model.parameters / 1e6:.1f} M parameters, sha256 {model.sha256[:12]}{made}"
    yield (
        f"policy {report.policy.name} ({report.policy.source}){reference}; "
        f"{report.images.read} of {report.images.listed} images from "
        f"{report.images.source}, {classes(report)}; {run.forward_passes} forward passes in "
        f"{run.seconds:.1f} s ({run.device}, {run.precision})"
    )
