"""A report as JSON, the only format that pargate reads back."""

from pargate.core.report import ScanReport
from pargate.report.formats.base import FORMATS, Format

FORMATS.add("json")(Format(ScanReport.to_json, "report.json", "application/json"))
