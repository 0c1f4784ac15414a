"""Simulated coverage of the anytime-valid ends, looked at as a scan does: every 16 images from 64 on.

A run misses an end when its running intersection ever excludes the truth on that side. Alphas are large so
that misses occur at all. Each count of misses is compared with the binomial quantile that an end missing with
exactly its alpha would exceed once in ten thousand tests, so a failure means a defect, and the seed makes it
repeatable. The exact counterpart for short runs is in ``test_sequential.py``, the long simulation in
``benchmarks/coverage.py``.
"""

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, binomtest

from pargate.core.sequential import Bounds, difference_sequence, mean_sequence

FIRST_LOOK, LOOK_EVERY, IMAGES = 64, 16, 512
LOOKS = range(FIRST_LOOK, IMAGES + 1, LOOK_EVERY)
RUNS = 400
ALPHA_LOW, ALPHA_HIGH = 0.1, 0.2


def most_misses(alpha: float, runs: int = RUNS) -> int:
    return int(binom.ppf(0.9999, runs, alpha))


@cache
def share_interval(hits: int, n: int) -> Bounds:
    return mean_sequence(np.repeat([1.0, 0.0], [hits, n - hits]), ALPHA_LOW, ALPHA_HIGH)


@cache
def wilson(hits: int, n: int) -> Bounds:
    found = binomtest(hits, n).proportion_ci(1 - 2 * ALPHA_LOW, "wilson")
    return Bounds(found.low, found.high)


@cache
def difference_interval(more: int, fewer: int, n: int) -> Bounds:
    images = np.arange(n)
    return difference_sequence(images < more, images >= n - fewer, ALPHA_LOW, ALPHA_HIGH)


def count_misses(intervals: list[list[Bounds]], truths: list[float]) -> tuple[int, int]:
    """Runs whose intersection over looks misses its truth from above and from below."""
    low = sum(max(b.low for b in looks) > truth for looks, truth in zip(intervals, truths, strict=True))
    high = sum(min(b.high for b in looks) < truth for looks, truth in zip(intervals, truths, strict=True))
    return low, high


def looks_at_difference(hits: NDArray[np.bool_], control: NDArray[np.bool_]) -> list[Bounds]:
    more, fewer = np.cumsum(hits & ~control), np.cumsum(control & ~hits)
    return [difference_interval(int(more[n - 1]), int(fewer[n - 1]), n) for n in LOOKS if n <= hits.size]


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.95])
def test_each_end_of_a_share_misses_less_often_than_its_alpha(share: float) -> None:
    hits = np.random.default_rng([1, round(100 * share)]).binomial(1, share, (RUNS, IMAGES)).cumsum(axis=1)
    intervals = [[share_interval(int(run[n - 1]), n) for n in LOOKS] for run in hits]
    low, high = count_misses(intervals, [share] * RUNS)
    assert low <= most_misses(ALPHA_LOW)
    assert high <= most_misses(ALPHA_HIGH)


def test_a_fixed_interval_looked_at_repeatedly_does_miss_too_often() -> None:
    hits = np.random.default_rng(2).binomial(1, 0.2, (RUNS, IMAGES)).cumsum(axis=1)
    intervals = [[wilson(int(run[n - 1]), n) for n in LOOKS] for run in hits]
    low, high = count_misses(intervals, [0.2] * RUNS)
    assert min(low, high) > most_misses(ALPHA_LOW)


@pytest.mark.parametrize(
    ("share", "control_share", "agreement"),
    [
        (0.02, 0.02, 0.0),
        (0.3, 0.3, 0.8),
        pytest.param(0.12, 0.02, 0.0, marks=pytest.mark.nightly),
        pytest.param(0.5, 0.11, 0.5, marks=pytest.mark.nightly),
        (0.97, 0.0, 0.0),
        pytest.param(0.05, 0.25, 0.0, marks=pytest.mark.nightly),
    ],
)
def test_each_end_of_a_difference_misses_less_often_than_its_alpha(
    share: float, control_share: float, agreement: float
) -> None:
    rng = np.random.default_rng([3, round(100 * share), round(100 * control_share)])
    luck = rng.random((RUNS, IMAGES))
    control_luck = np.where(rng.random((RUNS, IMAGES)) < agreement, luck, rng.random((RUNS, IMAGES)))
    intervals = [
        looks_at_difference(hits, control)
        for hits, control in zip(luck < share, control_luck < control_share, strict=True)
    ]
    low, high = count_misses(intervals, [share - control_share] * RUNS)
    assert low <= most_misses(ALPHA_LOW)
    assert high <= most_misses(ALPHA_HIGH)


def test_a_class_chosen_on_other_images_is_covered_like_any_other() -> None:
    """Fifty classes, a harmless stamp that scatters predictions; each run chooses its class on half A."""
    classes, half = 50, 384
    rng = np.random.default_rng(4)
    natural = rng.dirichlet(np.full(classes, 5.0))
    stamped = 0.4 * natural + 0.6 * rng.dirichlet(np.full(classes, 2.0))
    control = 0.4 * natural + 0.6 * rng.dirichlet(np.full(classes, 2.0))

    intervals: list[list[Bounds]] = []
    truths: list[float] = []
    chosen: set[int] = set()
    for _ in range(RUNS):
        before, after = rng.choice(classes, half, p=natural), rng.choice(classes, half, p=stamped)
        excess = np.bincount(after, minlength=classes) - np.bincount(before, minlength=classes)
        target = int(excess.argmax())
        chosen.add(target)
        on_b = rng.choice(classes, half, p=natural) != target  # eligible carriers of half B
        hits = (rng.choice(classes, half, p=stamped) == target)[on_b]
        control_hits = (rng.choice(classes, half, p=control) == target)[on_b]
        intervals.append(looks_at_difference(hits, control_hits))
        truths.append(float(stamped[target] - control[target]))

    assert len(chosen) > 3
    low, high = count_misses(intervals, truths)
    assert low <= most_misses(ALPHA_LOW)
    assert high <= most_misses(ALPHA_HIGH)
