"""Progress as small frozen values: use cases emit them, only the console draws them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage of the run begins."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Advanced:
    """`done` of at most `total` units of the current stage."""

    done: int
    total: int
    note: str = ""
    unit: str = "block"


@dataclass(frozen=True, slots=True)
class RuleDecided:
    """One comparison of a rule needs no more images."""

    rule: str
    subject: str
    status: str


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One step of training was taken."""

    done: int
    total: int
    learning_rate: float
    terms: Mapping[str, float]
    """The loss and its parts."""
    pairs_per_second: float


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know, whose report entry comes later."""

    message: str
    level: str = "info"


Event = StageStarted | Advanced | RuleDecided | TrainStep | StageFinished | Notice
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The default listener."""
