"""Anytime-valid intervals against published tables, hand computation and exact enumeration."""

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from pargate.core.sequential import (
    _FRACTIONS,
    _LOG_WEIGHTS,
    _wealth,
    difference_sequence,
    exponential,
    mean_sequence,
    natural_log,
)

Floats = NDArray[np.float64]
HALVES = np.array([0.0, 0.5, 1.0])


def halves(zeros: int, middles: int, ones: int) -> Floats:
    """Observations with the given numbers of 0, 1/2 and 1."""
    return np.repeat(HALVES, [zeros, middles, ones])


# --- arithmetic ---


def test_the_logarithm_is_that_of_the_library_up_to_its_stated_error() -> None:
    x = np.concatenate([np.logspace(-300, 300, 4001), np.linspace(0.4, 3.0, 4001), [1.0]])
    exact = np.array([math.log(value) for value in x])
    assert (np.abs(natural_log(x) - exact) <= 1e-15 * np.maximum(1.0, np.abs(exact))).all()
    assert natural_log(1.0) == 0.0


def test_the_exponential_is_that_of_the_library_up_to_its_stated_error() -> None:
    x = np.concatenate([np.linspace(-700.0, 700.0, 4001), np.linspace(-1.0, 1.0, 4001)])
    assert exponential(x) == pytest.approx(np.array([math.exp(value) for value in x]), rel=1e-13)
    assert exponential(0.0) == 1.0 and 0.0 < exponential(-1e6) < 1e-303


def test_the_fractions_are_the_arcsine_nodes_and_the_weights_add_up_to_one() -> None:
    angles = np.pi * (np.arange(64) + 0.5) / 128
    assert pytest.approx(np.sin(angles) ** 2, rel=1e-12) == _FRACTIONS
    assert np.exp(_LOG_WEIGHTS) == pytest.approx(np.sin(2 * angles) / np.sin(2 * angles).sum(), rel=1e-11)
    assert math.fsum(np.exp(_LOG_WEIGHTS)) == pytest.approx(1.0, rel=1e-14)


# --- means ---


@pytest.mark.parametrize("value", [1.0, 0.5, 0.2])
def test_mean_after_one_observation_is_known_in_closed_form(value: float) -> None:
    # Fractions average 1/2, so the wealth against m is (1 + value/m) / 2.
    low, _ = mean_sequence(np.array([value]), 0.05, 0.05)
    assert low == pytest.approx(value * 0.05 / (2 - 0.05), rel=1e-8)


def test_mean_of_two_ones_is_known_in_closed_form() -> None:
    # With r = 1/m - 1 the wealth is 1 + r + r**2/3 for uniform fractions; 64 of them come within 1e-3.
    r = (-1 + math.sqrt(1 + 4 / 3 * (100 - 1))) / (2 / 3)
    assert mean_sequence(np.ones(2), 0.01, 0.01).low == pytest.approx(1 / (1 + r), rel=1e-3)


def test_constant_observations_give_exact_ends() -> None:
    assert mean_sequence(np.zeros(9), 0.05, 0.05).low == 0.0
    assert mean_sequence(np.ones(9), 0.05, 0.05).high == 1.0
    assert mean_sequence(np.empty(0), 0.05, 0.05) == (0.0, 1.0)


def test_end_of_a_mean_is_where_the_wealth_reaches_one_over_alpha() -> None:
    counts = np.array([31.0, 400.0, 109.0])
    low, high = mean_sequence(halves(31, 400, 109), 0.0005, 0.01)
    assert _wealth(HALVES, counts, -math.log(low)).log == pytest.approx(-math.log(0.0005), abs=1e-5)
    assert _wealth(HALVES, counts[::-1], -math.log(1 - high)).log == pytest.approx(-math.log(0.01), abs=1e-5)


def test_slope_of_the_wealth_is_its_derivative() -> None:
    counts = np.array([31.0, 400.0, 109.0])
    for t in (0.3, 0.6, 0.9):
        above, below = _wealth(HALVES, counts, t + 1e-6).log, _wealth(HALVES, counts, t - 1e-6).log
        assert _wealth(HALVES, counts, t).slope == pytest.approx((above - below) / 2e-6, rel=1e-6)


@pytest.mark.parametrize("chances", [(0.3, 0.4, 0.3), (0.0, 0.9, 0.1), (0.7, 0.0, 0.3), (0.02, 0.9, 0.08)])
def test_wealth_is_fair_whatever_came_before(chances: tuple[float, float, float]) -> None:
    t = -math.log(float(HALVES @ chances))
    for counts in ((0, 0, 0), (1, 0, 0), (0, 5, 2), (30, 60, 10), (2, 300, 50)):
        now = math.exp(_wealth(HALVES, np.array(counts, float), t).log)
        after = [math.exp(_wealth(HALVES, np.array(counts, float) + step, t).log) for step in np.eye(3)]
        assert float(np.dot(chances, after)) == pytest.approx(now, rel=1e-9)


def test_wealth_has_mean_one_over_all_sequences_of_six() -> None:
    chances = np.array([0.2, 0.5, 0.3])
    t = -math.log(float(HALVES @ chances))
    mean = 0.0
    for sequence in product(range(3), repeat=6):
        counts = np.bincount(sequence, minlength=3).astype(float)
        mean += float(np.prod(chances[list(sequence)])) * math.exp(_wealth(HALVES, counts, t).log)
    assert mean == pytest.approx(1.0, rel=1e-9)


def test_chance_that_a_mean_is_ever_missed_is_exactly_below_alpha() -> None:
    chances = np.array([0.1, 0.6, 0.3])
    truth, alpha_low, alpha_high, horizon = float(HALVES @ chances), 0.1, 0.3, 22
    missed_low = missed_high = 0.0
    alive = {(0, 0, 0): 1.0}
    for _ in range(horizon):
        reached: dict[tuple[int, int, int], float] = {}
        for (zeros, middles, ones), weight in alive.items():
            steps = ((zeros + 1, middles, ones), (zeros, middles + 1, ones), (zeros, middles, ones + 1))
            for state, chance in zip(steps, chances, strict=True):
                reached[state] = reached.get(state, 0.0) + weight * float(chance)
        alive = {}
        for state, weight in reached.items():
            low, high = mean_sequence(halves(*state), alpha_low, alpha_high)
            if low > truth:
                missed_low += weight
            elif high < truth:
                missed_high += weight
            else:
                alive[state] = weight
    assert 0 < missed_low <= alpha_low
    assert 0 < missed_high <= alpha_high


def test_values_between_levels_widen_the_interval_by_little() -> None:
    on_levels = np.linspace(0, 1, 61)
    spread = 1 / 240  # shared out between neighbours, half above and half below
    between = np.clip(np.concatenate([on_levels - spread, on_levels + spread]), 0, 1)
    coarse, fine = mean_sequence(between, 0.01, 0.01), mean_sequence(np.tile(on_levels, 2), 0.01, 0.01)
    assert coarse == pytest.approx(fine, abs=2e-4)


@pytest.mark.parametrize("x", [[0.5, 1.1], [-0.1], [math.nan], [math.inf]])
def test_observations_outside_the_unit_range_are_refused(x: list[float]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_sequence(np.array(x), 0.05, 0.05)


def test_observations_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        mean_sequence(np.zeros((2, 3)), 0.05, 0.05)


# --- differences ---


def test_difference_is_the_mean_of_halves_mapped_back() -> None:
    hits = np.array([True, True, False, True, False])
    control = np.array([False, True, False, False, True])
    low, high = mean_sequence(np.array([1.0, 0.5, 0.5, 1.0, 0.0]), 0.1, 0.2)
    assert difference_sequence(hits, control, 0.1, 0.2) == (2 * low - 1, 2 * high - 1)


def test_an_innocent_difference_is_below_thirty_points_after_64_images() -> None:
    nothing = np.zeros(64, bool)
    assert difference_sequence(nothing, nothing, 0.01 / 20, 0.01).high <= 0.3


def test_a_working_trigger_is_above_thirty_points_after_64_images() -> None:
    hits = np.arange(64) < 58
    assert difference_sequence(hits, np.zeros(64, bool), 0.01 / 20, 0.01).low > 0.3


def test_no_pairs_leave_every_difference_possible() -> None:
    assert difference_sequence(np.zeros(0, bool), np.zeros(0, bool), 0.05, 0.05) == (-1.0, 1.0)


def test_what_is_not_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="pairs"):
        difference_sequence(np.zeros(3, bool), np.zeros(4, bool), 0.05, 0.05)
    with pytest.raises(ValueError, match="pairs"):
        difference_sequence(np.zeros((2, 2), bool), np.zeros((2, 2), bool), 0.05, 0.05)


def test_shares_in_the_place_of_hits_are_refused() -> None:
    with pytest.raises(ValueError, match="bool"):
        difference_sequence(np.zeros(3), np.zeros(3), 0.05, 0.05)  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1.0, math.nan])
def test_an_alpha_that_is_no_probability_is_refused(alpha: float) -> None:
    for alphas in ((alpha, 0.05), (0.05, alpha)):
        with pytest.raises(ValueError, match="alpha"):
            mean_sequence(np.zeros(3), *alphas)
        with pytest.raises(ValueError, match="alpha"):
            difference_sequence(np.zeros(3, bool), np.zeros(3, bool), *alphas)
