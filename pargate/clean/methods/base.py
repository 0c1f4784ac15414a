"""What a cleaning method declares: its published settings, and how they follow from the sizes of model and data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pargate.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from pargate.clean.losses import Embedded

PUBLISHED_LR = 3e-5
PUBLISHED_BATCH = 2048
PUBLISHED_STEPS = 244
"""PAR's script for ViT-B/32: two epochs of 250,000 pairs in batches of 4 × 512."""

PUBLISHED: Mapping[str, Any] = {"lr": PUBLISHED_LR, "batch_size": PUBLISHED_BATCH, "steps": PUBLISHED_STEPS}

PROCESSOR_BATCH = 256
"""Pairs of a step of PAR and fine-tuning on processors. With 64, in a quarter of the time, PAR lost a point of accuracy
more, and left three times as much of a ResNet's stripes."""

SMALL_BATCH = 64
"""Pairs of a step of the other methods on processors, and of all with drawn pairs: CleanCLIP's published one; par-plus
took twice the time with twice as many, and cleaned about as well."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What the defaults follow from."""

    parameters: int
    image_side: int
    pairs: int | None
    """Number of image-text pairs; None where they never end."""
    device: Literal["cpu", "cuda"]
    drawn: bool = False
    """Whether the pairs are drawn ones, and none of them a photograph."""
    batch_norm: bool = False
    """Whether the model has layers that normalise by stored statistics."""


Settings = dict[str, tuple[Any, str]]
"""Values by the name of the setting, each with its reason."""


class Method:
    """A way to clean a model."""

    name: ClassVar[str]
    published: ClassVar[Mapping[str, Any]]
    """Values of the fields of `CleanConfig`, as published."""
    own: ClassVar[frozenset[str]] = frozenset()
    """Settings that no other method has."""
    processor_batch: ClassVar[int] = SMALL_BATCH
    """Pairs of a step on processors, where they are no drawn ones."""
    views: ClassVar[int] = 1
    """Views of each pair that are embedded; the second is CleanCLIP's."""
    other: ClassVar[str] = "par-plus"
    """The method that a gate tries next."""

    @classmethod
    def sized(cls, sizes: Sizes, usual: Settings) -> Settings:
        """Return the settings that follow from the sizes; `usual` are those of PAR."""
        return usual

    @classmethod
    def terms(cls, seen: "Embedded") -> "dict[str, Tensor]":
        """Return scalars that are added to the loss, besides the weighted terms that every method can have."""
        return {}


METHODS: Registry[type[Method]] = Registry(
    "pargate.methods",
    "cleaning method",
    "pargate.clean.methods",
    lambda name, part: isinstance(part, type) and issubclass(part, Method) and part.name == name,
)
"""Cleaning methods by name."""
