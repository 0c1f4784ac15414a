"""The table of report formats: name to a pure function from a report to text.

The console is not among them: it is how the command line speaks, and `cli/console.py` draws it.
"""

from collections.abc import Callable

from pargate.core.report import ScanReport
from pargate.report.formats import github, html, junit, markdown, sarif
from pargate.report.formats import ml_bom as mlbom

__all__ = ["FORMATS"]

FORMATS: dict[str, Callable[[ScanReport], str]] = {
    "json": ScanReport.to_json,
    "sarif": sarif.render,
    "junit": junit.render,
    "markdown": markdown.render,
    "github": github.render,
    "html": html.render,
    "ml-bom": mlbom.render,
}
