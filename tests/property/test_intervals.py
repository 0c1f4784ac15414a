"""Laws that every interval obeys, whatever the counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy.stats import binomtest

from pargate.core.sequential import Bounds, difference_sequence, mean_sequence

ROUNDING = 1e-8  # ends are searched for within 1e-9 of their logarithm; everything below must hold up to that


def one_alpha(successes: int, n: int, alpha: float) -> Bounds:
    """The share's sequence with one alpha for both ends."""
    return mean_sequence(np.repeat([1.0, 0.0], [successes, n - successes]), alpha, alpha)


alphas = st.floats(1e-6, 0.9)
counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
observations = arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1))
pairs = st.integers(0, 60).flatmap(lambda n: st.tuples(*[arrays.arrays(np.bool_, n, elements=st.booleans())] * 2))


@given(counted=counts, alpha=alphas)
def test_a_share_lies_in_its_interval(counted: tuple[int, int], alpha: float) -> None:
    successes, n = counted
    low, high = one_alpha(successes, n, alpha)
    assert 0 <= low <= successes / n <= high <= 1


@given(counted=counts, one=alphas, other=alphas)
def test_a_smaller_alpha_contains_the_interval_of_a_larger(counted: tuple[int, int], one: float, other: float) -> None:
    wide, narrow = one_alpha(*counted, min(one, other)), one_alpha(*counted, max(one, other))
    assert wide.low <= narrow.low + ROUNDING
    assert wide.high >= narrow.high - ROUNDING


@given(counted=counts, alpha=alphas)
def test_exchanging_hits_and_misses_mirrors_the_interval(counted: tuple[int, int], alpha: float) -> None:
    successes, n = counted
    low, high = one_alpha(successes, n, alpha)
    assert one_alpha(n - successes, n, alpha) == pytest.approx((1 - high, 1 - low), abs=ROUNDING)


@given(n=st.integers(1, 5000), alpha=alphas)
def test_ends_are_exact_without_hits_and_without_misses(n: int, alpha: float) -> None:
    assert one_alpha(0, n, alpha).low == 0.0
    assert one_alpha(n, n, alpha).high == 1.0


@given(counted=counts, alpha=alphas)
def test_one_more_hit_moves_both_ends_up(counted: tuple[int, int], alpha: float) -> None:
    successes, n = counted
    if successes < n:
        here, there = one_alpha(successes, n, alpha), one_alpha(successes + 1, n, alpha)
        assert here.low <= there.low + ROUNDING
        assert here.high <= there.high + ROUNDING


@given(counted=counts, alpha=st.floats(1e-6, 0.45))
def test_looking_at_any_time_costs_width(counted: tuple[int, int], alpha: float) -> None:
    # Each end at alpha; the exact interval, valid for one look, splits its own alpha between its ends.
    anytime, once = one_alpha(*counted, alpha), binomtest(*counted).proportion_ci(1 - 2 * alpha, "exact")
    assert anytime.low <= once.low + ROUNDING
    assert anytime.high >= once.high - ROUNDING


@given(x=observations, alpha_low=alphas, alpha_high=alphas)
def test_a_mean_lies_in_its_interval(x: NDArray[np.float64], alpha_low: float, alpha_high: float) -> None:
    low, high = mean_sequence(x, alpha_low, alpha_high)
    assert 0 <= low <= x.mean() + ROUNDING
    assert x.mean() - ROUNDING <= high <= 1


@given(x=observations, one=alphas, other=alphas)
def test_a_smaller_alpha_widens_the_interval_of_a_mean(x: NDArray[np.float64], one: float, other: float) -> None:
    wide, narrow = (
        mean_sequence(x, min(one, other), min(one, other)),
        mean_sequence(x, max(one, other), max(one, other)),
    )
    assert wide.low <= narrow.low + ROUNDING
    assert wide.high >= narrow.high - ROUNDING


@given(x=observations, alpha_low=alphas, alpha_high=alphas)
def test_mirrored_observations_mirror_the_interval_of_a_mean(
    x: NDArray[np.float64], alpha_low: float, alpha_high: float
) -> None:
    low, high = mean_sequence(x, alpha_low, alpha_high)
    assert mean_sequence(1 - x, alpha_high, alpha_low) == pytest.approx((1 - high, 1 - low), abs=ROUNDING)


@given(x=observations, data=st.data(), alpha=alphas)
def test_the_order_of_observations_does_not_matter(x: NDArray[np.float64], data: st.DataObject, alpha: float) -> None:
    shuffled = np.array(data.draw(st.permutations(x.tolist())))
    assert mean_sequence(shuffled, alpha, alpha) == pytest.approx(mean_sequence(x, alpha, alpha), abs=ROUNDING)


@given(x=observations, data=st.data(), alpha=alphas)
def test_a_larger_observation_moves_both_ends_up(x: NDArray[np.float64], data: st.DataObject, alpha: float) -> None:
    raised = x.copy()
    raised[0] = data.draw(st.floats(float(x[0]), 1))
    here, there = mean_sequence(x, alpha, alpha), mean_sequence(raised, alpha, alpha)
    assert here.low <= there.low + ROUNDING
    assert here.high <= there.high + ROUNDING


@given(pair=pairs, alpha_low=alphas, alpha_high=alphas)
def test_a_difference_lies_in_its_interval(
    pair: tuple[NDArray[np.bool_], NDArray[np.bool_]], alpha_low: float, alpha_high: float
) -> None:
    hits, control = pair
    low, high = difference_sequence(hits, control, alpha_low, alpha_high)
    assert -1 <= low <= high <= 1
    if hits.size:
        assert low - ROUNDING <= hits.mean() - control.mean() <= high + ROUNDING


@given(pair=pairs, alpha_low=alphas, alpha_high=alphas)
def test_exchanging_hits_and_control_mirrors_the_difference(
    pair: tuple[NDArray[np.bool_], NDArray[np.bool_]], alpha_low: float, alpha_high: float
) -> None:
    hits, control = pair
    low, high = difference_sequence(hits, control, alpha_low, alpha_high)
    assert difference_sequence(control, hits, alpha_high, alpha_low) == pytest.approx((-high, -low), abs=ROUNDING)


@given(pair=pairs, data=st.data(), alpha=alphas)
def test_the_order_of_the_images_does_not_change_a_bit_of_the_difference(
    pair: tuple[NDArray[np.bool_], NDArray[np.bool_]], data: st.DataObject, alpha: float
) -> None:
    hits, control = pair
    order = np.array(data.draw(st.permutations(range(hits.size))), dtype=int)
    shuffled = difference_sequence(hits[order], control[order], alpha, alpha)
    assert shuffled == difference_sequence(hits, control, alpha, alpha)
