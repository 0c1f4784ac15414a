"""The layout of bars that show an interval against its limit.

A bar has positions and labels; the page adds colours. Positions and widths are percent of the width of the bar.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pargate.core.results import TUNED, TUNED_WEAKER, Bound, Metric, Status
from pargate.report.text import percent, plain, plural

WORDS = {Status.BREACH: "Breach", Status.OPEN: "Not decided", Status.WAIVED: "Waived", Status.MET: "Met"}
"""Names of the statuses."""

METRICS: dict[str, str] = {
    Metric.ATTACK_SUCCESS: "Attack success",
    Metric.EXCESS: "Excess over the control",
    Metric.P_VALUE: "P-value among trusted models",
    Metric.ACCURACY: "Accuracy on clean images",
    Metric.RECALL: "Caption recall on clean images",
}
AGAINST = {"previous": "change since the previous report", "cap": "cap of the waiver"}


@dataclass(frozen=True, slots=True)
class Axis:
    """The scale of all bars of one quantity within a rule."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return the position of a value in percent of the width; values outside, and NaN, lie on the edge."""
        if math.isnan(value):
            return 0.0
        return round(100 * (min(max(value, self.low), self.high) - self.low) / (self.high - self.low), 2)


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled position on an axis."""

    x: float
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Bar:
    """An interval against its limit. Positions and widths are percent of the width."""

    name: str
    note: str
    status: str
    estimate: str
    span: str
    limit: str
    counted: str
    spoken: str
    measured: bool
    start: float
    width: float
    point: float | None
    zone_start: float
    zone_width: float
    mark: Mark
    ticks: tuple[Mark, ...]


def share(value: float) -> str:
    """Return a share as `12.3%`, with a typographic minus sign."""
    return percent(value).replace("-", "−") if math.isfinite(value) else "not known"


def axes_of(bounds: Sequence[Bound]) -> dict[tuple[str, str], Axis]:
    """Return an axis for each pair of a metric and what it is compared with."""
    axes = {}
    for key in {(b.metric, b.against) for b in bounds}:
        alike = [b for b in bounds if (b.metric, b.against) == key]
        # Without an estimate the low end is not known.
        values = [b.low for b in alike if b.estimate is not None] + [b.limit for b in alike]
        high = 1.0
        if key[1] == "previous":  # differences are mostly small
            high = _step(max([*(b.high for b in alike), *values]))
        axes[key] = Axis(0.0 - _step(-min(values)), high or 0.25)
    return axes


def _step(size: float) -> float:
    """Return the smallest round end of an axis that holds `size`."""
    return next((end for end in (0.0, 0.25, 0.5) if size <= end), 1.0)


def bar_of(bound: Bound, baseline: str, axis: Axis) -> Bar:
    """Return the bar of a bound; `baseline` is that of the excess, as in `PairedCounts`."""
    measured = bound.n > 0
    edge = axis.at(bound.limit)
    low = axis.low if bound.estimate is None else bound.low
    start, end = axis.at(low), axis.at(bound.high)
    name = METRICS.get(bound.metric) or plain(bound.metric.replace("_", " ").capitalize())
    if bound.metric == Metric.EXCESS and baseline == "reference":
        name = "Excess over the reference"
    elif bound.metric == Metric.EXCESS and baseline in (TUNED, TUNED_WEAKER):
        name = "Fall in the fine-tuned copy"
    if not measured:
        estimate, span = "not measured", ""
    elif bound.estimate is None:
        estimate = f"at most {share(bound.high)}"
        span = "the attack success itself is no higher"
    elif bound.metric == Metric.P_VALUE:
        estimate, span = share(bound.estimate), ""
    else:
        estimate, span = share(bound.estimate), f"between {share(bound.low)} and {share(bound.high)}"
    limit = f"{'at most' if bound.upper else 'at least'} {bound.limit_text}"
    note = AGAINST.get(bound.against, "")
    counted = plural(bound.n, "trusted model" if bound.metric == Metric.P_VALUE else "image")
    numbers = ", ".join(part for part in (estimate, span, f"limit {limit}") if part)
    return Bar(
        name=name,
        note=note,
        status=str(bound.status),
        estimate=estimate,
        span=span,
        limit=limit,
        counted=counted,
        spoken=f"{name}{f' ({note})' if note else ''}: {numbers}, {counted}. {WORDS[bound.status]}.",
        measured=measured,
        start=start,
        # An interval of no width must be visible.
        width=max(round(end - start, 2), 0.5),
        point=axis.at(bound.estimate) if measured and bound.estimate is not None else None,
        zone_start=edge if bound.upper else 0.0,
        zone_width=round(100 - edge, 2) if bound.upper else edge,
        mark=Mark(edge, f"{'cap' if bound.against == 'cap' else 'limit'} {_short(bound.limit_text)}", _anchor(edge)),
        ticks=tuple(_ticks(axis)),
    )


def _short(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:23]}…"


def _anchor(x: float) -> str:
    return "start" if x < 20 else "end" if x > 80 else "middle"


def _ticks(axis: Axis) -> Iterator[Mark]:
    values = {axis.low, 0.0, axis.high / 2, axis.high}
    for value in sorted(values):
        x = axis.at(value)
        yield Mark(x, f"{value * 100:g}%".replace("-", "−"), "start" if x == 0 else "end" if x == 100 else "middle")
