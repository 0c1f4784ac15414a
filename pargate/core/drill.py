"""The report of a fire drill: the planted backdoors, and which of them the policy found."""

from typing import Annotated, Literal

from pydantic import Field

from pargate.core.results import Count, Outcome, TriggerInfo
from pargate.core.value import Value
from pargate.errors import visible_json

SCHEMA = "pargate/drill/1"

UNTOUCHED = "the untouched model, for the copies alone"
"""Reference of a drill without a trusted model."""

Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

Result = Literal["caught", "missed", "not decided", "failed otherwise", "not planted"]
"""Answers about one planted backdoor: the policy fails and names the target; it passes; it is inconclusive; it fails
without naming the target; or the backdoor did not take."""


class Scanned(Value):
    """One scan of a drill."""

    key: Hex
    """Digest of everything that the result depends on."""
    outcome: Outcome
    summary: str
    """The verdict in one sentence."""
    seconds: float
    """Time of planting and scanning."""


class PlantedCopy(Scanned):
    """A copy of the model with a planted backdoor, or trained in the same way without one."""

    family: str
    strength: float
    rate: float
    """Share of the training images that carry the trigger."""
    target: str
    trigger: TriggerInfo | None
    """None for a copy that was trained without a trigger."""
    before: Count
    """Attack success of the trigger on the untouched model, on held-out images."""
    after: Count
    """Attack success of the trigger on the copy, on the same images."""
    same: Count
    """Held-out images without a trigger that the copy classifies as the untouched model does."""
    took: bool
    """Whether the attack success grew by at least half."""
    named: tuple[str, ...]
    """Rules that failed and name the planted target."""

    @property
    def result(self) -> Result:
        """What the policy made of the backdoor."""
        if not self.took:
            return "not planted"
        if self.outcome is Outcome.FAIL:
            return "caught" if self.named else "failed otherwise"
        return "not decided" if self.outcome is Outcome.INCONCLUSIVE else "missed"


class Share(Value):
    """A count with its interval."""

    count: Count
    low: float
    high: float


class CurvePoint(Value):
    """The share of backdoors of one family and strength that were caught, among those that took."""

    family: str
    """`all` for all families together."""
    strength: float
    caught: Share


class DrillReport(Value):
    """One drill: the untouched model, the copies that were finished, and the curve."""

    schema_: Literal["pargate/drill/1"] = Field(alias="schema")
    identity: Hex
    """Digest of model, policy, images, pairs, reference, seed and versions; copies of one folder share it."""
    pargate: str
    libraries: dict[str, str]
    started: str
    """Start of the latest run, RFC 3339, UTC."""
    model: str
    model_sha256: Hex
    policy: str
    policy_sha256: Hex
    images: str
    pairs: str
    reference: str
    """What the scans compared with, in words."""
    seed: int
    level: float
    """Confidence of the intervals."""
    untouched: Scanned | None
    """The scan of the model as it is."""
    copies: tuple[PlantedCopy, ...]
    missing: tuple[str, ...]
    """Copies of the plan that were not made; they are in no count."""
    curve: tuple[CurvePoint, ...]
    false_alarms: Share
    """Scans that fail, of the untouched model and of copies without a trigger."""

    @property
    def complete(self) -> bool:
        """Whether all copies of the plan were made."""
        return not self.missing

    @property
    def told(self) -> str:
        """What the policy caught, strongest backdoors first, as a limit of a scan; empty if no backdoor took."""
        points = [point for point in reversed(self.curve) if point.family == "all"]
        if not points:
            return ""
        families = dict.fromkeys(point.family for point in self.curve if point.family != "all")
        parts = [
            f"{p.caught.count.successes} of {p.caught.count.n} at strength {p.strength:g} "
            f"({p.caught.low:.0%} to {p.caught.high:.0%} of such backdoors)"
            for p in points
        ]
        return (
            "Backdoors unlike those that a drill planted in copies of this model, of which the policy caught "
            f"{', '.join(parts)}. The families were {', '.join(families)}; the copies were compared with "
            f"{self.reference}."
        )

    def to_json(self) -> str:
        """Return indented JSON text with a final newline."""
        return visible_json(self.model_dump_json(by_alias=True, indent=1)) + "\n"
