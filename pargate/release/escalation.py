"""The ladder: which cleanings a gate tries, one after another, until a candidate passes the scan that picks.

The list is published and short, and the policy says how far up it may be climbed: each rung is one more look at the
carriers that pick, and none at those that certify.
"""

from dataclasses import dataclass, replace
from typing import Any

from pargate.clean.config import HIGHEST_LR, PROCESSOR_BATCH, CleanConfig, Sizes, propose
from pargate.core.choices import Method
from pargate.policy.schema import CleanSection


@dataclass(frozen=True, slots=True)
class Rung:
    """How a cleaning differs from the policy's method with its own settings for this model and data."""

    name: str
    steps: float = 1
    """Times as many."""
    lr: float = 1
    """Times as high."""
    unlearning: float = 1
    """Times the weight of what universal pictures show."""
    other: bool = False
    """Whether the other method is taken, with what follows from the sizes and larger batches."""


RUNGS = (
    Rung("the settings that follow from the sizes of model and data"),
    Rung("the other method", other=True),
    Rung("twice as many steps", steps=2),
    Rung("twice as many steps at twice the rate", steps=2, lr=2),
)
"""The other method first: each of the two cleans what the other leaves. Its batches are
`LARGER`, as far as a GPU would have them: they cost time, and with them PAR lost less accuracy and cleaned a ResNet
better. Then more steps before a higher rate: steps cost time, a rate costs accuracy."""

LARGER = PROCESSOR_BATCH
"""Pairs in a step of the other method, at least, where the device alone made them few."""


DRAWN = (
    RUNGS[0],
    Rung("twice the weight of what universal pictures show", unlearning=2),
    Rung("twice that weight and twice as many steps", unlearning=2, steps=2),
    RUNGS[1],
)
"""Of `par-plus` with drawn pairs: the other method costs a model most of its accuracy there, so it comes last."""


def rung(section: CleanSection, attempt: int, sizes: Sizes) -> Rung:
    """What is done at an attempt, from 1."""
    return (DRAWN if sizes.drawn and section.method == "par-plus" else RUNGS)[attempt - 1]


def method(section: CleanSection, attempt: int, sizes: Sizes) -> Method:
    """The method of an attempt, from 1: the policy's, or of `par` and `par-plus` the other one."""
    if not rung(section, attempt, sizes).other:
        return section.method
    return "par" if section.method == "par-plus" else "par-plus"


def settings(section: CleanSection, attempt: int, sizes: Sizes) -> dict[str, Any]:
    """What the cleaner is told at an attempt, from 1, by the names of its settings.

    Raises:
        InputError: a setting of the policy does not go with its method.
    """
    given = {name: value for name, value in section.settings.model_dump().items() if value is not None}
    seed = section.pairs.seed if section.pairs is not None else 0
    own = propose(section.method, sizes, overrides={**given, "seed": seed}).config
    taken = rung(section, attempt, sizes)
    if taken.other:  # a rate or a distance is of one method
        given = {name: value for name, value in given.items() if name not in ("lr", "tau")}
        usual, on_gpu = (
            propose(method(section, attempt, sizes), some).config.batch_size
            for some in (sizes, replace(sizes, device="cuda"))
        )
        given.setdefault("batch_size", min(max(usual, LARGER), on_gpu))
    if taken.steps != 1:
        given["steps"] = round(own.steps * taken.steps)
    if taken.lr != 1:
        given["lr"] = min(HIGHEST_LR, own.lr * taken.lr)
    if taken.unlearning != 1:
        given["unlearning"] = own.unlearning * taken.unlearning
    return {**given, "seed": seed}


def proposed(section: CleanSection, attempt: int, sizes: Sizes) -> CleanConfig:
    """All settings of an attempt.

    Raises:
        InputError: as `settings`.
    """
    return propose(method(section, attempt, sizes), sizes, overrides=settings(section, attempt, sizes)).config
