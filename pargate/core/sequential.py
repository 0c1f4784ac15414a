"""Intervals that stay valid however often one looks, so that sampling may stop once the answer is clear.

Every interval here is the value at one moment of a *confidence sequence*. Its levels are one-sided, one for
each end: over all n at once, with any rule for stopping, the low end is ever above the truth with probability
at most ``alpha_low``, the high end ever below it with at most ``alpha_high``. Hence a caller that looks
repeatedly may keep the largest low and the smallest high end seen so far; it does so itself.

How it works. For each candidate m there is a wealth that starts at 1 and, were m the truth, would stay 1 on
average whatever has happened before. By Ville's inequality such a wealth reaches 1/alpha, ever, with
probability at most alpha. An interval holds every m whose wealth is still below; ends are rounded outward.

Assumed: images come in an order drawn at random, one independent observation each. Several draws of one image
must be averaged first. A target class may be chosen from other images, never from these.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pargate.core.stats import Bounds

# --- shares ---


def proportion_sequence(
    successes: int,
    n: int,
    alpha_low: float,
    alpha_high: float,
    prior: tuple[float, float] = (0.5, 0.5),
) -> Bounds:
    """Return the anytime-valid interval of a share after ``n`` images, ``successes`` of them hits.

    ``prior`` holds the two positive parameters of a beta distribution. It moves width between likely and
    unlikely shares; the levels hold for any that was fixed before the first image. The default is sharp near
    0 and 1. No images give (0, 1). Raises ValueError on impossible counts, on an alpha outside (0, 1) and on
    a prior that is not positive.

    This mixture bets on both sides at once, so where one side of a limit matters :func:`mean_sequence` of the
    hits is closer: a share of 3 % is below 5 % after 800 images instead of 1,360 (`benchmarks/coverage.py`).

    Source: the beta-binomial mixture of Robbins (1970), Ann. Math. Stat. 41, 1397-1409, as in Howard, Ramdas,
    McAuliffe and Sekhon (2021), Ann. Stat. 49, 1055-1080. There one alpha covers the whole set; here each end
    has its own.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"impossible counts: {successes} successes among {n} images")
    _check_alphas(alpha_low, alpha_high)
    a, b = prior
    if not (0 < a < math.inf and 0 < b < math.inf):
        raise ValueError(f"both parameters of the prior must be positive and finite, not {prior}")
    failures = n - successes
    low = _share_low(successes, failures, alpha_low, (a, b))
    return Bounds(low, 1.0 - _share_low(failures, successes, alpha_high, (b, a)))


def _share_low(successes: int, failures: int, alpha: float, prior: tuple[float, float]) -> float:
    """Share below the observed one where the mixture reaches 1/alpha, within 1e-10 of its logarithm."""
    if successes == 0:
        return 0.0
    threshold = -math.log(alpha)
    inside = math.log(successes / (successes + failures))  # the mixture is at most 1 there
    outside = inside - 1.0
    while _log_mixture(outside, successes, failures, prior) < threshold:
        outside -= inside - outside
    while inside - outside > 1e-10:
        middle = (inside + outside) / 2
        if _log_mixture(middle, successes, failures, prior) < threshold:
            inside = middle
        else:
            outside = middle
    return math.exp(outside)


def _log_mixture(log_share: float, successes: int, failures: int, prior: tuple[float, float]) -> float:
    """Log of the likelihood averaged over the prior, relative to that of the share p itself.

    log M(p) = log B(a + s, b + f) - log B(a, b) - s log p - f log(1 - p), where M has mean 1 if p is true.
    """
    a, b = prior
    evidence = _log_beta(a + successes, b + failures) - _log_beta(a, b) - successes * log_share
    return evidence - failures * math.log1p(-math.exp(log_share)) if failures else evidence


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


# --- means and differences ---
#
# The wealth of a candidate mean m is that of someone who bets that the truth is larger: an observation x
# multiplies it by 1 + f (x/m - 1), where the fraction f in [0, 1] is what the bet risks. The factor has mean
# 1 under m, and for x in {0, 1/2, 1} *every* admissible fair bet has this form, so the only choice is f. The
# high end is the low end of 1 - x.
#
# We spread the starting wealth over many constant f, each of which grows for itself (a universal portfolio),
# instead of adapting one f to the past as Waudby-Smith and Ramdas do, because the interval then
#  - depends on the observations as a set, so that the order of the images cannot change a finding;
#  - contains the observed mean: there no constant f has gained, by the inequality of means;
#  - decides sooner where it is close. Median images at alpha 0.0005 below and 0.01 above, the portfolio
#    beside their plug-in bets clipped at 1/2 and at 3/4 of what could ruin them (`benchmarks/coverage.py`):
#    hits 2 % and control 2 % against 30 points: 18, 24, 17; 22 % and 2 %: 196, 222, 346; 25 % and 0 %:
#    1,044, 1,586, 2,326; 50 % and 11 %: 740, 907, 1,081; 40 % and 20 % against 10 points: 708, 839, 1,125.
#
# With 512 fractions instead of 64 the ends of a difference move by less than 1e-6 at n = 2,000.
_ANGLES = np.pi * (np.arange(64) + 0.5) / 128
# Finer towards 0 and 1, where a small change of f matters. The weights undo that, so f is uniform: equal
# weights (the arcsine prior) were sooner only below the customary 64 images, up to 9 % later in close cases.
_FRACTIONS: NDArray[np.float64] = np.sin(_ANGLES) ** 2
_LOG_WEIGHTS: NDArray[np.float64] = np.log(np.sin(2 * _ANGLES) / np.sin(2 * _ANGLES).sum())

_LEVELS = 60  # a multiple of 2, 3, 4, 5, 6, 10 and 12, so that averages of few draws are met exactly
_NEGLIGIBLE = 1e-30  # a mean below this is called 0, which is never wrong as a low end


def mean_sequence(x: NDArray[np.float64], alpha_low: float, alpha_high: float) -> Bounds:
    """Return the anytime-valid interval of a mean after the observations ``x``: float64 [n], range [0, 1].

    Their order does not matter. It contains the observed mean; its low end is exactly 0 when all are 0, its
    high end exactly 1 when all are 1. No observations give (0, 1). Raises ValueError on another shape, on a
    value outside [0, 1] or not finite, and on an alpha outside (0, 1).

    Source: the test by betting of Waudby-Smith and Ramdas (2024), J. R. Stat. Soc. B 86, 1-27, with the bets
    of the universal portfolio of Cover (1991), Math. Finance 1, 1-29, as in Orabona and Jun (2024), IEEE
    Trans. Inf. Theory 70, 436-455. Ours bets for each end separately, on a fixed set of fractions.
    """
    _check_alphas(alpha_low, alpha_high)
    if x.ndim != 1:
        raise ValueError(f"observations must be one row of numbers, not of shape {x.shape}")
    if not np.all((x >= 0) & (x <= 1)):
        raise ValueError("every observation must be a number in [0, 1]")
    if x.size == 0:
        return Bounds(0.0, 1.0)
    counts = _counts_by_level(x)
    return Bounds(_mean_low(counts, alpha_low), 1.0 - _mean_low(counts[::-1], alpha_high))


def difference_sequence(
    hits: NDArray[np.bool_], control_hits: NDArray[np.bool_], alpha_low: float, alpha_high: float
) -> Bounds:
    """Return the anytime-valid interval of share(hits) - share(control_hits), both bool [n], paired by image.

    It lies in [-1, 1] and contains the observed difference. Beside n, only the numbers of images matter that
    are a hit in one alone, so pairs that agree narrow it. No images give (-1, 1). Raises ValueError when the
    two are not bool [n] of one length, and on an alpha outside (0, 1).

    Source: :func:`mean_sequence` of (hit - control hit + 1) / 2.
    """
    if hits.shape != control_hits.shape or hits.ndim != 1:
        raise ValueError(f"hits {hits.shape} and control hits {control_hits.shape} are not pairs")
    if hits.dtype != np.bool_ or control_hits.dtype != np.bool_:
        raise ValueError(f"hits must be bool, not {hits.dtype} and {control_hits.dtype}")
    halves = (hits.astype(np.float64) - control_hits + 1.0) / 2.0
    low, high = mean_sequence(halves, alpha_low, alpha_high)
    return Bounds(2.0 * low - 1.0, 2.0 * high - 1.0)


def _counts_by_level(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Count the observations at each multiple of 1/_LEVELS: float64 [_LEVELS + 1].

    A value in between is shared out between its neighbours so that its mean is kept. That only loses wealth,
    since the log of 1 + f (x/m - 1) is concave in x: the interval stays valid and becomes a little wider, and
    its cost does not grow with n.
    """
    scaled = x * _LEVELS
    below = np.minimum(scaled.astype(np.intp), _LEVELS - 1)
    upper_part = scaled - below
    size = _LEVELS + 1
    counts = np.bincount(below, 1.0 - upper_part, size) + np.bincount(below + 1, upper_part, size)
    return counts.astype(np.float64, copy=False)


def _mean_low(counts: NDArray[np.float64], alpha: float) -> float:
    """Mean below the observed one where the wealth reaches 1/alpha, or 0.

    The log of the wealth is convex and increasing in t = -log m, so Newton's steps after the first come from
    the side of small means and never pass the end; a last step of 1e-9 outward covers rounding.
    """
    levels = np.flatnonzero(counts)
    held = counts[levels]
    values = levels / _LEVELS
    mean = float(held @ values) / float(held.sum())
    if mean < _NEGLIGIBLE:
        return 0.0
    threshold, farthest = -math.log(alpha), -math.log(_NEGLIGIBLE)
    t = -math.log(mean)
    for _ in range(100):
        wealth = _wealth(values, held, t)
        following = min(t - (wealth.log - threshold) / wealth.slope, farthest)
        if abs(following - t) < 1e-12:
            break
        t = following
    return math.exp(-t - 1e-9) if t < farthest else 0.0


class _Wealth(NamedTuple):
    """What the bets on a larger mean have come to, from a start at 1."""

    log: float
    """Natural logarithm of the wealth."""
    slope: float
    """Derivative of that logarithm by t."""


def _wealth(values: NDArray[np.float64], counts: NDArray[np.float64], t: float) -> _Wealth:
    """Wealth against the mean exp(-t) after ``counts`` [v] observations of the ``values`` [v] in [0, 1]."""
    won = np.outer(_FRACTIONS, values * math.exp(t))  # [fractions, v]
    factors = won + (1.0 - _FRACTIONS)[:, None]
    logs = np.log(factors) @ counts + _LOG_WEIGHTS  # [fractions]
    largest = float(logs.max())
    parts = np.exp(logs - largest)
    total = float(parts.sum())
    slope = float(parts @ ((won / factors) @ counts)) / total
    return _Wealth(largest + math.log(total), slope)


def _check_alphas(alpha_low: float, alpha_high: float) -> None:
    if not (0 < alpha_low < 1 and 0 < alpha_high < 1):
        raise ValueError(f"alphas are chances of a miss, between 0 and 1, not {alpha_low} and {alpha_high}")
