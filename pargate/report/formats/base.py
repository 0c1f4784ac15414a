"""What a report format is, and the registry of all formats."""

from collections.abc import Callable
from dataclasses import dataclass

from pargate.core.report import ScanReport
from pargate.registry import Registry


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write a report. The console is none: `cli/console.py` draws it."""

    render: Callable[[ScanReport], str]
    """A pure function from a report to text, which ends with a newline."""
    file: str
    """Name of the report in a folder of its own; empty for what is only printed."""
    media_type: str


FORMATS: Registry[Format] = Registry(
    "pargate.formats", "report format", "pargate.report.formats", lambda name, part: isinstance(part, Format)
)
"""Report formats by name."""
