"""Progress events: use cases emit them, and the console shows them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage began."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Advanced:
    """`done` of at most `total` units of the current stage are complete."""

    done: int
    total: int
    note: str = ""
    unit: str = "block"


@dataclass(frozen=True, slots=True)
class RuleDecided:
    """A comparison of a rule is decided."""

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
    """The loss and its terms."""
    pairs_per_second: float


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A message to the user; the report holds it too."""

    message: str
    level: str = "info"


Event = StageStarted | Advanced | RuleDecided | TrainStep | StageFinished | Notice
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore an event; the default listener."""
