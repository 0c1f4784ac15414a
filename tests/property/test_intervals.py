"""Laws that every interval obeys, whatever the counts."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from pargate.core.sequential import difference_sequence, mean_sequence
from pargate.core.stats import Bounds, clopper_pearson, newcombe_paired, wilson

ROUNDING = 1e-8  # ends are searched for within 1e-9 of their logarithm; everything below must hold up to that


def one_alpha(successes: int, n: int, alpha: float) -> Bounds:
    """The share's sequence with one alpha for both ends, to stand beside the fixed-n intervals."""
    return mean_sequence(np.repeat([1.0, 0.0], [successes, n - successes]), alpha, alpha)


SHARES = pytest.mark.parametrize("interval", [wilson, clopper_pearson, one_alpha])
ShareInterval = Callable[[int, int, float], Bounds]

alphas = st.floats(1e-6, 0.9)
counts = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
tables = st.tuples(*[st.integers(0, 500)] * 4).filter(lambda cells: sum(cells) > 0)
observations = arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(0, 1))
pairs = st.integers(0, 60).flatmap(lambda n: st.tuples(*[arrays.arrays(np.bool_, n, elements=st.booleans())] * 2))


@SHARES
@given(counted=counts, alpha=alphas)
def test_a_share_lies_in_its_interval(interval: ShareInterval, counted: tuple[int, int], alpha: float) -> None:
    successes, n = counted
    low, high = interval(successes, n, alpha)
    assert 0 <= low <= successes / n <= high <= 1


@SHARES
@given(counted=counts, one=alphas, other=alphas)
def test_a_smaller_alpha_contains_the_interval_of_a_larger(
    interval: ShareInterval, counted: tuple[int, int], one: float, other: float
) -> None:
    wide, narrow = interval(*counted, min(one, other)), interval(*counted, max(one, other))
    assert wide.low <= narrow.low + ROUNDING
    assert wide.high >= narrow.high - ROUNDING


@SHARES
@given(counted=counts, alpha=alphas)
def test_exchanging_hits_and_misses_mirrors_the_interval(
    interval: ShareInterval, counted: tuple[int, int], alpha: float
) -> None:
    successes, n = counted
    low, high = interval(successes, n, alpha)
    assert interval(n - successes, n, alpha) == pytest.approx((1 - high, 1 - low), abs=ROUNDING)


@SHARES
@given(n=st.integers(1, 5000), alpha=alphas)
def test_ends_are_exact_without_hits_and_without_misses(interval: ShareInterval, n: int, alpha: float) -> None:
    assert interval(0, n, alpha).low == 0.0
    assert interval(n, n, alpha).high == 1.0


@SHARES
@given(counted=counts, alpha=alphas)
def test_one_more_hit_moves_both_ends_up(interval: ShareInterval, counted: tuple[int, int], alpha: float) -> None:
    successes, n = counted
    if successes < n:
        here, there = interval(successes, n, alpha), interval(successes + 1, n, alpha)
        assert here.low <= there.low + ROUNDING
        assert here.high <= there.high + ROUNDING


@given(counted=counts, alpha=st.floats(1e-6, 0.45))
def test_looking_at_any_time_costs_width(counted: tuple[int, int], alpha: float) -> None:
    # Each end at alpha; the exact interval, valid for one look, splits its own alpha between its ends.
    anytime, once = one_alpha(*counted, alpha), clopper_pearson(*counted, 2 * alpha)
    assert anytime.low <= once.low + ROUNDING
    assert anytime.high >= once.high - ROUNDING


@given(cells=tables, alpha=alphas)
def test_a_paired_difference_lies_in_its_interval(cells: tuple[int, int, int, int], alpha: float) -> None:
    _, first_only, second_only, _ = cells
    low, high = newcombe_paired(*cells, alpha)
    assert -1 <= low <= (first_only - second_only) / sum(cells) <= high <= 1


@given(cells=tables, alpha=alphas)
def test_exchanging_the_two_measurements_mirrors_the_paired_interval(
    cells: tuple[int, int, int, int], alpha: float
) -> None:
    both, first_only, second_only, neither = cells
    low, high = newcombe_paired(both, first_only, second_only, neither, alpha)
    assert newcombe_paired(both, second_only, first_only, neither, alpha) == pytest.approx((-high, -low), abs=ROUNDING)
    assert newcombe_paired(neither, first_only, second_only, both, alpha) == pytest.approx((low, high), abs=ROUNDING)


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
