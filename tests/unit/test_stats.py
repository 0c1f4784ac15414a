"""Fixed-n intervals against published tables, hand computation and scipy."""

import math

import pytest
from scipy.stats import binomtest

from pargate.core.stats import clopper_pearson, newcombe_paired, wilson

Z_95 = 1.959963984540054

TABLE = [  # images, hits, Wilson and Clopper-Pearson ends in per cent at 95 %
    (1000, 0, (0.0, 0.38), (0.0, 0.37)),
    (1000, 50, (3.81, 6.53), (3.73, 6.54)),
    (5000, 250, (4.43, 5.64), (4.41, 5.64)),
    (50000, 2500, (4.81, 5.19), (4.81, 5.19)),
]


@pytest.mark.parametrize(("n", "hits", "shown", "judged"), TABLE)
def test_intervals_match_the_reference_table(
    n: int, hits: int, shown: tuple[float, float], judged: tuple[float, float]
) -> None:
    assert [round(100 * end, 2) for end in wilson(hits, n, 0.05)] == list(shown)
    assert [round(100 * end, 2) for end in clopper_pearson(hits, n, 0.05)] == list(judged)


@pytest.mark.parametrize("alpha", [0.3, 0.05, 0.001])
@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (3, 10), (9, 10), (64, 64), (17, 2000)])
def test_shares_agree_with_scipy(successes: int, n: int, alpha: float) -> None:
    result = binomtest(successes, n)
    score, exact = result.proportion_ci(1 - alpha, "wilson"), result.proportion_ci(1 - alpha, "exact")
    assert wilson(successes, n, alpha) == pytest.approx((score.low, score.high), abs=1e-12)
    assert clopper_pearson(successes, n, alpha) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_wilson_without_a_hit_reaches_z_squared_over_n_plus_z_squared() -> None:
    assert wilson(0, 10, 0.05).high == pytest.approx(Z_95**2 / (10 + Z_95**2), rel=1e-12)


def test_clopper_pearson_without_a_hit_reaches_one_minus_a_root_of_half_alpha() -> None:
    assert clopper_pearson(0, 20, 0.05).high == pytest.approx(1 - 0.025 ** (1 / 20), rel=1e-12)


@pytest.mark.parametrize(("limit", "one_sided", "two_sided"), [(0.05, 59, 72), (0.02, 149, 183), (0.01, 299, 368)])
def test_images_needed_without_a_hit_to_get_below_a_limit(limit: float, one_sided: int, two_sided: int) -> None:
    for alpha, n in ((0.1, one_sided), (0.05, two_sided)):
        assert clopper_pearson(0, n, alpha).high <= limit < clopper_pearson(0, n - 1, alpha).high


def test_no_images_leave_every_share_possible() -> None:
    assert wilson(0, 0, 0.05) == clopper_pearson(0, 0, 0.05) == (0.0, 1.0)


def test_newcombe_matches_the_textbook_table() -> None:
    assert newcombe_paired(36, 12, 2, 0, 0.05) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def half_width_of_a_half(n: int) -> float:
    """Wilson half-width at the share 1/2, from its definition."""
    return Z_95 * math.sqrt(1 / (4 * n) + Z_95**2 / (4 * n * n)) / (1 + Z_95**2 / n)


def test_newcombe_reduces_a_positive_association_by_half_the_images() -> None:
    # Both shares are 1/2 of 30, numerator 10*10 - 5*5 = 75 less 15, phi = 60 / 15**2.
    expected = half_width_of_a_half(30) * math.sqrt(2 * (1 - 60 / 225))
    assert newcombe_paired(10, 5, 5, 10, 0.05) == pytest.approx((-expected, expected), rel=1e-12)


def test_newcombe_takes_a_weak_positive_association_for_none() -> None:
    # Numerator 8*8 - 7*7 = 15, exactly half the images.
    expected = half_width_of_a_half(30) * math.sqrt(2)
    assert newcombe_paired(8, 7, 7, 8, 0.05) == pytest.approx((-expected, expected), rel=1e-12)


def test_newcombe_keeps_a_negative_association_whole() -> None:
    # Numerator 5*5 - 10*10 = -75, phi = -75 / 15**2.
    expected = half_width_of_a_half(30) * math.sqrt(2 * (1 + 75 / 225))
    assert newcombe_paired(5, 10, 10, 5, 0.05) == pytest.approx((-expected, expected), rel=1e-12)


def test_newcombe_with_an_empty_margin_joins_the_two_shares_without_correlation() -> None:
    end = wilson(0, 40, 0.05).high
    assert newcombe_paired(0, 0, 0, 40, 0.05) == pytest.approx((-end, end), rel=1e-12)
    assert newcombe_paired(40, 0, 0, 0, 0.05) == pytest.approx((-end, end), rel=1e-12)
    assert newcombe_paired(0, 40, 0, 0, 0.05) == pytest.approx((1 - math.hypot(end, end), 1.0), rel=1e-12)


def test_newcombe_without_images_says_nothing() -> None:
    assert newcombe_paired(0, 0, 0, 0, 0.05) == (-1.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (1, 0), (0, -1)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="impossible counts"):
            interval(successes, n, 0.05)


def test_a_negative_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        newcombe_paired(3, -1, 2, 4, 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_an_alpha_that_is_no_probability_is_refused(alpha: float) -> None:
    for interval in (wilson, clopper_pearson):
        with pytest.raises(ValueError, match="alpha"):
            interval(1, 2, alpha)
    with pytest.raises(ValueError, match="alpha"):
        newcombe_paired(0, 0, 0, 0, alpha)
