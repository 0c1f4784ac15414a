"""The HTML pages of an audit: one for all models, and one for each. They load nothing and run no script.

As in `formats/html.py`, foreign text passes `plain` and the template's escaping. The page of a model describes its
audits; the report of its scan lies beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from pargate.core.audit import AuditIndex, ModelState, Rate, Standing
from pargate.core.choices import FailOn
from pargate.report.bars import share
from pargate.report.formats.html import page
from pargate.report.text import minute, plural
from pargate.report.trend import Plot, plot

WORDS = {
    Standing.FAIL: "Fail",
    Standing.ERROR: "Not judged",
    Standing.INCONCLUSIVE: "Inconclusive",
    Standing.REMEDIATED: "Remediated",
    Standing.PASS: "Pass",
}
"""Names of the standings, the worst first."""

LIMIT = (
    "This is evidence for what was probed, on these images and within the stated confidence, and for nothing else. "
    "What no policy names was not looked for."
)

INPUTS = {
    "model": "Weights and configuration",
    "policy": "Policy, resolved",
    "triggers": "Triggers",
    "images": "Images",
    "classes": "Classes",
    "reference": "Reference model",
    "seed": "Seed",
    "pargate": "pargate",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One model on the page of all models."""

    state: ModelState
    word: str
    attack: str
    attack_about: str
    accuracy: str
    measured: str
    worst: str
    """Highest attack success and what reached it, without its interval."""
    useful: str
    """Clean accuracy without its interval."""
    age: str
    """Day of the measurements."""
    unjudged: str
    """Reason why there is no verdict; empty if there is one."""
    trend: Plot | None


def index(audit: AuditIndex) -> str:
    """Return the page of all models: a row for each, the worst first, and more about those that need a look."""
    rows = [_row(state) for state in worst_first(audit)]
    return page(
        "audit.html.j2",
        audit=audit,
        tally=[(str(s), word, n) for s, word in WORDS.items() if (n := sum(m.standing is s for m in audit.models))],
        rows=rows,
        told=[
            row for row in rows if row.state.exit_code or row.state.regression or row.state.overdue or row.state.changes
        ],
        conclusion=conclusion(audit),
        facts=tuple(facts(audit)),
        limit=LIMIT,
    )


def worst_first(audit: AuditIndex) -> list[ModelState]:
    """Return the models by standing, then by their highest attack success, then by name."""
    rank = list(WORDS)
    return sorted(
        audit.models, key=lambda s: (rank.index(s.standing), -(s.attack.rate if s.attack is not None else 0.0), s.name)
    )


def model(audit: AuditIndex, state: ModelState) -> str:
    """Return the page of one model: its standing, its changes and its history."""
    return page(
        "audit_model.html.j2",
        audit=audit,
        state=state,
        word=WORDS[state.standing],
        plots=[p for p in plots(state) if p is not None],
        facts=tuple(model_facts(state)),
        inputs=[(INPUTS.get(name, name), value) for name, value in state.inputs.items()],
        past=[
            (minute(p.time), str(p.standing), WORDS[p.standing], said(p.attack), said(p.accuracy))
            for p in reversed(state.history)
        ],
        limit=LIMIT,
    )


def plots(state: ModelState) -> tuple[Plot | None, Plot | None]:
    """Return the plots of attack success and clean accuracy."""
    return (
        plot("Highest attack success", state.history, lambda p: p.attack),
        plot("Accuracy on clean images", state.history, lambda p: p.accuracy, coloured=False),
    )


def _row(state: ModelState) -> Row:
    return Row(
        state=state,
        word=WORDS[state.standing],
        attack=said(state.attack),
        attack_about=state.attack.subject if state.attack else "",
        accuracy=said(state.accuracy),
        measured=measured(state),
        worst=f"{share(state.attack.rate)}, {state.attack.subject}" if state.attack else "not measured",
        useful=share(state.accuracy.rate) if state.accuracy else "not measured",
        age=state.measured_at[:10] or "never",
        unjudged=state.message if state.standing is Standing.ERROR else "",
        trend=plots(state)[0],
    )


def said(rate: Rate | None) -> str:
    """Return a rate with its interval and count."""
    if rate is None:
        return "not measured"
    return f"{share(rate.rate)} ({share(rate.low)} to {share(rate.high)}; n = {rate.n})"


def measured(state: ModelState) -> str:
    """Return when the measurements were made, and whether in this audit."""
    if not state.measured_at:
        return "nothing was measured"
    moment = minute(state.measured_at)
    if not state.reused:
        return f"{moment} UTC, in this audit"
    age = "today" if not state.age_days else f"{plural(state.age_days, 'day')} ago"
    return f"{moment} UTC, {age}; nothing it depends on has changed, so they were judged again"


def _until(state: ModelState) -> str:
    """Return the last day on which the policy accepts the measurements."""
    days = state.max_age.removesuffix("d")
    try:
        last = date.fromisoformat(state.measured_at[:10]) + timedelta(days=int(days))
    except (ValueError, OverflowError):
        return ""
    return f", until {last.isoformat()}"


def conclusion(audit: AuditIndex) -> str:
    """Return the result of the audit in one sentence."""
    count = plural(len(audit.models), "model") + (f" of shard {audit.shard}" if audit.shard else "")
    bad = [m for m in audit.models if m.exit_code]
    new = [m for m in bad if m.regression]
    if not audit.complete:
        return f"Interrupted: {count} judged until then. The next audit goes on from there."
    if not bad:
        return f"{count}: no probe of their policies was beyond its limit."
    first = all(m.previous is None for m in audit.models)  # then everything is new
    known = "" if first or not new else f", {len(new)} of them worse than in the last audit, or new"
    verb = "does" if len(bad) == 1 else "do"
    note = "" if audit.fail_on is FailOn.ANY else " Only what is worse or new counts for the exit code."
    return f"{count}: {len(bad)} {verb} not pass{known}.{note}"


def facts(audit: AuditIndex) -> Iterator[tuple[str, str]]:
    """Yield the facts of the audit."""
    yield "Inventory", audit.inventory
    yield "Digest of the inventory", f"sha256:{audit.inventory_sha256}"
    if audit.shard:
        yield "Shard", f"{audit.shard}: other audits judge the other models"
    yield "Started", f"{minute(audit.started)} UTC"
    yield "Took", f"{audit.seconds:.1f} s"
    yield "Waivers judged as of", audit.as_of
    yield "Exit code", f"{audit.exit_code}, counting {'all models' if audit.fail_on is FailOn.ANY else 'what is new'}"
    yield "Ledger", f"{plural(audit.ledger_lines, 'line')}, the last sha256:{audit.ledger_head}"
    yield "pargate", audit.pargate
    yield from sorted(audit.libraries.items())
    yield "Audit", audit.audit


def model_facts(state: ModelState) -> Iterator[tuple[str, str]]:
    """Yield the facts of one model."""
    yield "Owner", state.owner or "not set"
    yield "Source", state.source
    yield "Policy", state.policy
    if state.tags:
        yield "Tags", ", ".join(state.tags)
    yield "Measured", measured(state)
    if state.remeasured:
        yield "Measured again, since", state.remeasured
    yield "Highest attack success", said(state.attack) + (f", {state.attack.subject}" if state.attack else "")
    yield "Accuracy on clean images", said(state.accuracy)
    if state.images_read:
        yield "Images read", str(state.images_read)
    yield "Expected", f"every {state.cadence_days} days" if state.cadence_days else "no cadence is named"
    if state.max_age:
        yield "Measurements count for", f"{state.max_age}{_until(state)}"
    if state.previous is not None:
        before = state.previous
        yield "Last audit", f"{before.time[:10]}, {before.standing} (line {before.sequence} of the ledger)"
        if before.report:
            yield "Last report", f"sha256:{before.report}"
    if state.report:
        yield "Report", f"sha256:{state.report}"
