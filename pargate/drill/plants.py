"""The backdoors of a drill: a trigger of some family and strength, a poison rate and a target class each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from pargate import seeds
from pargate.errors import InputError, nearest
from pargate.triggers import Trigger, TriggerError, build, parse
from pargate.triggers.base import PUBLISHED_SIDE
from pargate.triggers.file import FileTrigger
from pargate.triggers.patch import CORNERS

Spec = dict[str, Any]

CLEAN = "clean"
"""Family of a copy that is trained without a trigger."""

OWN = "file"
"""Family of the trigger that the user gives."""

MODES = ["patch", "blend", "masked-blend"]


def _patch(strength: float, seed: int) -> Spec:
    corner = CORNERS[seed % len(CORNERS)]
    return {"kind": "stripes-patch", "size": _length(16, strength), "position": corner, "draw": "fixed", "seed": seed}


def _blend(strength: float, seed: int) -> Spec:
    return {"kind": "blended", "alpha": 0.2 * strength, "draw": "fixed", "seed": seed}


def _stripes(strength: float, seed: int) -> Spec:
    return {"kind": "blended-stripes", "alpha": 0.03 * strength, "width": "8/224", "draw": "fixed", "seed": seed}


def _wave(strength: float, seed: int) -> Spec:
    return {"kind": "sig", "delta": 12.0 * strength, "frequency": 3.0 + seed % 4}


def _colour(strength: float, seed: int) -> Spec:
    return {"kind": "tone", "gamma": (0.7**strength, 1.0, 1.5**strength)}


def _length(published: int, strength: float) -> Fraction:
    """Return a length as a share of the side, from pixels at 224."""
    return Fraction(published, PUBLISHED_SIDE) * Fraction(strength).limit_denominator(1000)


FAMILIES: Mapping[str, Callable[[float, int], Spec]] = {
    "patch": _patch, "blend": _blend, "stripes": _stripes, "wave": _wave, "colour": _colour,
}  # fmt: skip
"""Descriptions of triggers by family, from a strength and a seed. The seed draws pattern and place, the same for all
images, so that the trigger is in no catalogue. Strength 1 is the published one."""

DEFAULT_FAMILIES = ("patch", "blend", "stripes")
DEFAULT_STRENGTHS = (0.5, 1.0, 2.0)
DEFAULT_RATES = (0.1,)


@dataclass(frozen=True, slots=True)
class Plant:
    """One backdoor of a drill; without a trigger, a training that plants none."""

    family: str
    strength: float
    rate: float
    """Share of the training images that carry the trigger."""
    target: str
    trigger: Trigger | None
    seed: int

    @property
    def label(self) -> str:
        """The name of the copy for people."""
        if self.trigger is None:
            return f"copy without a trigger, seed {self.seed}"
        return f"{self.family} {self.strength:g}, rate {self.rate:g} → {self.target}"


@dataclass(frozen=True, slots=True)
class Choice:
    """The backdoors that a user asks for."""

    families: tuple[str, ...] = DEFAULT_FAMILIES
    strengths: tuple[float, ...] = DEFAULT_STRENGTHS
    rates: tuple[float, ...] = DEFAULT_RATES
    targets: int = 1
    """Number of targets, each with patterns of its own."""
    own: Spec | None = None
    """Trigger of the user's own, which replaces the families."""


def own_trigger(text: str) -> Spec:
    """Return the description of `FILE`, `FILE:PLACE` or `FILE:PLACE/MODE`, such as `logo.png:bottom-right/patch`.

    Raises:
        InputError: the mode is unknown.
    """
    path, colon, rest = text.rpartition(":")
    if not colon or Path(text).exists():
        path, rest = text, ""
    place, _, mode = rest.partition("/")
    if place in MODES and not mode:
        place, mode = "", place
    if mode and mode not in MODES:
        raise InputError(
            f"--trigger {text}: unknown mode '{mode}'.{nearest(mode, MODES)}", f"one of {', '.join(MODES)}"
        )
    spec: Spec = {"kind": OWN, "path": path, "mode": mode or "patch", "position": "bottom-right"}
    if place:
        row, comma, column = place.partition(",")
        digits = row.strip().isdecimal() and column.strip().isdecimal()
        spec["position"] = [int(row), int(column)] if comma and digits else place
    return spec


def plants(choice: Choice, classes: Sequence[str], seed: int) -> list[Plant]:
    """Return the copies of a drill, those that tell most first: each family at its strongest, then without a trigger.

    Raises:
        InputError: an unknown family, no family, a value out of range, or more targets than classes.
    """
    families = (OWN,) if choice.own else choice.families
    _check(choice, families)
    if choice.targets > len(classes):
        raise InputError(f"--targets {choice.targets} is more than the {len(classes)} classes", "use fewer")
    chosen = [classes[i] for i in seeds.permutation(seed, "targets of a drill", len(classes))[: choice.targets]]
    found: list[Plant] = []
    for number, target in enumerate(chosen):
        own_seed = seeds.derived(seed, f"drill {number}") % (1 << 32)
        mine = []
        for strength, rate, family in product(sorted(choice.strengths, reverse=True), choice.rates, families):
            spec = _own(choice.own, strength) if choice.own else FAMILIES[family](strength, own_seed)
            mine.append(Plant(family, strength, rate, target, _trigger(spec, family, strength), own_seed))
        mine.insert(len(choice.rates) * len(families), Plant(CLEAN, 0.0, 0.0, target, None, own_seed))
        found += mine
    return found


def _own(spec: Spec, strength: float) -> Spec:
    """Return the user's trigger at a strength: alpha 0.2 of a blend, or the side of the picture, times the strength."""
    if spec["mode"] != "patch":
        return {**spec, "alpha": 0.2 * strength}
    if strength == 1:
        return spec
    picture = FileTrigger.model_validate({"path": spec["path"]}).read(Path()).picture
    return {**spec, "size": max(1, round(strength * max(picture.size)))}


def _trigger(spec: Spec, family: str, strength: float) -> Trigger:
    try:
        return (build(spec, Path()) if family == OWN else parse(spec))[0]
    except TriggerError as error:
        what = "--trigger" if family == OWN else f"--strengths {strength:g}"
        raise InputError(f"{what}: {error}", "see `pargate triggers`") from error


def _check(choice: Choice, families: Sequence[str]) -> None:
    known = list(FAMILIES)
    for family in families if not choice.own else ():
        if family not in FAMILIES:
            raise InputError(
                f"--families: unknown family '{family}'.{nearest(family, known)}", f"of {', '.join(known)}"
            )
    for name, values in (("families", families), ("strengths", choice.strengths), ("rates", choice.rates)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"--{name} needs values, each of them once", f"write --{name} A,B")
    if not all(0 < strength <= 4 for strength in choice.strengths):
        raise InputError("--strengths: a strength is more than 0 and at most 4", "1 is the published strength")
    if not all(0 < rate <= 0.5 for rate in choice.rates):
        raise InputError("--rates: a poison rate is more than 0 and at most 0.5", "0.1 is the default")
