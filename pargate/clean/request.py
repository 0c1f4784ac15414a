"""What a cleaning is asked for, and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pargate.clean.config import Proposal
from pargate.core.choices import Preset, RequiredDevice
from pargate.core.provenance import ProvenanceRecord
from pargate.models.model import Model
from pargate.models.open import source_of

STATE_NAME = "state.pt"

CHOSEN_NAME = "run.json"
"""What a trial chose, which a run that goes on keeps."""

LOCK_NAME = ".lock"

RECORD_NAME = "provenance.json"

CURVES_NAME = "training.svg"


@dataclass(frozen=True, slots=True)
class CleanRequest:
    """Everything a cleaning depends on; paths and names as the user gave them."""

    model: str | Model
    """What the user named, or a model that is open already."""
    pairs: str
    out: Path
    started: str
    """RFC 3339, UTC: the clock is read by the caller."""
    arch: str | None = None
    method: str = "par"
    preset: Preset = "sized"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings by their name in `CleanConfig`; None leaves the default. `precision` may be `auto`."""
    classes: Path | None = None
    """For captions of drawn pairs alone; recorded."""
    device: str = "auto"
    require: RequiredDevice | None = None
    resume: bool = False
    cache: Path | None = None

    @property
    def source(self) -> str:
        """What the user called the model."""
        return source_of(self.model)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A cleaned checkpoint."""

    folder: Path
    record: ProvenanceRecord
    late: tuple[str, ...]
    """Notices of the record that were not said before training began."""
    pairs_per_second: float
    """Of this process; 0 where an earlier one had taken all steps."""


def left_over(out: Path) -> Path:
    """The folder where an interrupted run leaves its state."""
    return out.with_name(f"{out.name}.unfinished")


def describe(proposal: Proposal) -> list[str]:
    """The settings that a user may want to change, and why they are what they are."""
    config = proposal.config
    shown = ("steps", "batch_size", "micro_batch", "lr", "tau", "towers", "precision")
    lines = [f"method  {config.method}"]
    for name in shown:
        value = getattr(config, name)
        if value is not None:
            reason = proposal.reasons.get(name)
            text = f"{value:g}" if isinstance(value, float) else str(value)
            lines.append(f"  {name.replace('_', ' '):12} {text}" + (f"  ({reason})" if reason else ""))
    return lines


def later(started: str, seconds: float) -> str:
    """A moment so many seconds after another; both RFC 3339, UTC."""
    moment = datetime.fromisoformat(started) + timedelta(seconds=seconds)
    return moment.astimezone(UTC).isoformat(timespec="seconds")
