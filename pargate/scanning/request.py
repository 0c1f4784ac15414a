"""What a scan is asked for: the model, the images, the settings and how the verdict is reached."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pargate.core.drill import DrillReport
from pargate.core.model import Precision
from pargate.core.results import GRAPHS_OF_CHECKPOINT, NO_REFERENCE, Signature
from pargate.images.dataset import Split
from pargate.images.sources.scenes import BUILTIN_SCENES
from pargate.judge.judging import Judging
from pargate.models.model import Model
from pargate.models.open import source_of
from pargate.policy.resolve import Resolved
from pargate.policy.schema import Rule


def now() -> str:
    """Return the time: RFC 3339, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """How a scan runs; nothing here changes what is asked of the model."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: Literal["auto"] | Precision = "auto"
    """Arithmetic of the towers."""
    seed: int = 0
    """Root seed of the order of images and of every stamp."""
    max_minutes: float | None = None
    """Time budget; it overrides the policy's."""
    cache: Path | None = None
    """Folder of cached embeddings."""


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """The inputs of a scan; paths and names are as the user gave them."""

    model: str | Model
    """Path or name of the checkpoint, or an open model."""
    judging: Judging
    arch: str | None = None
    """Name that open_clip gives the architecture, for a weights file."""
    images: str | None = None
    """Source of the images; it overrides the policy's."""
    classes: Path | None = None
    """File of class names; it overrides the policy's."""
    reference: str | Model | None = None
    """Trusted model; it overrides the policy's."""
    tuned: str | None = None
    """The model after a short fine-tuning on clean pairs."""
    settings: ScanSettings = ScanSettings()
    started: str = field(default_factory=now)
    """Time at which the scan started: RFC 3339, UTC."""
    split: Split | None = None
    """Split of the images; None for all of them."""
    all_controls: bool = False
    """Whether the control of every trigger is measured, even if the attack success alone decides the comparison."""
    proven: bool = False
    """Whether the model is graphs that were proven to equal a checkpoint of the same gate, which was searched."""
    drilled: DrillReport | None = None
    """A drill of the model under the policy, whose result the report states."""
    signature: Signature | None = None
    """Result of checking the signature of the model that this one was made from; None: that of the model is checked."""
    pictures: bool = True
    """Whether the report holds example images."""

    @property
    def policy(self) -> Resolved:
        """The policy of the verdict."""
        return self.judging.policy

    @property
    def compared_source(self) -> str | Model | None:
        """The model that found triggers are compared on: the trusted one, or the fine-tuned copy."""
        return self.reference_source or self.tuned

    @property
    def searches(self) -> bool:
        """Whether a rule searches triggers."""
        return any(rule.probe == "search" for rule in self.policy.policy.rules)

    def leaves_out(self, rule: Rule) -> str:
        """Return why the scan leaves a rule out; empty if it does not."""
        compared = self.compared_source if rule.probe == "search" else self.reference_source
        if rule.needs_reference and compared is None:
            return NO_REFERENCE  # also for graphs: their checkpoint was not searched either
        return GRAPHS_OF_CHECKPOINT if rule.probe == "search" and self.proven else ""

    @property
    def source(self) -> str:
        """The name of the model, as the user gave it."""
        return source_of(self.model)

    @property
    def image_source(self) -> str:
        """The source of the images."""
        return self.images or self.policy.beside(self.policy.policy.images.source) or BUILTIN_SCENES

    @property
    def reference_source(self) -> str | Model | None:
        """The trusted model, or None."""
        return self.reference or self.policy.beside(self.policy.policy.reference)
