"""Report formats, charts and pages, rendered from a report."""

from pargate.report.formats.base import FORMATS

__all__ = ["FORMATS"]
