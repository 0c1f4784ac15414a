"""The report of a screening as JSON, Markdown and a contact sheet, and as lines for the console.

The contact sheet is the only page of pargate with a script, by which a person marks suspects. The page allows no other
script and loads nothing. Foreign text is escaped.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

from pargate.core.screen import ScreenReport, Suspect
from pargate.report.formats.github import command
from pargate.report.formats.html import page
from pargate.report.formats.markdown import escape
from pargate.report.text import plain, plural

LIMIT = (
    "A suspect is unusual, not proven to be poisoned: rare honest images and wrong captions are unusual too. A pair "
    "that is no suspect is not proven to be honest."
)

NAMES = {
    "k_distance": "k-distance",
    "slof": "SLOF",
    "dao": "DAO",
    "lid": "LID",
    "isolation": "isolation forest",
    "similarity": "image and caption differ",
    "repetition": "repeated caption",
    "trigger": "like a found trigger",
}
"""Names of the detectors for people."""

GROUPS = 8
"""Most groups on the console."""


def share(value: float) -> str:
    """Return a small share as a percentage with three digits."""
    return f"{100 * value:.3g}%"


def conclusion(report: ScreenReport) -> str:
    """Return what was found, in one sentence."""
    told = f"{plural(len(report.suspects), 'suspect')} among {plural(report.count, 'pair')}"
    rate = share(report.false_positives)
    if report.trusted is None:
        return f"{told}: the most suspicious {rate} of the set, whether poisoned or not."
    return (
        f"{told} ({share(len(report.suspects) / report.count)}); of honest pairs like the trusted ones at most {rate} "
        "are expected."
    )


def remarks(report: ScreenReport) -> Iterator[str]:
    """Yield how the set was scored, the groups, the review, and the gate."""
    seen = report.recognised
    yield f"{report.model} recognises {share(seen.rate or 0.0)} of {seen.n} images: own caption against another."
    batches = f"{report.rounds} random {'batch' if report.rounds == 1 else 'batches'} of {report.batch}"
    if report.trusted is None:
        covered = share(report.neighbours / report.batch)
        yield f"Scores are means over {batches} pairs, k = {report.neighbours}; covered: {covered} of poisoned pairs."
    else:
        yield f"Scores are means over {batches} trusted pairs of {report.trusted}, k = {report.neighbours}."
    if report.found:
        yield f"Pairs were compared with {plural(len(report.found), 'found trigger')}: {', '.join(report.found)}."
    if report.recall is not None:
        yield f"The approximate search found {share(report.recall)} of the true neighbours."
    if report.unreadable:
        key, reason = report.unreadable[0]
        yield f"{plural(len(report.unreadable), 'image')} cannot be read, such as {key}: {reason}."
    for group in report.groups[:GROUPS]:
        told = f'the words "{group.name}"' if group.shares == "words" else group.name
        of = ""
        if group.captions is not None:
            of = f"; {share(group.captions.rate or 0.0)} of all captions have them"
        yield f"{plural(group.size, 'suspect')} share {told}{of}."
    if report.reviewed:
        poisoned = sum(mark == "poisoned" for mark in report.reviewed.values())
        yield (
            f"A person marked {poisoned} as poisoned and {len(report.reviewed) - poisoned} as fine; the "
            f"{len(report.suspects) - len(report.reviewed)} others stay left out."
        )
    for word in report.words:
        yield f'All pairs with the words "{word}" are left out, suspects or not.'
    yield f"Left: {plural(report.count - len(report.left_out), 'pair')}."
    if report.largest is not None:
        word = "within" if report.passed else "above"
        whose = f" of the rule {report.judged_by.rule} ({report.judged_by.policy})" if report.judged_by else ""
        yield f"{share(report.share)} of the set is left out, {word} the limit of {share(report.largest)}{whose}."
    if report.judged_by is not None:
        yield from report.judged_by.overrides
        if not report.passed:
            owners = ", ".join(report.judged_by.owners)
            yield from filter(None, (report.judged_by.help, owners and f"Contacts: {owners}."))


def lines(report: ScreenReport) -> Iterator[str]:
    """Yield the report as lines of text."""
    yield conclusion(report)
    for remark in remarks(report):
        yield plain(remark, 400)


def markdown(report: ScreenReport) -> str:
    """Return the report as GitHub Markdown, with the first suspects."""
    rows = [
        f"| {escape(s.key, 100)} | {escape(s.caption, 100)} | {escape(reasons(s), 100)} |" for s in report.suspects[:50]
    ]
    blocks = [
        f"## Screening of {escape(report.pairs, 200)}",
        escape(conclusion(report)),
        "\n".join(f"- {escape(remark, 1000)}" for remark in remarks(report)),
        "\n".join(["| pair | caption | most suspicious to |", "|---|---|---|", *rows]),
        escape(LIMIT),
    ]
    return "\n\n".join(blocks) + "\n"


def github(report: ScreenReport) -> str:
    """Return the conclusion and the gate as one workflow command: an error where the set fails, else a notice."""
    told = " ".join((conclusion(report), *remarks(report)))
    return command("notice" if report.passed else "error", told, title=f"pargate: screening of {report.pairs}") + "\n"


def reasons(suspect: Suspect) -> str:
    """Return the detectors that find a suspect most suspicious, with the share of pairs below it."""
    worst = sorted(suspect.ranks.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{NAMES.get(name, name)} {100 * rank:.1f}%" for name, rank in worst)


def contact_sheet(report: ScreenReport, pictures: Mapping[str, bytes]) -> str:
    """Return the page on which a person marks suspects.

    Args:
        report: the report.
        pictures: JPEG of the suspects that are shown, by key.
    """
    from markupsafe import Markup
    from markupsafe import escape as attribute

    shown = [
        # Markup, because `plain` would change a key and cut a picture.
        (suspect, attribute(suspect.key), Markup(base64.b64encode(pictures[suspect.key]).decode()), reasons(suspect))
        for suspect in report.suspects
        if suspect.key in pictures
    ]
    words = [group for group in report.groups if group.shares == "words" and group.captions]
    text = script()
    return page(
        "screen.html.j2", report=report, conclusion=conclusion(report), remarks=tuple(remarks(report)), shown=shown,
        words=words,
        limit=LIMIT, script=Markup(text), digest=base64.b64encode(hashlib.sha256(text.encode()).digest()).decode(),
    )  # fmt: skip


@cache
def script() -> str:
    """Return the script of the contact sheet."""
    return (files("pargate.report") / "screen.js").read_text(encoding="utf-8")
