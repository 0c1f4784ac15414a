"""The ladder: which cleanings a gate tries, one after another, until a candidate passes the scan that picks.

The list is published and short, and the policy says how far up it may be climbed: each rung is one more look at the
carriers that pick, and none at those that certify.
"""

from dataclasses import dataclass
from typing import Any

from pargate.clean.config import HIGHEST_LR, CleanConfig, Sizes, propose
from pargate.policy.schema import CleanSection


@dataclass(frozen=True, slots=True)
class Rung:
    """How a cleaning differs from the method's own settings for this model and data."""

    name: str
    steps: float
    """Times as many."""
    lr: float
    """Times as high."""


RUNGS = (
    Rung("the settings that follow from the sizes of model and data", 1, 1),
    Rung("twice as many steps", 2, 1),
    Rung("twice as many steps at twice the rate", 2, 2),
    Rung("four times as many steps at twice the rate", 4, 2),
)
"""More steps before a higher rate: steps cost time, a rate costs accuracy."""


def settings(section: CleanSection, attempt: int, sizes: Sizes) -> dict[str, Any]:
    """What the cleaner is told at an attempt, from 1, by the names of its settings.

    Raises:
        InputError: a setting of the policy does not go with its method.
    """
    given = {name: value for name, value in section.settings.model_dump().items() if value is not None}
    seed = section.pairs.seed if section.pairs is not None else 0
    own = propose(section.method, sizes, overrides={**given, "seed": seed}).config
    rung = RUNGS[attempt - 1]
    if rung.steps != 1:
        given["steps"] = round(own.steps * rung.steps)
    if rung.lr != 1:
        given["lr"] = min(HIGHEST_LR, own.lr * rung.lr)
    return {**given, "seed": seed}


def proposed(section: CleanSection, attempt: int, sizes: Sizes) -> CleanConfig:
    """All settings of an attempt.

    Raises:
        InputError: as `settings`.
    """
    return propose(section.method, sizes, overrides=settings(section, attempt, sizes)).config
