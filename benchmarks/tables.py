"""How `docs/evidence.md` writes numbers and tables."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def pct(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def span(interval: list[float]) -> str:
    return f"{pct(interval[0])} … {pct(interval[1])}"


def table(head: list[str], rows: Iterable[list[Any]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
