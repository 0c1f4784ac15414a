"""The table of report formats: name to a pure function from a report to text.

The console is not among them: it is how the command line speaks, and `cli/console.py` draws it.
"""

from collections.abc import Callable

from pargate.core.report import ScanReport

__all__ = ["FORMATS"]

FORMATS: dict[str, Callable[[ScanReport], str]] = {
    "json": ScanReport.to_json,
}
