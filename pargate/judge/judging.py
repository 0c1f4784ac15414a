"""How a verdict is reached: the policy, the day, the waivers and the last release."""

from dataclasses import dataclass
from datetime import date

from pargate.core.report import ScanReport
from pargate.judge.waivers import Context
from pargate.policy.resolve import Resolved


@dataclass(frozen=True, slots=True)
class Judging:
    """Everything that a verdict depends on besides the measurements."""

    policy: Resolved
    today: date = date.max
    """Day on which waivers are judged, in UTC; by default no waiver counts."""
    waive: bool = True
    """Whether waivers count."""
    strict: bool = False
    """Whether a waiver without effect fails the verdict."""
    previous: ScanReport | None = None
    """Report of the last release, for rules that limit how much worse a model may become."""

    def context(self, model: str) -> Context:
        """Return what the verdict on the checkpoint `model` (its SHA-256) depends on besides the measurements."""
        return Context(model, self.today, self.waive, self.previous.measurements if self.previous else None)
