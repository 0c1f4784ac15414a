"""What a probe declares, what it sees of the images, and what the scan asks of it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pargate.core.found import Family, Found
from pargate.core.model import Vectors
from pargate.core.results import Finding, Measurement
from pargate.registry import Registry
from pargate.triggers import Trigger

UNKNOWN = "unknown"
"""The target of a rule whose author does not know the attacker's class."""

CLEAN = "clean"
"""Id of the measurement on untouched images, which every scan makes."""

FILE = "file"
"""Id of the measurement that says what the weights file is."""

Need = Literal["triggers", "captions", "file"]


@dataclass(frozen=True, slots=True)
class Words:
    """What an id stands for, for `pargate explain` and docs/rules.md."""

    meaning: str
    why: str
    do: str
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One comparison, as its probe sees it."""

    id: str
    """Id of the measurement that answers it."""
    rule: str
    """Id of the rule."""
    trigger: Trigger | None
    target: str
    """Name of the target, or `UNKNOWN`."""
    direction: str
    """One of the probe's directions."""
    metrics: frozenset[str]
    """Metrics that the rule limits."""


class Views(Protocol):
    """One block of images, seen by the model (or the reference) with and without a stamp.

    Vectors are computed when first asked for and shared by all probes of the block.
    """

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [n], true class, −1 where unknown."""
        ...

    @property
    def captions(self) -> Sequence[str | None]:
        """Caption of each image, or None."""
        ...

    @property
    def digests(self) -> Sequence[str]:
        """Digest of each image's bytes."""
        ...

    def clean(self, *, reference: bool = False) -> Vectors:
        """Return float32 [n, d]: the images as they are."""
        ...

    def stamped(self, trigger: Trigger, *, reference: bool = False) -> Vectors:
        """Return float32 [n, d]: with the trigger."""
        ...

    def control(self, trigger: Trigger) -> Vectors:
        """Return float32 [n, d]: with the trigger's control."""
        ...


class Scene(Protocol):
    """What a probe can know before the first block: classes, captions, and how the models embed them."""

    @property
    def source(self) -> str:
        """Where the images come from, for messages."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def present(self) -> NDArray[np.int64]:
        """int64 [k]: the classes that occur among the labels."""
        ...

    @property
    def texts(self) -> tuple[str, ...]:
        """Different captions of the images; at most 1,000."""
        ...

    @property
    def has_reference(self) -> bool:
        """Whether there is a trusted model to compare with."""
        ...

    @property
    def all_controls(self) -> bool:
        """Whether the control of every trigger is to be measured."""
        ...

    def index(self, name: str) -> int | None:
        """Return the position of a class, however it is spelled, or None."""
        ...

    def head(self, *, reference: bool = False) -> Vectors:
        """Return the zero-shot head: float32 [classes, d], unit rows."""
        ...

    def text_vectors(self, *, reference: bool = False) -> Vectors:
        """Return float32 [texts, d], unit rows."""
        ...

    def gallery(self, *, reference: bool = False) -> Vectors:
        """Return float32 [images, d]: clean images of the selection half."""
        ...

    def search(self, family: Family) -> Found | str:
        """Return the trigger of a family that moves the model most on the selection half, or why none can be searched.

        Raises:
            InputError: the selection half is too small.
        """
        ...


class Test(ABC):
    """One comparison under way: blocks in, counts out."""

    compared: Trigger | None = None
    """The trigger under which model and reference are compared; None where the reference is not asked."""
    stopped: str = ""
    """Why nothing can be measured; empty where it can."""

    @abstractmethod
    def observe(self, number: int, selection: bool, views: Views) -> None:
        """Take in block `number`; `selection` says that it may choose but not measure."""

    @abstractmethod
    def measurement(self) -> Measurement:
        """Return what was counted so far."""

    def wants_control(self, finding: Finding) -> bool:
        """Return whether measuring a control may decide what `finding` leaves open."""
        return False

    def add_control(self, blocks: "BlockSource") -> None:
        """Measure the control too, of the blocks that were observed and of those to come."""
        raise NotImplementedError


class BlockSource(Protocol):
    """Gives a block again."""

    def __call__(self, number: int, /) -> Views:
        """Return block `number`."""
        ...


class Probe:
    """A kind of question that a rule can ask."""

    name: ClassVar[str]
    maxima: ClassVar[Mapping[str, Words]] = {}
    """Metrics that may have a maximum; larger is worse."""
    minima: ClassVar[Mapping[str, Words]] = {}
    """Metrics that may have a minimum; smaller is worse."""
    of_chance: ClassVar[frozenset[str]] = frozenset()
    """Metrics whose limit may be a multiple of guessing; their measurement states `chance`."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    targets_classes: ClassVar[bool] = False
    """Whether a rule's target is one of the classes."""
    directions: ClassVar[tuple[str, ...]] = ("",)
    """Each is a comparison of its own."""
    families: ClassVar[tuple[str, ...]] = ()
    """Families of triggers that the probe searches; a rule names some, and each is a comparison of its own."""
    measures: ClassVar[str] = ""
    """Id of the one measurement that answers all rules of the probe; empty where each comparison has its own."""
    about: ClassVar[Words]

    @classmethod
    def metrics(cls) -> dict[str, Words]:
        """Return everything that the probe measures."""
        return {**cls.maxima, **cls.minima}

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> Test:
        """Return the test that answers one comparison.

        Raises:
            InputError: the images cannot answer it.
        """
        raise NotImplementedError(f"the probe {cls.name} measures nothing on images")


PROBES: Registry[type[Probe]] = Registry(
    "pargate.probes",
    "probe",
    "pargate.probes",
    lambda name, part: isinstance(part, type) and issubclass(part, Probe) and part.name == name,
)
"""Probes by name."""
