"""The policy as values: what is asked, with which limits, at which confidence."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from pargate import triggers
from pargate.core.results import Metric, Severity

UNKNOWN = "unknown"

_LIMIT = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>%|pp|x chance|)")


class PolicyModel(BaseModel):
    """Base: frozen, and unknown keys are errors, except notes that begin with `x-`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_notes(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if not str(key).startswith("x-")}
        return data


class Limit(PolicyModel):
    """A number that a rule compares with."""

    text: str
    """As written: `5%`, `30pp`, `5x chance`."""
    value: float
    """Fraction in [0, 1], or a multiple of chance."""
    of_chance: bool = False


def _limit(value: Any) -> Any:
    if isinstance(value, Limit):
        return value
    # A map with the fields of a limit could say one number and mean another.
    match = _LIMIT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        shown = f"'{value}'" if isinstance(value, str) else "this"
        raise ValueError(f"{shown} is no limit; write a percentage such as 5%, or 5x chance")
    number, unit = float(match["number"]), match["unit"]
    if unit == "":
        likely = value if number > 1 else f"{number * 100:g}"
        raise ValueError(f"a limit needs its unit: did you mean {likely}%?")
    if unit == "x chance":
        return Limit(text=value, value=number, of_chance=True)
    if number > 100:
        raise ValueError(f"{value} is more than 100%")
    return Limit(text=value, value=number / 100)


LimitField = Annotated[Limit, BeforeValidator(_limit), PlainSerializer(lambda limit: limit.text)]


def _percentage(value: Any) -> Any:
    if isinstance(value, float):
        return value
    match = _LIMIT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match["unit"] not in ("%", ""):
        raise ValueError("write the confidence as a percentage such as 99%")
    number = float(match["number"])
    if match["unit"] == "":
        likely = number if number > 1 else number * 100
        raise ValueError(f"write the confidence with its sign: did you mean {likely:.12g}%?")
    if not 50 < number < 100:
        raise ValueError(f"the confidence lies above 50% and below 100%, not at {value.strip()}")
    return number / 100


Percentage = Annotated[float, BeforeValidator(_percentage), PlainSerializer(lambda v: f"{v * 100:.15g}%")]


class ImagesSection(PolicyModel):
    """Which carriers, and how many at least."""

    source: str | None = None
    min: Annotated[int, Field(ge=0)] = 0


class ClassesSection(PolicyModel):
    """Names and templates of the zero-shot head."""

    names: str | tuple[str, ...] | None = None
    """A file, one name per line, or the names themselves."""
    templates: tuple[str, ...] | None = None

    @field_validator("names")
    @classmethod
    def _tell_apart(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(value, tuple):
            folded = [name.strip().casefold() for name in value]
            twice = [name for i, name in enumerate(value) if folded[i] in folded[:i]]
            if twice:
                raise ValueError(f"the class '{twice[0]}' is here twice")
            if len(value) < 2 or "" in folded:
                raise ValueError("a zero-shot head needs at least two classes, each with a name")
        return value

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for template in value or ():
            if template.count("{}") != 1:
                raise ValueError(f"the template '{template}' needs {{}} once, where the class name goes")
        return value


class Budget(PolicyModel):
    """What a scan may spend; spent and undecided is inconclusive."""

    minutes: Annotated[float, Field(gt=0)] | None = None
    images: Annotated[int, Field(gt=0)] | None = None


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _known(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError("a trigger is a name, or a map with `kind` and parameters")
    triggers.parse(value)
    return value


TriggerSpec = Annotated[str | dict[str, Any], BeforeValidator(_known)]

Word = Annotated[str, Field(min_length=1)]

ALLOWED: dict[str, tuple[set[Metric], set[Metric]]] = {
    "attack": ({Metric.ATTACK_SUCCESS, Metric.EXCESS}, set()),
    "retrieval": ({Metric.ATTACK_SUCCESS, Metric.EXCESS}, set()),
    "utility": (set(), {Metric.ACCURACY, Metric.RECALL}),
}
"""Metrics a probe measures: those that may have a maximum, those that may have a minimum."""


class Rule(PolicyModel):
    """One question to the model."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    probe: Literal["attack", "retrieval", "utility"]
    triggers: tuple[TriggerSpec, ...] = ()
    target: Annotated[tuple[Word, ...], BeforeValidator(_as_tuple), Field(min_length=1)] = (UNKNOWN,)
    max: dict[Metric, LimitField] = {}
    min: dict[Metric, LimitField] = {}
    severity: Severity = Severity.HIGH
    why: str = ""

    @model_validator(mode="after")
    def _fits_its_probe(self) -> Self:
        upper, lower = ALLOWED[self.probe]
        for given, allowed, word in ((self.max, upper, "max"), (self.min, lower, "min")):
            for metric, limit in given.items():
                if metric not in allowed:
                    raise ValueError(f"the probe {self.probe} has no {word}imum of {metric}")
                if limit.of_chance and metric is not Metric.ACCURACY:
                    raise ValueError(f"only accuracy has a chance level, {metric} has none")
        if not self.max and not self.min:
            raise ValueError("a rule needs a limit: max or min")
        if self.probe == "utility" and self.triggers:
            raise ValueError("the probe utility puts no trigger on its images; leave out `triggers`")
        if self.probe != "utility" and not self.triggers:
            raise ValueError(f"the probe {self.probe} needs `triggers`")
        return self


class Policy(PolicyModel):
    """A whole policy, resolved."""

    pargate: Literal[1] = Field(description="schema version")
    name: str
    description: str = ""
    images: ImagesSection = ImagesSection()
    classes: ClassesSection = ClassesSection()
    confidence: Annotated[Percentage, Field(gt=0.5, lt=1.0)] = 0.99
    budget: Budget = Budget()
    reference: str | None = None
    rules: tuple[Rule, ...] = Field(min_length=1)
    on_inconclusive: Literal["inconclusive", "fail"] = "inconclusive"

    @field_validator("pargate", mode="before")
    @classmethod
    def _version(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("rules")
    @classmethod
    def _have_their_own_ids(cls, value: tuple[Rule, ...]) -> tuple[Rule, ...]:
        seen = set()
        for rule in value:
            if rule.id in seen:
                raise ValueError(f"two rules have the id '{rule.id}'")
            seen.add(rule.id)
        return value
