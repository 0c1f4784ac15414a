"""Confidence sequences: intervals that stay valid after every look, so that sampling may stop early.

Every interval here is one value of a *confidence sequence*, with one error level for each end. Over all n at once, and
with any stopping rule, the low end is ever above the truth with probability at most ``alpha_low``, and the high end
ever below it with probability at most ``alpha_high``. A caller that looks repeatedly may therefore keep the largest
low end and the smallest high end so far.

Method: each candidate mean m has a wealth that starts at 1 and whose expectation would stay 1 if m were the truth. By
Ville's inequality, such a wealth ever reaches 1/alpha with probability at most alpha. The interval contains every m
whose wealth is below 1/alpha; its ends are rounded outward.

Assumptions: images come in random order, with one independent observation each. Several draws of one image must be
averaged first. A target class may be chosen on other images, never on these.

An end can decide a verdict, so equal counts must give equal ends, to the last bit, on every processor. Only additions,
multiplications, divisions and square roots are used, which IEEE 754 rounds exactly, with `math.fsum` for sums. Matrix
products of BLAS and the logarithms of numpy and of the C library differ between processors.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Bounds(NamedTuple):
    """The two ends of a closed interval."""

    low: float
    """Smallest value that the data leave possible."""
    high: float
    """Largest value that the data leave possible."""


# The wealth of a candidate mean m comes from bets that the truth is larger: an observation x multiplies it by
# 1 + f (x/m - 1), where the fraction f in [0, 1] is the stake. The factor has mean 1 under m, and for x in
# {0, 1/2, 1} *every* admissible fair bet has this form, so only f can be chosen. The high end is the low end of 1 - x.
#
# The starting wealth is spread over many constant f, each of which grows by itself (a universal portfolio).
# Waudby-Smith and Ramdas adapt one f to the past instead. With the portfolio, the interval
#  - depends on the observations as a set, so that the order of the images cannot change a finding;
#  - contains the observed mean: there no constant f has gained, by the inequality of means;
#  - decides earlier in close cases. Median images at alpha 0.0005 below and 0.01 above, the portfolio
#    beside their plug-in bets clipped at 1/2 and at 3/4 of the ruinous stake (`benchmarks/coverage.py`):
#    hits 2 % and control 2 % against 30 points: 18, 24, 17; 22 % and 2 %: 196, 222, 346; 25 % and 0 %:
#    1,044, 1,586, 2,326; 50 % and 11 %: 740, 907, 1,081; 40 % and 20 % against 10 points: 708, 839, 1,125.
#
# With 512 fractions instead of 64 the ends of a difference move by less than 1e-6 at n = 2,000.
_FRACTION_COUNT = 64

_SQRT_HALF, _LN2 = math.sqrt(0.5), float.fromhex("0x1.62e42fefa39efp-1")
_LN2_HIGH, _LN2_LOW = float.fromhex("0x1.62e42fefa38p-1"), float.fromhex("0x1.ef35793c7673p-45")
"""The natural logarithm of 2 in two parts; the first has 43 bits, so that its product with an exponent is exact."""


def natural_log(x: Floats | float) -> Floats:
    """Return the natural logarithm of positive normal numbers, with an error below 1e-15 of max(1, its size).

    x = 2^k y with y in [√½, √2), and log y = 2 artanh(z) = 2 (z + z³/3 + z⁵/5 + …) with z = (y - 1) / (y + 1).
    """
    mantissa, exponent = np.frexp(x * _SQRT_HALF)
    y = mantissa / _SQRT_HALF
    z = (y - 1.0) / (y + 1.0)
    square = z * z
    series = square / 17.0
    for odd in range(15, 1, -2):
        series = (series + 1.0 / odd) * square
    found: Floats = exponent * _LN2_HIGH + (exponent * _LN2_LOW + 2.0 * (z + z * series))
    return found


def exponential(x: Floats | float) -> Floats:
    """Return the exponentials of numbers up to 700, with a relative error below 1e-13; about 1e-304 below -700.

    x = k log 2 + r with r in [-0.35, 0.35], and exp r = 1 + r (1 + r/2 (1 + r/3 (…))).
    """
    x = np.maximum(x, -700.0)
    k = np.rint(x / _LN2)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    series = 1.0 + r / 11.0
    for divisor in range(10, 0, -1):
        series = 1.0 + series * r / divisor
    found: Floats = np.ldexp(series, k.astype(np.intc))
    return found


def _sines_and_cosines(count: int) -> tuple[Floats, Floats]:
    """Return sin and cos of π (k + ½) / (2 count) for k < count, a power of 2: each float64 [count].

    The angle π / (4 count) follows from π / 2 by halving, the others from it by the addition theorem.
    """
    sine, cosine = 1.0, 0.0
    step = (sine, cosine)
    for _ in range(count.bit_length()):
        step = (sine, cosine)
        sine, cosine = math.sqrt((1.0 - cosine) / 2.0), math.sqrt((1.0 + cosine) / 2.0)
    angles = [(sine, cosine)]
    for _ in range(count - 1):
        s, c = angles[-1]
        angles.append((s * step[1] + c * step[0], c * step[1] - s * step[0]))
    return np.array([s for s, _ in angles]), np.array([c for _, c in angles])


_SINES, _COSINES = _sines_and_cosines(_FRACTION_COUNT)
# Finer towards 0 and 1, where a small change of f matters. The weights compensate, so f is uniform: equal weights
# (the arcsine prior) decided earlier only below the usual 64 images, and up to 9 % later in close cases.
_FRACTIONS: Floats = _SINES * _SINES
_LOG_WEIGHTS: Floats = natural_log(_SINES * _COSINES / math.fsum(_SINES * _COSINES))

_LEVELS = 60  # a multiple of 2, 3, 4, 5, 6, 10 and 12, so that averages of few draws are met exactly
_NEGLIGIBLE = 1e-30  # a mean below this is called 0, which is never wrong as a low end


def mean_sequence(x: Floats, alpha_low: float, alpha_high: float) -> Bounds:
    """Return the anytime-valid interval of a mean after the observations ``x``: float64 [n], range [0, 1].

    The order of the observations does not matter. The interval contains their mean; its low end is exactly 0 if all
    are 0, its high end exactly 1 if all are 1. No observations give (0, 1).

    Source: the test by betting of Waudby-Smith and Ramdas (2024), J. R. Stat. Soc. B 86, 1-27, with the bets of the
    universal portfolio of Cover (1991), Math. Finance 1, 1-29, as in Orabona and Jun (2024), IEEE Trans. Inf. Theory
    70, 436-455. Here each end is bet on separately, with a fixed set of fractions.

    Raises:
        ValueError: another shape, a value outside [0, 1] or not finite, or an alpha outside (0, 1).
    """
    _check_alphas(alpha_low, alpha_high)
    if x.ndim != 1:
        raise ValueError(f"observations must be one row of numbers, not of shape {x.shape}")
    if not np.all((x >= 0) & (x <= 1)):
        raise ValueError("every observation must be a number in [0, 1]")
    if x.size == 0:
        return Bounds(0.0, 1.0)
    counts = _counts_by_level(x)
    return Bounds(_mean_low(tuple(counts), alpha_low), 1.0 - _mean_low(tuple(counts[::-1]), alpha_high))


def difference_sequence(
    hits: NDArray[np.bool_], control_hits: NDArray[np.bool_], alpha_low: float, alpha_high: float
) -> Bounds:
    """Return the anytime-valid interval of share(hits) - share(control_hits), both bool [n], paired by image.

    The interval lies in [-1, 1] and contains the observed difference. Besides n, only the numbers of images with a hit
    in one of the two matter, so pairs that agree narrow it. No images give (-1, 1).

    Source: :func:`mean_sequence` of (hit - control hit + 1) / 2.

    Raises:
        ValueError: the two are not bool [n] of one length, or an alpha is outside (0, 1).
    """
    if hits.shape != control_hits.shape or hits.ndim != 1:
        raise ValueError(f"hits {hits.shape} and control hits {control_hits.shape} are not pairs")
    if hits.dtype != np.bool_ or control_hits.dtype != np.bool_:
        raise ValueError(f"hits must be bool, not {hits.dtype} and {control_hits.dtype}")
    halves = (hits.astype(np.float64) - control_hits + 1.0) / 2.0
    low, high = mean_sequence(halves, alpha_low, alpha_high)
    return Bounds(2.0 * low - 1.0, 2.0 * high - 1.0)


def _counts_by_level(x: Floats) -> Floats:
    """Count the observations at each multiple of 1/_LEVELS: float64 [_LEVELS + 1].

    A value between two levels is split between them so that the mean is kept. Since the log of 1 + f (x/m - 1) is
    concave in x, this only loses wealth: the interval stays valid and becomes a little wider. The cost of an interval
    does not grow with n then.
    """
    scaled = x * _LEVELS
    below = np.minimum(scaled.astype(np.intp), _LEVELS - 1)
    upper_part = scaled - below
    size = _LEVELS + 1
    counts = np.bincount(below, 1.0 - upper_part, size) + np.bincount(below + 1, upper_part, size)
    return counts.astype(np.float64, copy=False)


@lru_cache(maxsize=4096)  # every look of a scan needs the same counts again
def _mean_low(by_level: tuple[float, ...], alpha: float) -> float:
    """Return the mean below the observed one at which the wealth reaches 1/alpha, or 0.

    The log of the wealth is convex and increasing in t = -log m, so Newton's steps after the first approach the end
    from the side of small means and never pass it; a last step of 1e-9 outward covers rounding.
    """
    counts = np.array(by_level)
    levels = np.flatnonzero(counts)
    held = counts[levels]
    values = levels / _LEVELS
    mean = math.fsum(held * values) / math.fsum(held)
    if mean < _NEGLIGIBLE:
        return 0.0
    threshold, farthest = -float(natural_log(alpha)), -float(natural_log(_NEGLIGIBLE))
    t = -float(natural_log(mean))
    for _ in range(100):
        wealth = _wealth(values, held, t)
        following = min(t - (wealth.log - threshold) / wealth.slope, farthest)
        if abs(following - t) < 1e-12:
            break
        t = following
    return float(exponential(-t - 1e-9)) if t < farthest else 0.0


class _Wealth(NamedTuple):
    """Wealth of the bets on a larger mean, from a start at 1."""

    log: float
    """Natural logarithm of the wealth."""
    slope: float
    """Derivative of that logarithm by t."""


def _wealth(values: Floats, counts: Floats, t: float) -> _Wealth:
    """Return the wealth against the mean exp(-t) after ``counts`` [v] observations of the ``values`` [v] in [0, 1]."""
    won = (values * exponential(t))[:, None] * _FRACTIONS  # [v, fractions]
    factors = won + (1.0 - _FRACTIONS)
    logs, slopes = _LOG_WEIGHTS, np.zeros(_FRACTION_COUNT)
    for count, log, slope in zip(counts, natural_log(factors), won / factors, strict=True):
        logs, slopes = logs + count * log, slopes + count * slope
    largest = float(logs.max())
    parts = exponential(logs - largest)
    total = math.fsum(parts)
    return _Wealth(largest + float(natural_log(total)), math.fsum(parts * slopes) / total)


def _check_alphas(alpha_low: float, alpha_high: float) -> None:
    if not (0 < alpha_low < 1 and 0 < alpha_high < 1):
        raise ValueError(f"alphas are chances of a miss, between 0 and 1, not {alpha_low} and {alpha_high}")
