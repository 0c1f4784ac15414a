"""Charts of a cleaning: SVG that any viewer reads, whatever the numbers and names are."""

import math
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from pargate.report.curves import TradePoint, trade_off, training_curves


def record(values: dict[str, list[float]], **configuration: Any) -> Any:
    steps = tuple(range(1, 1 + len(values["learning_rate"])))
    return SimpleNamespace(
        log=SimpleNamespace(steps=steps, values=values), configuration={"method": "par", **configuration}
    )


def words(svg: str) -> str:
    return " ".join(ElementTree.fromstring(svg).itertext())


def lines(svg: str) -> list[list[tuple[float, float]]]:
    found = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline")
    return [[tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()] for line in found]


def test_a_panel_for_losses_shifts_and_rate_and_a_line_for_each_quantity_and_tau() -> None:
    values = {"learning_rate": [1.0, 0.5], "loss": [3.0, 1.0], "contrastive": [2.0, 2.0], "image_shift": [0.0, 0.5]}
    svg = training_curves(record(values, tau=2.15))
    for text in ("par: loss", "contrastive loss", "squared distance", "τ = 2.15", "learning rate", "step"):
        assert text in words(svg)
    assert len(lines(svg)) == 5
    loss, contrastive, shift, tau, rate = lines(svg)
    assert loss[0][1] < contrastive[0][1] < loss[1][1]  # SVG counts from above
    assert tau[0][1] == tau[1][1] < shift[1][1] < shift[0][1] and rate[0][1] < rate[1][1]


def test_a_cleaning_without_shifts_has_no_panel_of_them() -> None:
    svg = training_curves(record({"learning_rate": [1.0, 0.5], "loss": [3.0, 1.0]}, tau=None))
    assert "squared distance" not in words(svg) and len(lines(svg)) == 2


@pytest.mark.parametrize("loss", [0.0, -2.0, math.nan, math.inf, 1e-30, 1e30])
def test_a_single_step_and_odd_values_are_drawn(loss: float) -> None:
    root = ElementTree.fromstring(training_curves(record({"learning_rate": [0.0], "loss": [loss]})))
    assert root.tag.endswith("svg") and len(root) > 0


def test_a_long_log_stays_small_and_keeps_its_peak() -> None:
    loss = [1.0] * 100_000
    loss[54_321] = 9.0
    svg = training_curves(record({"learning_rate": [1.0] * 100_000, "loss": loss}))
    assert len(svg) < 100_000
    assert min(y for _, y in lines(svg)[0]) < lines(svg)[0][0][1]


def test_the_trade_off_names_every_point_and_draws_its_interval() -> None:
    points = [TradePoint("as it was", 0.7, 0.9, 0.8, 0.95), TradePoint("tau <1>&", 0.7, 0.1, 0.0, 0.2)]
    svg = trade_off(points, "par on a\x1b[31m \u202e model, by tau")
    for text in ("as it was", "tau <1>&", "clean accuracy, %", "\\x1b[31m \\u202e model, by tau"):
        assert text in words(svg)
    assert len(lines(svg)) == 1 and len(lines(svg)[0]) == 2
