"""Intervals for counts taken once, after a number of images fixed in advance.

Shares are shown with :func:`wilson` and judged with :func:`clopper_pearson`, whose coverage is guaranteed;
:func:`newcombe_paired` compares two shares measured on the same images. All are two-sided: the two ends
together miss with probability ``alpha``, each with about half of it.

None of them survives being looked at repeatedly: who looks after every batch and stops when satisfied needs
:mod:`pargate.core.sequential`. Nothing here is rounded or turned into per cent.
"""

import math
from typing import NamedTuple


class Bounds(NamedTuple):
    """The two ends of an interval, both belonging to it."""

    low: float
    """Smallest value that the data leave possible."""
    high: float
    """Largest value that the data leave possible."""


def wilson(successes: int, n: int, alpha: float) -> Bounds:
    """Return the score interval of a share, level ``1 - alpha``, for display.

    Its coverage is right on average over shares and can fall below the level for a particular one.
    No images give (0, 1). Raises ValueError on impossible counts and on an ``alpha`` outside (0, 1).

    Source: Wilson (1927), J. Am. Stat. Assoc. 22, 209-212.
    """
    _check_counts(successes, n)
    z = _normal_deviate(alpha)
    if n == 0:
        return Bounds(0.0, 1.0)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # Algebra puts the ends exactly at 0 and 1 when no image or every image is a success; rounding would not.
    return Bounds(
        0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half)
    )


def clopper_pearson(successes: int, n: int, alpha: float) -> Bounds:
    """Return the exact interval of a share: for every true share each end misses with at most ``alpha / 2``.

    No images give (0, 1). Raises ValueError on impossible counts and on an ``alpha`` outside (0, 1).

    Source: Clopper and Pearson (1934), Biometrika 26, 404-413, by quantiles of the beta distribution.
    """
    _check_counts(successes, n)
    _check_alpha(alpha)
    return Bounds(_exact_low(successes, n, alpha), 1.0 - _exact_low(n - successes, n, alpha))


def newcombe_paired(both: int, first_only: int, second_only: int, neither: int, alpha: float) -> Bounds:
    """Return the interval, level ``1 - alpha``, of the first share minus the second, paired by image.

    The arguments count images: a hit in both measurements, in the first only, in the second only, in neither.
    The difference lies in [-1, 1]. No images give (-1, 1). Raises ValueError on a negative count and on an
    ``alpha`` outside (0, 1).

    Source: Newcombe (1998), Stat. Med. 17, 2635-2650, method 10: the Wilson ends of the two shares are joined
    with the correlation phi of the table, whose numerator, if positive, is first reduced by n/2, not below 0.
    """
    if min(both, first_only, second_only, neither) < 0:
        raise ValueError(f"counts cannot be negative: {both}, {first_only}, {second_only}, {neither}")
    _check_alpha(alpha)
    n = both + first_only + second_only + neither
    if n == 0:
        return Bounds(-1.0, 1.0)
    hits, other_hits = both + first_only, both + second_only
    first, second = wilson(hits, n, alpha), wilson(other_hits, n, alpha)
    share, other = hits / n, other_hits / n

    association = float(both * neither - first_only * second_only)
    if association > 0:
        association = max(association - n / 2, 0.0)
    margins = hits * (n - hits) * other_hits * (n - other_hits)
    phi = association / math.sqrt(margins) if margins else 0.0

    difference = (first_only - second_only) / n
    below = _joined(share - first.low, second.high - other, phi)
    above = _joined(first.high - share, other - second.low, phi)
    return Bounds(max(-1.0, difference - below), min(1.0, difference + above))


def _exact_low(successes: int, n: int, alpha: float) -> float:
    from scipy.special import betaincinv  # here: it takes longer to load than a saved report to judge

    return float(betaincinv(successes, n - successes + 1, alpha / 2)) if successes else 0.0


def _joined(first: float, second: float, phi: float) -> float:
    """Length of the sum of two correlated errors; the radicand is negative only by rounding."""
    return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))


def _normal_deviate(alpha: float) -> float:
    _check_alpha(alpha)
    from scipy.special import ndtri

    return -float(ndtri(alpha / 2))


def _check_counts(successes: int, n: int) -> None:
    if not 0 <= successes <= n:
        raise ValueError(f"impossible counts: {successes} successes among {n} images")


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is the chance of a miss, strictly between 0 and 1, not {alpha}")
