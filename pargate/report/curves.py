"""SVG charts: the course of a cleaning, the trade-off of a sweep, and the detection curve of a drill."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from pargate.core.provenance import ProvenanceRecord
from pargate.errors import visible

_NAMES = {
    "contrastive": "contrastive loss",
    "self_supervision": "self-supervision",
    "distillation": "distillation",
    "image_shift": "images",
    "text_shift": "captions",
    "common_shift": "common shift under a universal image",
    "plain_shift": "images without one",
    "learning_rate": "learning rate",
}
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")

_WIDTH, _HEIGHT = 880, 190
"""Width of the chart and height of one panel, in pixels."""
_LEFT, _RIGHT, _TOP, _BELOW = 70, 620, 46, 48
"""Ends of the horizontal axis, margin above each panel, margin below the last. The legend is right of the axis."""

_DRAWN = 600
"""Sections of a long line; the lowest and the highest point of each are drawn."""


@dataclass(frozen=True, slots=True)
class TradePoint:
    """One model on the trade-off curve; rates in [0, 1]."""

    label: str
    accuracy: float
    success: float
    """Largest attack success rate of the policy's triggers."""
    low: float
    high: float
    """Ends of the interval of `success`."""


@dataclass(frozen=True, slots=True)
class Detected:
    """The share of planted backdoors of one strength that a policy caught, in [0, 1], with its interval."""

    name: str
    """Name of the line."""
    strength: float
    share: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Line:
    """One curve of a panel."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """A linear scale: `begin` and `end` in pixels for `low` and `high`."""

    low: float
    high: float
    begin: float
    end: float

    def at(self, value: float) -> float:
        """Return the position of a value in pixels."""
        return round(self.begin + (self.end - self.begin) * (value - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[float]:
        """Return at most six round values on the axis."""
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def training_curves(record: ProvenanceRecord) -> str:
    """Return the chart of losses, squared distances from the old embeddings with τ, and the learning rate, by step."""
    log = record.log
    lines = {
        name: _Line(_NAMES.get(name, name), list(zip(log.steps, log.values[name], strict=True))) for name in log.values
    }
    moved = [line for name, line in lines.items() if name.endswith("_shift")]
    losses = [line for name, line in lines.items() if not name.endswith("_shift") and name != "learning_rate"]
    panels = [(f"{record.configuration['method']}: loss", losses)]
    if moved:
        tau, steps = record.configuration.get("tau"), log.steps
        if tau is not None and steps:
            moved.append(_Line(f"τ = {tau:g}", [(steps[0], tau), (steps[-1], tau)], dashed=True))
        panels.append(("squared distance from the old embeddings", moved))
    panels.append(("learning rate", [lines["learning_rate"]]))
    across = _axis(log.steps, _LEFT, _RIGHT)
    drawn: list[str] = []
    for number, (title, shown) in enumerate(panels):
        top = number * (_TOP + _HEIGHT) + _TOP
        values = [y for line in shown for _, y in line.points]
        up = _axis([0.0, *values] if shown is moved else values, top + _HEIGHT, top)
        drawn += _panel(title, across, up)
        drawn += _curves(shown, across, up)
    return _document(drawn, len(panels), "step")


def trade_off(points: Sequence[TradePoint], title: str) -> str:
    """Return the chart of clean accuracy against attack success, in percent, a point with its interval per model."""
    across = _axis([100 * point.accuracy for point in points], _LEFT, _RIGHT, edge=0.1)
    up = _Axis(-2, 102, _TOP + _HEIGHT, _TOP)
    drawn = list(_panel(f"{title}: attack success, %, with interval", across, up))
    places = [(across.at(100 * point.accuracy), up.at(100 * point.success)) for point in points]
    drawn.append(_polyline(places, _COLOURS[0]))
    for point, (x, y) in zip(points, places, strict=True):
        low, high = up.at(100 * min(point.low, point.success)), up.at(100 * max(point.high, point.success))
        drawn.append(f'<path d="M{x} {low}V{high}m-3 0h6M{x - 3} {low}h6" stroke="{_COLOURS[0]}"/>')
        drawn.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{_COLOURS[0]}"/>')
        drawn.append(_text(x + 6, y - 6, point.label))
    return _document(drawn, 1, "clean accuracy, %")


def detection(points: Sequence[Detected], title: str) -> str:
    """Return the chart of the share of caught backdoors by strength, in percent, a line with intervals per name."""
    across = _axis([point.strength for point in points], _LEFT, _RIGHT, edge=0.1)
    up = _Axis(-2, 102, _TOP + _HEIGHT, _TOP)
    names = dict.fromkeys(point.name for point in points)
    lines = [_Line(name, [(p.strength, 100 * p.share) for p in points if p.name == name]) for name in names]
    drawn = [*_panel(f"{title}: planted backdoors that were caught, %", across, up), *_curves(lines, across, up)]
    for number, name in enumerate(names):
        for point in (p for p in points if p.name == name):
            # Side by side, so that intervals at one strength do not hide each other.
            x = across.at(point.strength) + 5 * number
            low, high = up.at(100 * point.low), up.at(100 * point.high)
            colour = _COLOURS[number % len(_COLOURS)]
            drawn.append(f'<path d="M{x} {low}V{high}m-3 0h6M{x - 3} {low}h6" stroke="{colour}"/>')
            drawn.append(f'<circle cx="{x}" cy="{up.at(100 * point.share)}" r="3" fill="{colour}"/>')
    return _document(drawn, 1, "strength of the trigger; 1 is the published one")


def _axis(values: Iterable[float], begin: float, end: float, edge: float = 0.0) -> _Axis:
    """Return the axis that holds all finite values; `edge` is the margin at its ends as a share of their range."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    room = (high - low) * edge if high > low else abs(high) / 10 or 1.0
    return _Axis(low - room, high + room, begin, end)


def _panel(title: str, across: _Axis, up: _Axis) -> Iterator[str]:
    """Draw the title, the axes and the grid."""
    yield _text(across.begin, up.end - 10, title, "font-size='13'")
    for value in up.ticks():
        yield f'<path d="M{across.begin} {up.at(value)}H{across.end}" stroke="#e5e5e5"/>'
        yield _text(across.begin - 6, up.at(value) + 4, f"{value:.6g}", "text-anchor='end'")
    for value in across.ticks():
        yield f'<path d="M{across.at(value)} {up.begin}V{up.end}" stroke="#e5e5e5"/>'
        yield _text(across.at(value), up.begin + 15, f"{value:.6g}", "text-anchor='middle'")
    yield f'<path d="M{across.begin} {up.end}V{up.begin}H{across.end}" stroke="#000"/>'


def _curves(lines: Sequence[_Line], across: _Axis, up: _Axis) -> Iterator[str]:
    """Draw the lines, and a legend right of the axis."""
    for number, line in enumerate(lines):
        colour = "#4d4d4d" if line.dashed else _COLOURS[number % len(_COLOURS)]
        dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
        places = [(across.at(x), up.at(y)) for x, y in _thinned(line.points)]
        yield _polyline(places, colour, dashes)
        y = up.end + 14 + 17 * number
        yield f'<path d="M{across.end + 12} {y - 4}h18" stroke="{colour}"{dashes}/>'
        yield _text(across.end + 36, y, line.name)


def _thinned(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yield the finite points; of a long line the lowest and the highest of each section, so that no peak is lost."""
    finite = [point for point in points if math.isfinite(point[1])]
    size = -(-len(finite) // _DRAWN) or 1
    for start in range(0, len(finite), size):
        part = finite[start : start + size]
        yield from sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})


def _polyline(places: Iterable[tuple[float, float]], colour: str, dashes: str = "") -> str:
    return f'<polyline points="{" ".join(f"{x},{y}" for x, y in places)}" stroke="{colour}"{dashes}/>'


def _text(x: float, y: float, words: str, attributes: str = "") -> str:
    return f'<text x="{x}" y="{y}" {attributes} fill="#000">{escape(visible(words))}</text>'.replace("'", '"')


def _document(drawn: Iterable[str], panels: int, below: str) -> str:
    """Return the whole file, with the name of the horizontal axis below the last panel."""
    height = panels * (_TOP + _HEIGHT) + _BELOW
    name = _text((_LEFT + _RIGHT) / 2, height - 12, below, "text-anchor='middle'")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="11" fill="none">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n' + "\n".join((*drawn, name)) + "\n</svg>\n"
    )
