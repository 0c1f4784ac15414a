"""Marks, colours and safe text of everything that the console prints."""

from typing import TYPE_CHECKING, Any

from rich.text import Text

from pargate.errors import short, visible

if TYPE_CHECKING:
    from rich.style import Style

STYLES = {"breach": "bold red", "open": "yellow", "waived": "cyan", "met": "green"}
MARKS = {"breach": "✗ breach", "open": "? open", "waived": "○ waived", "met": "✓ met"}
CONDITIONS = {
    "good": ("✓", "green"),
    "notice": ("○", "cyan"),
    "warning": ("!", "yellow"),
    "broken": ("✗", "bold red"),
}
VERDICTS = {
    "pass": "bold white on green",
    "remediated": "bold white on green",
    "fail": "bold white on red",
    "inconclusive": "bold black on yellow",
}


class Shown(Text):
    """One line of text that is safe for a terminal and a log."""

    def __init__(self, text: str = "", style: str = "", **options: Any) -> None:
        """Escape `text` and make it one line."""
        super().__init__(visible(short(text)), style, **options)

    def append(self, text: "Text | str", style: "str | Style | None" = None) -> "Shown":
        """Append text, escaped as well."""
        super().append(visible(short(text)) if isinstance(text, str) else text, style)
        return self
