"""The interface of a cleaning method: its published settings, and those for other sizes of model and data."""

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
"""Batch size of PAR's script for ViT-B/32: two epochs of 250,000 pairs in batches of 4 × 512."""

PUBLISHED: Mapping[str, Any] = {"lr": PUBLISHED_LR, "batch_size": PUBLISHED_BATCH, "steps": PUBLISHED_STEPS}

PROCESSOR_BATCH = 256
"""Batch size of PAR and fine-tuning on CPUs. With 64, in a quarter of the time, PAR lost one more point of accuracy,
and left three times as much of a backdoor in a ResNet."""

SMALL_BATCH = 64
"""Batch size of the other methods on CPUs, and of all methods with drawn pairs: CleanCLIP's published one. With twice
as many, par-plus took twice the time and cleaned about as well."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of model and data from which the defaults follow."""

    parameters: int
    image_side: int
    pairs: int | None
    """Number of image-text pairs; None for an endless source."""
    device: Literal["cpu", "cuda"]
    drawn: bool = False
    """Whether the built-in renderer draws the pairs."""
    batch_norm: bool = False
    """Whether the model has batch normalisation."""


Settings = dict[str, tuple[Any, str]]
"""Values of settings and their reasons, by name."""


class Method:
    """A way to clean a model."""

    name: ClassVar[str]
    published: ClassVar[Mapping[str, Any]]
    """Values of the fields of `CleanConfig`, as published."""
    own: ClassVar[frozenset[str]] = frozenset()
    """Settings that no other method has."""
    processor_batch: ClassVar[int] = SMALL_BATCH
    """Batch size on CPUs with pairs that are not drawn."""
    views: ClassVar[int] = 1
    """Number of views of each pair that are embedded; the second is CleanCLIP's."""
    other: ClassVar[str] = "par-plus"
    """Name of the method that a gate tries next."""

    @classmethod
    def sized(cls, sizes: Sizes, usual: Settings) -> Settings:
        """Return the settings for these sizes; `usual` are those of PAR."""
        return usual

    @classmethod
    def terms(cls, seen: "Embedded") -> "dict[str, Tensor]":
        """Return scalars that are added to the loss, besides the weighted terms of all methods."""
        return {}


METHODS: Registry[type[Method]] = Registry(
    "pargate.methods",
    "cleaning method",
    "pargate.clean.methods",
    lambda name, part: isinstance(part, type) and issubclass(part, Method) and part.name == name,
)
"""Cleaning methods by name."""
