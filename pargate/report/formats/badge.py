"""A report as a badge: an SVG of its own, and the JSON that shields.io draws one from.

Both say the verdict, the policy and the day of the measurements, since a badge outlives its scan.
"""

import json
from html import escape

from pargate.core.report import ScanReport
from pargate.core.results import Outcome
from pargate.errors import visible_json
from pargate.report import text as texts
from pargate.report.formats.base import FORMATS, Format

LABEL = "pargate"

COLOURS = {
    Outcome.PASS: ("#2e7d32", "brightgreen"),
    Outcome.REMEDIATED: ("#2e7d32", "brightgreen"),
    Outcome.FAIL: ("#b71c1c", "red"),
    Outcome.INCONCLUSIVE: ("#8d6200", "yellow"),
}
"""Colours of a verdict: of the SVG, with a contrast of 4.5 to white text, and by name for shields.io."""

ADVANCE = 6.6
"""Mean width of a character of Verdana at 11 px, in px; `textLength` fits the text to it."""

PADDING = 12
"""Width beside a text, in px."""


def message(report: ScanReport) -> str:
    """Return verdict, policy and day, as `pass · release · 2026-01-31`."""
    return texts.plain(f"{report.verdict.status} · {report.policy.name[:40]} · {report.run.started[:10]}", 80)


def svg(report: ScanReport) -> str:
    """Return a badge as SVG without scripts and links."""
    said = message(report)
    left, right = (round(ADVANCE * len(text)) for text in (LABEL, said))
    split, width = left + PADDING, left + right + 2 * PADDING
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" '
        f'aria-label="{LABEL}: {escape(said)}">',
        f"<title>{LABEL}: {escape(said)}</title>",
        f'<rect width="{width}" height="20" rx="3" fill="#444"/>',
        f'<rect x="{split}" width="{width - split}" height="20" rx="3" fill="{COLOURS[report.verdict.status][0]}"/>',
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">',
        f'<text x="{PADDING // 2}" y="14" textLength="{left}">{LABEL}</text>',
        f'<text x="{split + PADDING // 2}" y="14" textLength="{right}">{escape(said)}</text>',
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def endpoint(report: ScanReport) -> str:
    """Return the JSON of a shields.io endpoint badge."""
    document = {
        "schemaVersion": 1,
        "label": LABEL,
        "message": message(report),
        "color": COLOURS[report.verdict.status][1],
    }
    return visible_json(json.dumps(document, indent=1, ensure_ascii=False)) + "\n"


FORMATS.add("badge")(Format(svg, "badge.svg", "image/svg+xml"))
FORMATS.add("badge-json")(Format(endpoint, "badge.json", "application/json"))
