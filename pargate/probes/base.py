"""What a probe sees of one block of carriers, and what it must be able to do."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Vectors
from pargate.core.results import Measurement
from pargate.triggers import Trigger


class Views(Protocol):
    """One block of carriers, seen by the model (or the reference) with and without a stamp.

    Vectors are computed when first asked for and shared by all probes of the block.
    """

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [n], true class, −1 where unknown."""
        ...

    @property
    def captions(self) -> Sequence[str | None]:
        """Caption of each carrier, or None."""
        ...

    @property
    def digests(self) -> Sequence[str]:
        """Digest of each carrier's bytes."""
        ...

    def clean(self, *, reference: bool = False) -> Vectors:
        """float32 [n, d]: the carriers as they are."""
        ...

    def stamped(self, trigger: Trigger, *, reference: bool = False) -> Vectors:
        """float32 [n, d]: with the trigger."""
        ...

    def control(self, trigger: Trigger) -> Vectors:
        """float32 [n, d]: with the trigger's control."""
        ...


class Probe(Protocol):
    """One experiment on one trigger, or on the clean carriers."""

    def observe(self, number: int, selection: bool, views: Views) -> None:
        """Take in block `number`; `selection` says that it may choose but not measure."""
        ...

    def measurement(self) -> Measurement:
        """What was counted so far."""
        ...
