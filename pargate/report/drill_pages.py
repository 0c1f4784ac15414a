"""The report of a drill as JSON, Markdown and HTML, and as lines for the console. Foreign text is escaped."""

from collections.abc import Callable, Iterator, Mapping

from pargate.core.drill import UNTOUCHED, DrillReport, PlantedCopy, Share
from pargate.report.bars import share
from pargate.report.curves import Detected, detection
from pargate.report.formats.html import page
from pargate.report.formats.markdown import escape
from pargate.report.text import percent, plain, plural

LIMIT = (
    "A drill shows what the policy finds of backdoors like these, planted in this way. Other backdoors may be found "
    "more or less often."
)

HEADER = ("copy", "target", "attack success before", "after", "plain images as before", "verdict", "result", "rules")


def conclusion(drill: DrillReport) -> str:
    """Return what the policy caught, in one sentence."""
    took = [copy for copy in drill.copies if copy.took]
    caught = sum(copy.result == "caught" for copy in took)
    if not took:
        return f"No planted backdoor took, so the drill does not show what {drill.policy} catches."
    return f"The policy {drill.policy} caught {caught} of {plural(len(took), 'planted backdoor')}."


def remarks(drill: DrillReport) -> Iterator[str]:
    """Yield what is caught from which strength on, false alarms, and what is missing."""
    for family in dict.fromkeys(point.family for point in drill.curve if point.family != "all"):
        points = [point for point in drill.curve if point.family == family]
        whole = [p.caught.count.successes == p.caught.count.n for p in points]
        first = next((p.strength for i, p in enumerate(points) if all(whole[i:])), None)
        told = f"all caught from strength {first:g} on" if first is not None else "not all caught at the strongest"
        if not any(p.caught.count.successes for p in points):
            told = "none caught"
        yield f"{family}: {told} ({', '.join(f'{p.strength:g}: {_counted(p.caught)}' for p in points)})."
    for point in drill.curve:
        if point.family == "all":
            yield f"All families at strength {point.strength:g}: {_counted(point.caught)}, {_span(point.caught)}."
    yield (
        f"False alarms: {_counted(drill.false_alarms)} of the untouched model and copies without a trigger, "
        f"{_span(drill.false_alarms)}."
    )
    yield f"Reference of the scans: {drill.reference}."
    if drill.reference == UNTOUCHED:
        yield "A gate without a trusted model sees less: drill with --reference none."
    for result, words in (
        ("not planted", "Did not take, and in no count"),
        ("not decided", "Not decided, so not caught (an inconclusive scan may stop a build, but finds nothing)"),
        ("failed otherwise", "Failed without naming the target, so not caught"),
    ):
        some = [f"{copy.family} {copy.strength:g}" for copy in drill.copies if copy.family != "clean"
                and copy.result == result]  # fmt: skip
        if some:
            yield f"{words}: {', '.join(some)}."
    if drill.missing:
        yield f"Did not fit into the budget, and not counted: {'; '.join(drill.missing)}."


def _counted(found: Share) -> str:
    return f"{found.count.successes} of {found.count.n}"


def _span(found: Share) -> str:
    return f"{percent(found.low)} to {percent(found.high)} at 95 % confidence"


def table(drill: DrillReport) -> list[tuple[str, ...]]:
    """Return the rows below `HEADER`: the untouched model, then every copy."""
    found: list[tuple[str, ...]] = []
    if drill.untouched:
        found.append(("untouched", "", "", "", "", str(drill.untouched.outcome), "", ""))
    return found + [_row(copy) for copy in drill.copies]


def _row(copy: PlantedCopy) -> tuple[str, ...]:
    name = f"{copy.family} {copy.strength:g}, rate {copy.rate:g}" if copy.trigger else "without a trigger"
    rates = [share(count.rate or 0.0) for count in (copy.before, copy.after)] if copy.trigger else ["", ""]
    result = copy.result if copy.trigger else ""
    target = copy.target if copy.trigger else ""
    return (name, target, *rates, share(copy.same.rate or 0.0), str(copy.outcome), result, ", ".join(copy.named))


def lines(drill: DrillReport) -> Iterator[str]:
    """Yield the report as lines of text: each copy with its result, and below it what was measured."""
    for row in table(drill):
        name, target, before, after, same, verdict, result, rules = (plain(cell, 60) for cell in row)
        yield f"{name}{f' → {target}' if target else ''}: {result or verdict}"
        attack = f"attack success {before} before, {after} after; " if before else ""
        if same:
            yield f"    {attack}{same} of plain images as before" + (f"; verdict {verdict}" if result else "")
        if rules:
            yield f"    breaks {rules}"
    yield conclusion(drill)
    yield from remarks(drill)


def markdown(drill: DrillReport) -> str:
    """Return the report as GitHub Markdown."""
    rows = [f"| {' | '.join(escape(cell, 200) for cell in row)} |" for row in (HEADER, *table(drill))]
    blocks = [
        f"## Fire drill: {escape(drill.model, 200)}",
        escape(conclusion(drill)),
        "\n".join(f"- {escape(remark, 4000)}" for remark in remarks(drill)),
        "\n".join([rows[0], "|" + "---|" * len(HEADER), *rows[1:]]),
        escape(LIMIT),
    ]
    return "\n\n".join(blocks) + "\n"


def html(drill: DrillReport) -> str:
    """Return the report as a page that loads nothing and runs no script."""
    from markupsafe import Markup

    points = [
        Detected(p.family, p.strength, p.caught.count.rate or 0.0, p.caught.low, p.caught.high) for p in drill.curve
    ]
    return page(
        "drill.html.j2", drill=drill, conclusion=conclusion(drill), remarks=tuple(remarks(drill)), header=HEADER,
        table=table(drill), limit=LIMIT, chart=Markup(detection(points, drill.policy)),
    )  # fmt: skip


PAGES: Mapping[str, tuple[str, Callable[[DrillReport], str]]] = {
    "json": ("drill.json", DrillReport.to_json),
    "markdown": ("drill.md", markdown),
    "html": ("drill.html", html),
}
"""File name and function of each form of the report."""
