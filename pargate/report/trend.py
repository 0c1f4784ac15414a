"""The layout of a plot of a rate over time: dots with intervals, in percent of the width and pixels of height.

As in `bars`, the page adds the colours.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pargate.core.audit import Point, Rate
from pargate.report.bars import share
from pargate.report.text import minute, plural

TOP, BOTTOM = 14.0, 114.0
"""Positions of 100% and 0%, in pixels from the top."""

LEFT, RIGHT = 12.0, 97.0
"""Positions of the first and the last audit, in percent of the width; the labels of the scale are left of them."""

SPOKEN = 12
"""Maximum number of audits in the spoken text; the latest are kept."""

SHOWN = 28
"""Maximum number of drawn audits; the latest are kept."""

APART = 3.0
"""Least distance of two dots in percent of the width, so that they do not overlap."""


@dataclass(frozen=True, slots=True)
class Dot:
    """One audit."""

    x: float
    y: float
    high: float
    low: float
    """Ends of the interval in pixels from the top, so `high` is the smaller number."""
    standing: str


@dataclass(frozen=True, slots=True)
class Step:
    """A line from one audit to the next."""

    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Plot:
    """A rate over time."""

    name: str
    now: str
    """The latest value."""
    span: str
    about: str
    n: int
    spoken: str
    dots: tuple[Dot, ...]
    steps: tuple[Step, ...]
    first: str
    """Time of the first drawn audit; empty if it is also the last."""
    last: str


def plot(
    name: str, points: Sequence[Point], pick: Callable[[Point], Rate | None], *, coloured: bool = True
) -> Plot | None:
    """Return the plot of the measured points, oldest first; None if nothing was measured.

    `coloured` shows the standing of the model, which is not about every rate.
    """
    found = [(point, rate) for point in points if (rate := pick(point)) is not None][-SHOWN:]
    if not found:
        return None
    dots = [
        Dot(x=x, y=_height(rate.rate), high=_height(rate.high), low=_height(rate.low),
            standing=str(point.standing) if coloured else "none")
        for x, (point, rate) in zip(_places([_moment(point.time) for point, _ in found]), found, strict=True)
    ]  # fmt: skip
    latest = found[-1][1]
    # The day is enough, unless all audits have the same.
    when: Callable[[str], str] = _day if _day(found[0][0].time) != _day(found[-1][0].time) else minute
    told = "; ".join(f"{_day(p.time)} {_said(r)}" for p, r in found[-SPOKEN:])
    return Plot(
        name=name,
        now=share(latest.rate),
        span=f"between {share(latest.low)} and {share(latest.high)}",
        about=latest.subject,
        n=latest.n,
        spoken=f"{name} in {plural(len(found), 'audit')}: {told}.",
        dots=tuple(dots),
        steps=tuple(Step(a.x, a.y, b.x, b.y) for a, b in itertools.pairwise(dots)),
        first=when(found[0][0].time) if len(found) > 1 else "",
        last=when(found[-1][0].time),
    )


def _places(moments: Sequence[float]) -> list[float]:
    """Return the position of each audit by its time; at equal distances if some would overlap."""
    begin, length = moments[0], moments[-1] - moments[0]
    if len(moments) == 1:
        return [round((LEFT + RIGHT) / 2, 2)]
    places = [LEFT + (RIGHT - LEFT) * (moment - begin) / length if length > 0 else LEFT for moment in moments]
    if any(after - before < APART for before, after in itertools.pairwise(places)):
        places = [LEFT + (RIGHT - LEFT) * number / (len(moments) - 1) for number in range(len(moments))]
    return [round(place, 2) for place in places]


def _day(text: str) -> str:
    return text[:10]


def _said(rate: Rate) -> str:
    return f"{share(rate.rate)}, interval {share(rate.low)} to {share(rate.high)}"


def _height(value: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * min(max(value, 0.0), 1.0), 2)


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
