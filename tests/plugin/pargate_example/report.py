"""A report format: one line of CSV for each finding."""

import csv
import io

from pargate.core.report import ScanReport
from pargate.report.formats.base import Format


def render(report: ScanReport) -> str:
    """Return rule, status and message of each finding."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("rule", "status", "message"))
    rows.writerows((finding.rule, finding.status, finding.message) for finding in report.findings)
    return text.getvalue()


CSV = Format(render, "report.csv", "text/csv")
