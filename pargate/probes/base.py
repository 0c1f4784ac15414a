"""The interface of probes: declarations, the images as the models see them, and tests."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pargate.core.calibration import Trusted
from pargate.core.found import Family, Found, FoundText, TextFamily
from pargate.core.model import Vectors
from pargate.core.results import METRIC_NAME, Finding, Measurement
from pargate.registry import Registry
from pargate.triggers import Trigger

UNKNOWN = "unknown"
"""The target of a rule whose author does not know the attacker's class."""

CLEAN = "clean"
"""Id of the measurement on images without a trigger, which every scan makes."""

FILE = "file"
"""Id of the measurement of the weights file."""

BACKDOOR = (
    "Do not ship a checkpoint that breaks the rule. Compare it with the model that it was trained from: "
    "`--reference PARENT` leaves only the pull that the parent does not have. Then clean it with `pargate clean` or "
    "`pargate gate`, or go back to weights that pass."
)
"""Advice about a broken rule on triggers or words."""

Need = Literal["triggers", "captions", "file", "pairs"]


@dataclass(frozen=True, slots=True)
class Words:
    """The explanation of an id, for `pargate explain` and docs/rules.md."""

    meaning: str
    why: str
    do: str
    """Advice to the reader of a report."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One comparison, in the terms of its probe."""

    id: str
    """Id of the measurement that answers the comparison."""
    rule: str
    """Id of the rule."""
    trigger: Trigger | None
    target: str
    """Name of the target, or `UNKNOWN`."""
    direction: str
    """One of the probe's directions."""
    metrics: frozenset[str]
    """Metrics that the rule limits."""
    phrases: tuple[str, ...] = ()
    """Texts that the rule names."""
    trusted: Trusted | None = None
    """Models that a searched model is ranked among; None if the rule has no calibration, or another model decides."""


class Views(Protocol):
    """One block of images, embedded by the model (or the reference) with and without a stamp.

    Embeddings are computed on first use and shared by all probes.
    """

    @property
    def labels(self) -> NDArray[np.int64]:
        """True class of each image, int64 [n], −1 where unknown."""
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
        """Return the embeddings of the images without a stamp: float32 [n, d]."""
        ...

    def stamped(self, trigger: Trigger, *, reference: bool = False) -> Vectors:
        """Return the embeddings of the images with the trigger: float32 [n, d]."""
        ...

    def control(self, trigger: Trigger) -> Vectors:
        """Return the embeddings of the images with the trigger's control: float32 [n, d]."""
        ...


class Scene(Protocol):
    """Everything that a probe can know before the first block: classes, captions, and their embeddings."""

    @property
    def source(self) -> str:
        """Source of the images, for messages."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes."""
        ...

    @property
    def present(self) -> NDArray[np.int64]:
        """Classes that occur among the labels, int64 [k]."""
        ...

    @property
    def texts(self) -> tuple[str, ...]:
        """Different captions of the images; at most 1,000."""
        ...

    @property
    def has_reference(self) -> bool:
        """Whether a reference model is given."""
        ...

    @property
    def has_tuned(self) -> bool:
        """Whether the model after a short fine-tuning on clean pairs is given."""
        ...

    @property
    def all_controls(self) -> bool:
        """Whether the control of every trigger must be measured."""
        ...

    def index(self, name: str) -> int | None:
        """Return the index of a class in any spelling, or None."""
        ...

    def head(self, *, reference: bool = False) -> Vectors:
        """Return the zero-shot head: float32 [classes, d], unit rows."""
        ...

    def text_vectors(self, *, reference: bool = False) -> Vectors:
        """Return the embeddings of `texts`: float32 [texts, d], unit rows."""
        ...

    def gallery(self, *, reference: bool = False) -> Vectors:
        """Return the embeddings of the selection images without a stamp: float32 [images, d]."""
        ...

    @property
    def gallery_digests(self) -> tuple[str, ...]:
        """Digests of the images of `gallery`, in its order."""
        ...

    def find_text(self, family: TextFamily, phrases: Sequence[str]) -> FoundText | str:
        """Return the text of a family that moves the most captions to one class, or why none can be searched."""
        ...

    def search(self, family: Family) -> Found | str:
        """Return the trigger of a family that moves the model most on the selection half, or why none can be searched.

        Raises:
            InputError: the selection half is too small.
        """
        ...


class Test(ABC):
    """The running test of one comparison: it takes blocks of images and returns counts."""

    compared: Trigger | None = None
    """Trigger under which model and reference are compared; None without a reference."""
    stopped: str = ""
    """Reason why nothing can be measured; empty where it can."""

    @abstractmethod
    def observe(self, number: int, selection: bool, views: Views) -> None:
        """Count block `number`; a block with `selection` may choose the target but must not measure."""

    @abstractmethod
    def measurement(self) -> Measurement:
        """Return the counts so far."""

    def wants_control(self, finding: Finding) -> bool:
        """Return whether measuring a control may decide an open `finding`."""
        return False

    def add_control(self, blocks: "BlockSource") -> None:
        """Measure the control too, on all earlier and later blocks."""
        raise NotImplementedError


@dataclass
class NotMeasured(Test):
    """The test of a comparison that a scan cannot measure, or leaves out."""

    id: str
    rule: str
    probe: str
    stopped: str

    def observe(self, number: int, selection: bool, views: Views) -> None:
        """Take in nothing."""

    def measurement(self) -> Measurement:
        """Return no counts."""
        return Measurement(id=self.id, rule=self.rule, probe=self.probe)


class BlockSource(Protocol):
    """Function that returns an earlier block."""

    def __call__(self, number: int, /) -> Views:
        """Return block `number`."""
        ...


class Probe:
    """A kind of measurement that rules can limit."""

    name: ClassVar[str]
    maxima: ClassVar[Mapping[str, Words]] = {}
    """Metrics that may have a maximum; larger is worse."""
    minima: ClassVar[Mapping[str, Words]] = {}
    """Metrics that may have a minimum; smaller is worse."""
    of_chance: ClassVar[frozenset[str]] = frozenset()
    """Metrics whose limit may be a multiple of chance; their measurement has `chance`."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    targets_classes: ClassVar[bool] = False
    """Whether a rule's target is one of the classes."""
    directions: ClassVar[tuple[str, ...]] = ("",)
    """Directions, each with its own comparison."""
    families: ClassVar[tuple[str, ...]] = ()
    """Families of triggers that the probe searches; a rule names some, each with its own comparison."""
    on_captions: ClassVar[bool] = False
    """Whether the probe counts captions instead of images."""
    measures: ClassVar[str] = ""
    """Id of the one measurement that answers all rules of the probe; empty if each comparison has its own."""
    about: ClassVar[Words]

    @classmethod
    def metrics(cls) -> dict[str, Words]:
        """Return all metrics of the probe."""
        return {**cls.maxima, **cls.minima}

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> Test:
        """Return the test that answers one comparison.

        Raises:
            InputError: the images cannot answer the comparison.
        """
        raise NotImplementedError(f"the probe {cls.name} measures nothing on images")


def _is_probe(name: str, part: Any) -> bool:
    """Return whether `part` is the probe `name`, can be started, and has metrics that a report can name."""
    if not (isinstance(part, type) and issubclass(part, Probe)) or part.name != name:
        return False
    started = part.measures or part.start.__func__ is not Probe.start.__func__  # type: ignore[attr-defined]  # a method
    named = all(re.fullmatch(METRIC_NAME, metric) for metric in part.metrics())
    return bool(started and part.about and named)


PROBES: Registry[type[Probe]] = Registry("pargate.probes", "probe", "pargate.probes", _is_probe)
"""Probes by name."""
