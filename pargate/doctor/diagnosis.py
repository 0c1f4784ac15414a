"""What a machine can do, as `pargate doctor` says it."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from pargate.core.value import Value


class Condition(StrEnum):
    """How a part of the machine is."""

    GOOD = "good"
    NOTICE = "notice"
    """Something to know; nothing stops working because of it."""
    WARNING = "warning"
    """Something is likely to fail, or to be slower than it could be."""
    BROKEN = "broken"


class Fact(Value):
    """One thing that was looked at."""

    subject: str
    """What: a package, a device, a folder."""
    condition: Condition
    message: str
    """What was found."""
    hint: str = ""
    """What to do about it; empty where there is nothing to do."""


class Ability(Value):
    """One thing that one could want to do here."""

    task: str
    works: bool
    reason: str = ""
    """Why not, or by what."""


class Diagnosis(Value):
    """Everything, in the order in which it is read."""

    schema_: Literal["pargate/doctor/1"] = Field(alias="schema")
    pargate: str
    """The version."""
    facts: tuple[Fact, ...]
    abilities: tuple[Ability, ...]
    ready: bool
    """Whether `pargate scan` can work here, and under --ci, whether this job may go on."""
