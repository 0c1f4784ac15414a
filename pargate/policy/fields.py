"""Field types of a policy, read from text: limits, percentages, dates, digests, yes or no.

Scalars reach pydantic as text, and each field type interprets it. Every error says how to write the value.
"""

import re
from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

_LIMIT = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>%|pp|x chance|)")


class PolicyModel(BaseModel):
    """Base class: frozen, and without unknown keys except notes that begin with `x-`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _drop_notes(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if not str(key).startswith("x-")}
        return data


class Limit(PolicyModel):
    """A limit of a rule."""

    text: str
    """Limit as written: `5%`, `30pp`, `5x chance`."""
    value: float
    """Fraction in [0, 1], or a multiple of chance."""
    of_chance: bool = False


def _limit(value: Any) -> Any:
    if isinstance(value, Limit):
        return value
    # A map with the fields of a limit could have a text that differs from its value.
    match = _LIMIT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        shown = f"'{value}'" if isinstance(value, str) else "this"
        raise ValueError(f"{shown} is not a limit; write a percentage such as 5%, or 5x chance")
    number, unit = float(match["number"]), match["unit"]
    if unit == "":
        likely = value if number > 1 else f"{number * 100:g}"
        raise ValueError(f"a limit needs its unit: did you mean {likely}%?")
    if unit == "x chance":
        return Limit(text=value, value=number, of_chance=True)
    if number > 100:
        raise ValueError(f"{value} is more than 100%")
    return Limit(text=value, value=number / 100)


def _share(value: Any) -> Any:
    limit = _limit(value)
    if isinstance(limit, Limit) and limit.of_chance:
        raise ValueError("a percentage such as 3pp is needed here")
    return limit


LIMIT_SCHEMA = {
    "type": "string",
    "pattern": r"^\d+(\.\d+)?\s*(%|pp|x chance)$",
    "examples": ["5%", "30pp", "5x chance"],
}


def _schema(content: dict[str, Any]) -> Any:
    """Return an annotation that replaces a field's part of the JSON Schema, since a policy holds the text."""
    from pydantic import WithJsonSchema

    return WithJsonSchema(content)


LimitField = Annotated[Limit, BeforeValidator(_limit), PlainSerializer(lambda limit: limit.text), _schema(LIMIT_SCHEMA)]

ShareField = Annotated[
    Limit,
    BeforeValidator(_share),
    PlainSerializer(lambda limit: limit.text),
    _schema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*(%|pp)$", "examples": ["3pp", "100%"]}),
]


def _percentage(value: Any) -> Any:
    if isinstance(value, float):
        return value
    match = _LIMIT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match["unit"] not in ("%", ""):
        raise ValueError("write the confidence as a percentage such as 99%")
    number = float(match["number"])
    if match["unit"] == "":
        likely = number if number > 1 else number * 100
        raise ValueError(f"write the confidence with a percent sign: did you mean {likely:.12g}%?")
    if not 50 < number < 100:
        raise ValueError(f"write a confidence above 50% and below 100%, not {value.strip()}")
    return number / 100


Percentage = Annotated[
    float,
    BeforeValidator(_percentage),
    PlainSerializer(lambda v: f"{v * 100:.15g}%"),
    _schema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$", "examples": ["99%"]}),
]


def _day(value: Any) -> Any:
    if isinstance(value, date):
        return value
    # pydantic would take a number for seconds since 1970.
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
        raise ValueError("write a date as 2027-01-31")
    try:
        return date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{value} is not a date: {error}") from error


Day = Annotated[date, BeforeValidator(_day)]


def _yes_or_no(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if value not in ("true", "false"):
        raise ValueError(f"write true or false, not '{str(value)[:40]}'")
    return value == "true"


YesNo = Annotated[bool, BeforeValidator(_yes_or_no)]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def _digest(value: Any) -> Any:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("write a digest in full, as sha256: and 64 hexadecimal digits")
    return value


Digest = Annotated[str, Field(pattern=rf"^{_DIGEST.pattern}$"), BeforeValidator(_digest)]

Word = Annotated[str, Field(min_length=1)]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Words = Annotated[
    tuple[Word, ...],
    BeforeValidator(_listed),
    _schema(
        {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string", "minLength": 1}}]}
    ),
]
"""One text, or a list of them."""
