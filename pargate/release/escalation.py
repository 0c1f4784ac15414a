"""The escalation: the cleanings that a gate tries in order, until a candidate passes the scan that picks.

The list is published and short, and the policy limits the number of attempts: each attempt looks once more at the
images of the split `pick`, and never at those of `certify`.
"""

from dataclasses import dataclass, replace
from typing import Any

from pargate.clean.config import HIGHEST_LR, CleanConfig, propose
from pargate.clean.methods.base import METHODS, PROCESSOR_BATCH, Sizes
from pargate.policy.schema import CleanSection


@dataclass(frozen=True, slots=True)
class Step:
    """The difference of an attempt from the policy's method with the settings proposed for this model and data."""

    name: str
    steps: float = 1
    """Factor of the number of training steps."""
    lr: float = 1
    """Factor of the learning rate."""
    unlearning: float = 1
    """Factor of the weight of the unlearning loss."""
    other: bool = False
    """Whether the other method is used, with its proposed settings and larger batches."""


STEPS = (
    Step("the settings for the sizes of model and data"),
    Step("the other method", other=True),
    Step("twice as many steps", steps=2),
    Step("twice as many steps at twice the learning rate", steps=2, lr=2),
)
"""Attempts in order. The other method comes first, because each of the two removes backdoors that the other leaves.
More steps come before a higher learning rate, because steps cost time and the rate costs accuracy."""

DRAWN_STEPS = (
    STEPS[0],
    Step("twice the weight of the unlearning loss", unlearning=2),
    Step("twice that weight and twice as many steps", unlearning=2, steps=2),
    STEPS[1],
)
"""Attempts of a method with an unlearning loss on drawn image-text pairs. The other method comes last, because it costs
most accuracy there."""


def step(section: CleanSection, attempt: int, sizes: Sizes) -> Step:
    """Return the step for an attempt, from 1."""
    return (DRAWN_STEPS if sizes.drawn and "unlearning" in METHODS[section.method].published else STEPS)[attempt - 1]


def method(section: CleanSection, attempt: int, sizes: Sizes) -> str:
    """Return the method of an attempt, from 1."""
    if not step(section, attempt, sizes).other:
        return section.method
    return METHODS[section.method].other


def settings(section: CleanSection, attempt: int, sizes: Sizes) -> dict[str, Any]:
    """Return the overrides of the cleaner's settings at an attempt, from 1, by name.

    Raises:
        InputError: a setting of the policy does not fit its method.
    """
    given = {name: value for name, value in section.settings.model_dump().items() if value is not None}
    seed = section.pairs.seed if section.pairs is not None else 0
    own = propose(section.method, sizes, overrides={**given, "seed": seed}).config
    taken = step(section, attempt, sizes)
    if taken.other:  # `lr` and `tau` belong to one method
        given = {name: value for name, value in given.items() if name not in ("lr", "tau")}
        usual, on_gpu = (
            propose(method(section, attempt, sizes), some).config.batch_size
            for some in (sizes, replace(sizes, device="cuda"))
        )
        # Larger batches cost time; with them PAR lost less accuracy and cleaned a ResNet better.
        given.setdefault("batch_size", min(max(usual, PROCESSOR_BATCH), on_gpu))
    if taken.steps != 1:
        given["steps"] = round(own.steps * taken.steps)
    if taken.lr != 1:
        given["lr"] = min(HIGHEST_LR, own.lr * taken.lr)
    if taken.unlearning != 1:
        given["unlearning"] = own.unlearning * taken.unlearning
    return {**given, "seed": seed}


def proposed(section: CleanSection, attempt: int, sizes: Sizes) -> CleanConfig:
    """Return all settings of an attempt.

    Raises:
        InputError: as `settings`.
    """
    return propose(method(section, attempt, sizes), sizes, overrides=settings(section, attempt, sizes)).config
