"""Fixed choices of the command line.

This module imports nothing slow, so that `--help` stays quick.
"""

from enum import StrEnum
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
GraphPrecision = Literal["fp32", "fp16", "int8"]
Towers = Literal["both", "image", "text"]
Preset = Literal["sized", "paper"]
"""Source of rate, batch and steps of a cleaning: the sizes of model and data, or the paper."""
SavedLayout = Literal["open_clip", "keep"]
"""Layout of a cleaned model: open_clip's folder, or the one that the model came in."""
RequiredDevice = Literal["cpu", "cuda"]
"""Device that cleaning must run on."""


class Executor(StrEnum):
    """Places where the scans of an audit, or the towers of a screening, run."""

    LOCAL = "local"
    """This machine."""
    RAY = "ray"
    """Tasks of a Ray cluster."""


class FailOn(StrEnum):
    """Results that give an audit an exit code other than 0."""

    ANY = "any"
    """Every model that does not pass."""
    NEW = "new"
    """Every model that is worse than in the last finished audit."""
