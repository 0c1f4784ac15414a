"""The request and the result of a cleaning."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from pargate.clean.config import Proposal
from pargate.core.choices import Preset, RequiredDevice, SavedLayout
from pargate.core.provenance import ProvenanceRecord, Subject
from pargate.core.stamp import Lookup, Paste, Recompress, Stamp, Warp
from pargate.files import readable
from pargate.models.model import Model
from pargate.models.open import source_of

STATE_NAME = "state.pt"

CHOSEN_NAME = "run.json"
"""Name of the file with the chosen precision, which a resumed run keeps."""

LOCK_NAME = ".lock"

RECORD_NAME = "provenance.json"

CURVES_NAME = "training.svg"


class GivenTrigger(Protocol):
    """A trigger that the user gives to unlearn; cleaning knows no other."""

    @property
    def label(self) -> str:
        """Name in reports."""

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters that can change a pixel, as JSON values."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the parameters."""

    def draw(self, size: tuple[int, int], digests: Sequence[str], seed: int) -> Stamp:
        """Draw the stamp for n images of `size` (rows, columns), identified by hex digests."""


@dataclass(frozen=True, slots=True)
class CleanRequest:
    """The inputs and settings of a cleaning; paths and names are as the user gave them."""

    model: str | Model
    """Path or name of the checkpoint, or an open model."""
    pairs: str
    out: Path
    started: str
    """Time at which the cleaning started: RFC 3339, UTC."""
    arch: str | None = None
    method: str = "par"
    preset: Preset = "sized"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Settings by their name in `CleanConfig`; None for the default. `precision` may be `auto`."""
    classes: Path | None = None
    """Classes for drawn pairs; they are recorded."""
    device: str = "auto"
    require: RequiredDevice | None = None
    resume: bool = False
    cache: Path | None = None
    layout: SavedLayout | None = None
    """Layout of the result; None for open_clip's, if it can express the model."""
    unlearn: tuple[GivenTrigger, ...] = ()
    """Triggers to unlearn; without any, cleaning is blind to triggers."""

    @property
    def source(self) -> str:
        """The name of the model, as the user gave it."""
        return source_of(self.model)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A cleaned checkpoint."""

    folder: Path
    record: ProvenanceRecord
    late: tuple[str, ...]
    """Notices of the record that arose after training began."""
    pairs_per_second: float
    """Training speed of this process; 0 where an earlier run took all steps."""


def left_over(out: Path) -> Path:
    """Return the folder in which an interrupted run leaves its state."""
    return out.with_name(f"{out.name}.unfinished")


def describe(proposal: Proposal) -> list[str]:
    """Return the settings that a user may want to change, with their reasons."""
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


def given(unlearn: Sequence[GivenTrigger]) -> list[Subject]:
    """Return the triggers to unlearn as inputs of the run, by the digests of their parameters."""
    return [Subject(name=readable(trigger.label), sha256=trigger.digest) for trigger in unlearn]


def family(trigger: GivenTrigger, size: tuple[int, int], seed: int) -> str:
    """Return the family of a trigger by its stamp on images of `size`: `patch`, `warp`, `tone` or `blend`.

    Raises:
        InputError: the trigger does not fit on such an image.
    """
    stamp = trigger.draw(size, [], seed)
    match stamp.inner if isinstance(stamp, Recompress) else stamp:
        case Paste():
            return "patch"
        case Warp():
            return "warp"
        case Lookup():
            return "tone"
    return "blend"


def later(started: str, seconds: float) -> str:
    """Return the time `seconds` after `started`, both RFC 3339, UTC."""
    moment = datetime.fromisoformat(started) + timedelta(seconds=seconds)
    return moment.astimezone(UTC).isoformat(timespec="seconds")
