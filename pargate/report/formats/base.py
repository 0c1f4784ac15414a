"""The registry of report formats."""

from collections.abc import Callable
from dataclasses import dataclass

from pargate.core.report import ScanReport
from pargate.registry import Registry


@dataclass(frozen=True, slots=True)
class Format:
    """A report format."""

    render: Callable[[ScanReport], str]
    """Pure function from a report to text that ends with a newline."""
    file: str
    """File name of the report; empty if the format is only printed."""
    media_type: str


FORMATS: Registry[Format] = Registry(
    "pargate.formats", "report format", "pargate.report.formats", lambda name, part: isinstance(part, Format)
)
"""Report formats by name."""
