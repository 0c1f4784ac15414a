"""The Markdown pages of an audit: one for all models, and one for each. Foreign text is escaped."""

from collections.abc import Iterator, Sequence

from pargate.core.audit import AuditIndex, ModelState, Standing
from pargate.report.audit_html import LIMIT, conclusion, facts, model_facts, said, worst_first
from pargate.report.formats.markdown import escape, fitting

MARKS = {
    Standing.FAIL: "❌ fail",
    Standing.ERROR: "⚠️ not judged",
    Standing.INCONCLUSIVE: "❔ inconclusive",
    Standing.REMEDIATED: "✅ remediated",
    Standing.PASS: "✅ pass",
}

HEADER = (
    "| | model | owner | highest attack success | clean accuracy | measured | new | remarks |",
    "|---|---|---|---|---|---|---|---|",
)

ROOM = 600_000
"""Maximum size of the table of models, in bytes; GitHub drops a summary of more than 1 MiB."""

PAST = 200
"""Maximum number of audits in the table of a model; the latest are kept."""


def index(audit: AuditIndex) -> str:
    """Return the page of all models, the worst first, of less than 900 000 bytes."""
    blocks = [
        "<!-- pargate:audit -->",
        f"## pargate audit, {escape(audit.started[:10])}",
        escape(conclusion(audit)),
        _table(worst_first(audit)),
        _gone(audit),
        escape(LIMIT),
        _details(list(facts(audit))),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _table(states: Sequence[ModelState]) -> str:
    shown, left_out = fitting(map(_row, states), ROOM)
    cut = ["", f"The table is cut: {left_out} more models, none worse, are in index.json."] if left_out else []
    return "\n".join([*HEADER, *shown, *cut])


def _row(state: ModelState) -> str:
    when = f"{state.measured_at[:10]}{', reused' if state.reused else ''}" if state.measured_at else "–"
    remarks = [state.overdue and f"Overdue: {state.overdue}", state.message if state.exit_code else ""]
    cells = (
        escape(state.name, 200),
        escape(state.owner, 200),
        escape(said(state.attack) + (f" {state.attack.subject}" if state.attack else ""), 300),
        escape(said(state.accuracy)),
        escape(when),
        "yes" if state.regression else "",
        escape(" ".join(r for r in remarks if r), 600),
    )
    return f"| {MARKS[state.standing]} | {' | '.join(cells)} |"


def _gone(audit: AuditIndex) -> str:
    return f"No longer in the inventory: {escape(', '.join(audit.gone), 2000)}" if audit.gone else ""


def _details(pairs: Sequence[tuple[str, str]]) -> str:
    lines = [f"- {escape(name)}: {escape(value)}" for name, value in pairs]
    return "\n".join(["<details><summary>Details</summary>", "", *lines, "", "</details>"])


def model(audit: AuditIndex, state: ModelState) -> str:
    """Return the page of one model: its standing, its changes and its history."""
    return "\n\n".join(_blocks(audit, state)) + "\n"


def _blocks(audit: AuditIndex, state: ModelState) -> Iterator[str]:
    yield f"## {MARKS[state.standing]}: {escape(state.name, 200)}"
    yield escape(state.message)
    if state.hint:
        yield escape(state.hint)
    if state.regression:
        yield f"**{'Counts as new' if state.previous else 'First audited here'}:** {escape(state.regression)}"
    if state.overdue:
        yield f"**Overdue:** {escape(state.overdue)}"
    yield "### What changed since the last audit"
    if state.previous is None:
        yield "No finished audit has looked at this model before."
    elif state.changes:
        yield "\n".join(f"- **{change.about}** {escape(change.text)}" for change in state.changes)
    elif not state.inputs:
        yield "It could not be examined, so nothing can be compared."
    else:
        yield f"Nothing is known to have changed since {escape(state.previous.time[:10])}."
    yield "### Facts"
    yield "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in model_facts(state))
    yield "### What this cannot show"
    yield "\n".join(f"- {escape(text)}" for text in (*state.limits, LIMIT))
    yield f"Probed: {escape(', '.join(state.probed) or 'nothing', 4000)}"
    yield "### All audits"
    rows = [
        f"| {escape(p.time[:16])} | {MARKS[p.standing]} | {escape(said(p.attack))} | {escape(said(p.accuracy))} |"
        for p in reversed(state.history[-PAST:])
    ]
    yield "\n".join(["| when | verdict | highest attack success | clean accuracy |", "|---|---|---|---|", *rows])
    yield f"pargate {escape(audit.pargate)}, audit {escape(audit.audit)}"
