"""Reports for people and machines, rendered from one value."""

from pargate.report.formats.base import FORMATS

__all__ = ["FORMATS"]
