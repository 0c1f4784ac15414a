"""Anytime-valid intervals against published tables, hand computation and exact enumeration."""

import math
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from pargate.core.sequential import (
    _log_mixture,
    _wealth,
    difference_sequence,
    mean_sequence,
    proportion_sequence,
)

Floats = NDArray[np.float64]
HALVES = np.array([0.0, 0.5, 1.0])


def halves(zeros: int, middles: int, ones: int) -> Floats:
    """Observations with the given numbers of 0, 1/2 and 1."""
    return np.repeat(HALVES, [zeros, middles, ones])


# --- shares ---


@pytest.mark.parametrize(
    ("n", "hits", "low", "high"),
    [(1000, 0, 0.0, 0.70), (1000, 50, 2.87, 7.92), (5000, 250, 3.90, 6.28), (50000, 2500, 4.61, 5.42)],
)
def test_share_matches_the_reference_table(n: int, hits: int, low: float, high: float) -> None:
    interval = proportion_sequence(hits, n, 0.05, 0.05)
    assert [round(100 * end, 2) for end in interval] == [low, high]


def test_share_of_one_hit_is_known_in_closed_form() -> None:
    # B(a+1, b) / B(a, b) = a / (a+b) = 1/2, so the wealth against p is 1/(2p).
    for prior in ((0.5, 0.5), (1.0, 1.0), (3.0, 3.0)):
        assert proportion_sequence(1, 1, 0.02, 0.3, prior) == pytest.approx((0.01, 1.0), rel=1e-9)


def test_share_of_two_hits_under_the_uniform_prior_is_known_in_closed_form() -> None:
    # The mean of p**2 is 1/3.
    assert proportion_sequence(2, 2, 0.03, 0.03, (1.0, 1.0)).low == pytest.approx(0.1, rel=1e-9)


def test_ends_of_a_share_use_each_its_own_alpha() -> None:
    loose, strict = proportion_sequence(30, 100, 0.1, 0.1), proportion_sequence(30, 100, 0.001, 0.001)
    assert proportion_sequence(30, 100, 0.001, 0.1) == (strict.low, loose.high)


def test_end_of_a_share_is_where_the_mixture_reaches_one_over_alpha() -> None:
    low, high = proportion_sequence(37, 421, 0.003, 0.02)
    assert _log_mixture(math.log(low), 37, 384, (0.5, 0.5)) == pytest.approx(-math.log(0.003), abs=1e-7)
    assert _log_mixture(math.log(high), 37, 384, (0.5, 0.5)) == pytest.approx(-math.log(0.02), abs=1e-7)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_mixture_has_mean_one_after_any_number_of_images(share: float) -> None:
    for n in (1, 2, 7, 40):
        mean = sum(
            math.comb(n, s)
            * share**s
            * (1 - share) ** (n - s)
            * math.exp(_log_mixture(math.log(share), s, n - s, (0.5, 0.5)))
            for s in range(n + 1)
        )
        assert mean == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_mixture_is_fair_whatever_came_before(share: float) -> None:
    for s, f in ((0, 0), (0, 9), (4, 1), (30, 70)):
        now, hit, miss = (
            math.exp(_log_mixture(math.log(share), *counts, (0.5, 0.5))) for counts in ((s, f), (s + 1, f), (s, f + 1))
        )
        assert share * hit + (1 - share) * miss == pytest.approx(now, rel=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_chance_that_a_share_is_ever_missed_is_exactly_below_alpha(share: float) -> None:
    alpha_low, alpha_high, horizon = 0.1, 0.2, 150
    missed_low = missed_high = 0.0
    alive = {0: 1.0}  # probability of each number of hits among runs whose interval has always held the truth
    for n in range(1, horizon + 1):
        reached: dict[int, float] = {}
        for s, weight in alive.items():
            reached[s + 1] = reached.get(s + 1, 0.0) + weight * share
            reached[s] = reached.get(s, 0.0) + weight * (1 - share)
        alive = {}
        for s, weight in reached.items():
            low, high = proportion_sequence(s, n, alpha_low, alpha_high)
            if low > share:
                missed_low += weight
            elif high < share:
                missed_high += weight
            else:
                alive[s] = weight
    assert 0 < missed_low <= alpha_low
    assert 0 < missed_high <= alpha_high


@pytest.mark.parametrize(("successes", "n"), [(-1, 4), (5, 4), (0, -1)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="impossible counts"):
        proportion_sequence(successes, n, 0.05, 0.05)


@pytest.mark.parametrize("prior", [(0.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_a_prior_that_is_none_is_refused(prior: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="prior"):
        proportion_sequence(1, 2, 0.05, 0.05, prior)


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
            proportion_sequence(1, 2, *alphas)
        with pytest.raises(ValueError, match="alpha"):
            mean_sequence(np.zeros(3), *alphas)
        with pytest.raises(ValueError, match="alpha"):
            difference_sequence(np.zeros(3, bool), np.zeros(3, bool), *alphas)
