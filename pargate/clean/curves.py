"""Curves of a cleaning as pictures: what happened while it ran, and what its settings trade for what."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pargate.core.provenance import ProvenanceRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMES = {
    "loss": "loss",
    "contrastive": "contrastive loss",
    "self_supervision": "self-supervision",
    "distillation": "distillation",
    "image_shift": "pictures",
    "text_shift": "captions",
    "common_shift": "all that a universal picture is mixed into, together",
    "plain_shift": "pictures without one",
}


def training_curves(record: ProvenanceRecord) -> bytes:
    """PNG: losses, squared distances from the old embeddings with τ, and the learning rate, by step."""
    log = record.log
    moved = [name for name in log.values if name.endswith("_shift")]
    others = [name for name in log.values if name not in (*moved, "learning_rate")]
    figure = _figure(3 if moved else 2, "step")
    losses, rates = figure.axes[0], figure.axes[-1]
    _curves(losses, record, others, f"{record.configuration['method']}: loss")
    if moved:
        shifts, tau = figure.axes[1], record.configuration.get("tau")
        if tau is not None:
            shifts.axhline(tau, color="0.3", linestyle="--", linewidth=0.8, label=f"τ = {tau:g}")
        _curves(shifts, record, moved, "squared distance from the old embeddings")
        shifts.set_ylim(bottom=0)
    rates.plot(log.steps, log.values["learning_rate"], color="0.3")
    rates.set_title("learning rate", loc="left")
    rates.set_yscale("log")
    return _png(figure)


def _curves(axes: "Axes", record: ProvenanceRecord, names: Sequence[str], title: str) -> None:
    for name in names:
        axes.plot(record.log.steps, record.log.values[name], label=_NAMES.get(name, name), linewidth=1)
    axes.set_title(title, loc="left")
    axes.legend(frameon=False, fontsize=8)


@dataclass(frozen=True, slots=True)
class TradePoint:
    """One cleaned model on the trade-off curve; shares in [0, 1]."""

    label: str
    accuracy: float
    success: float
    """Largest attack success rate of the policy's triggers."""
    low: float
    high: float
    """Ends of its interval."""


def trade_off(points: Sequence[TradePoint], title: str) -> bytes:
    """PNG: clean accuracy against attack success, a point for each setting."""
    figure = _figure(1, "clean accuracy, %")
    (axes,) = figure.axes
    accuracies = [100 * point.accuracy for point in points]
    rates = [100 * point.success for point in points]
    low = [100 * max(0.0, point.success - point.low) for point in points]
    high = [100 * max(0.0, point.high - point.success) for point in points]
    axes.errorbar(accuracies, rates, yerr=[low, high], fmt="o-", capsize=3, linewidth=1)
    for point, x, y in zip(points, accuracies, rates, strict=True):
        axes.annotate(point.label, (x, y), textcoords="offset points", xytext=(6, 6), fontsize=8)
    axes.set_ylabel("attack success, %, with interval")
    axes.set_ylim(-2, 102)
    axes.set_title(title, loc="left")
    return _png(figure)


def _figure(rows: int, below: str) -> "Figure":
    from matplotlib.figure import Figure  # half a second, and only here

    figure = Figure(figsize=(8, 2.2 * rows + 1.2), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(visible=True, color="0.9")
    axes[-1].set_xlabel(below)
    return figure


def _png(figure: "Figure") -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    return stream.getvalue()
