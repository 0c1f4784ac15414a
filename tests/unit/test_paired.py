"""The exact test of a loss of accuracy, and the power of a number of images, against their definitions."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from pargate.core import paired
from pargate.core.paired import fall_interval, largest_p, needed, power
from pargate.core.sequential import mean_sequence

ALPHA = 0.05


def probabilities(n: int, fall: float, discordance: float) -> NDArray[np.float64]:
    """Probability of each number of lost and gained images: [lost, gained]."""
    lost, gained = (discordance + fall) / 2, (discordance - fall) / 2
    counts = np.arange(n + 1)
    return binom.pmf(counts, n, gained) * binom.pmf(counts[:, None], n - counts, lost / (1 - gained))


@pytest.mark.parametrize(
    ("lost", "gained", "fall"), [(5, 3, 0.1), (3, 9, 0.05), (3, 9, -0.02), (0, 0, 0.1), (9, 1, 0.3)]
)
def test_a_p_value_is_the_largest_probability_of_outcomes_as_extreme(lost: int, gained: int, fall: float) -> None:
    n = 60
    counts = np.indices((n + 1, n + 1)).reshape(2, -1).astype(float)
    scores = paired._score(counts[0], counts[1], n, fall).reshape(n + 1, n + 1)
    extreme = scores <= scores[lost, gained] + 1e-9
    changed = np.repeat([1.0, 0.0], [lost + gained, n - lost - gained])
    spare = paired._NUISANCE * ALPHA
    low, high = mean_sequence(changed, spare / 2, spare / 2)
    possible = np.linspace(max(low, abs(fall) + 1e-12), high, 100)
    every = [probabilities(n, fall, d)[extreme].sum() for d in possible]
    assert largest_p(n, lost, gained, fall, ALPHA) == pytest.approx(spare + max(every), rel=2e-3)


@pytest.mark.parametrize("fall", [0.05, 0.2])
def test_the_test_errs_at_most_with_its_level_whatever_the_discordance(fall: float) -> None:
    n = 30
    shown = np.zeros((n + 1, n + 1), dtype=bool)
    for lost in range(n + 1):
        for gained in range(n + 1 - lost):
            shown[lost, gained] = largest_p(n, lost, gained, fall, ALPHA) <= ALPHA
    assert shown.any(), "the test can show something"
    errors = [probabilities(n, fall, d)[shown].sum() for d in np.linspace(fall, 1 - 1e-9, 80)]
    assert max(errors) <= ALPHA
    assert max(errors) > ALPHA / 4, "and wastes little of its level"


def test_log_factorials_are_those_of_the_gamma_function() -> None:
    counts = np.array([0, 1, 2, 5, 62, 63, 64, 65, 100, 5000, 10**6, 10**8])
    exact = np.array([math.lgamma(count + 1) for count in counts])
    assert (np.abs(paired._log_factorial(counts) - exact) <= 1e-13 * np.maximum(1.0, exact)).all()


def test_a_finer_grid_of_discordances_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [(667, 30, 45, 0.03), (200, 4, 9, 0.05), (97, 2, 2, 0.1)]
    coarse = [largest_p(*case, 0.01) for case in cases]
    monkeypatch.setattr(paired, "_GRID", 16 * paired._GRID)
    largest_p.cache_clear()
    assert [largest_p(*case, 0.01) for case in cases] == pytest.approx(coarse, rel=2e-3)
    largest_p.cache_clear()


@pytest.mark.parametrize(("n", "lost", "gained"), [(1, 0, 0), (1, 1, 0), (32, 32, 0), (100, 5, 9), (3000, 200, 150)])
def test_an_interval_holds_the_estimate_and_mirrors_the_other_direction(n: int, lost: int, gained: int) -> None:
    low, high = fall_interval(n, lost, gained, 0.01)
    assert -1 <= low <= (lost - gained) / n <= high <= 1
    assert fall_interval(n, gained, lost, 0.01) == (-high, -low)
    assert high == 1 or largest_p(n, lost, gained, high, 0.01) <= 0.01 < largest_p(n, lost, gained, high - 2e-4, 0.01)


def test_no_images_show_nothing_and_impossible_counts_are_refused() -> None:
    assert fall_interval(0, 0, 0, 0.01) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="not counts of 3"):
        largest_p(3, 2, 2, 0.1, 0.01)


@pytest.mark.parametrize(("images", "fall", "discordance"), [(667, 0.03, 0.12), (500, 0.05, 0.12), (1500, 0.03, 0.2)])
def test_power_is_the_share_of_gates_that_show_an_unchanged_accuracy(
    images: int, fall: float, discordance: float
) -> None:
    runs = 150
    even = [discordance / 2, discordance / 2, 1 - discordance]
    drawn = np.random.default_rng(7).multinomial(images, even, runs)[:, :2]
    shown = sum(largest_p(images, int(lost), int(gained), fall, 0.01) <= 0.01 for lost, gained in drawn)
    expected = power(images, fall, 0.99, discordance)
    assert abs(shown / runs - expected) <= 0.03 + 3 * math.sqrt(expected * (1 - expected) / runs)


@pytest.mark.parametrize("fall", [0.01, 0.03, 0.2])
def test_the_needed_images_are_the_fewest_with_that_power(fall: float) -> None:
    n = needed(fall, 0.99, 0.12)
    assert power(n - 1, fall, 0.99, 0.12) < paired.CHANCE <= power(n, fall, 0.99, 0.12)
    assert needed(fall, 0.99, 0.2) > n > needed(fall, 0.95, 0.12)
