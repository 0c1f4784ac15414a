"""A report as JSON: everything that other formats show, and the only one that is read back."""

from pargate.core.report import ScanReport
from pargate.report.formats.base import FORMATS, Format

FORMATS.add("json")(Format(ScanReport.to_json, "report.json", "application/json"))
