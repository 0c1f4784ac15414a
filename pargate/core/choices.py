"""Closed sets of words that the command line offers and the other rooms take.

Nothing is imported here that takes long, so that `--help` stays quick.
"""

from enum import StrEnum
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]
GraphPrecision = Literal["fp32", "fp16", "int8"]
Towers = Literal["both", "image", "text"]
Preset = Literal["sized", "paper"]
"""Where rate, batch and steps of a cleaning come from: the sizes of model and data, or the paper."""
RequiredDevice = Literal["cpu", "cuda"]
"""A device without which nothing is cleaned."""


class FailOn(StrEnum):
    """What makes an audit end with something other than 0."""

    ANY = "any"
    """Whatever does not pass."""
    NEW = "new"
    """What is worse than the last finished audit found it."""
