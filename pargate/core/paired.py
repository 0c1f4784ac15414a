"""Loss of accuracy between two models on the same images: an exact test of fixed size, and its power beforehand.

An image is *lost* if only the first model is right about it, *gained* if only the second is; the fall is the share of
lost images less that of gained ones, and the discordance is their sum.

A confidence sequence (`sequential.py`) pays for the right to stop early. Accuracy needs no early stop: the images are
counted beforehand, and clean embeddings are cheap beside stamped ones. A test of fixed size therefore needs half as
many images (`docs/evidence.md`). The number of images must not depend on their outcomes.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pargate import limits
from pargate.core.sequential import Bounds, Floats, exponential, mean_sequence, natural_log

DISCORDANCE = 0.12
"""Prior for the discordance of a cleaning: the median of the gates in `docs/evidence.md`."""

CHANCE = 0.8
"""Probability of a decision that a planned number of images gives."""

Counts = NDArray[np.int64]

_GRID = 33
_NUISANCE = 0.02
"""Part of the error that goes to the interval of the discordance."""
_TABLE = 64
"""Counts below have a table of their factorials."""
_HALF_LOG_TWO_PI = float.fromhex("0x1.d67f1c864beb5p-1")
_TAIL = 8.0
"""Standard deviations of the discordance outside which outcomes are counted as if they all were extreme."""


def power(images: int, fall: float, confidence: float, discordance: float) -> float:
    """Return the probability that an unchanged accuracy is shown to fall by less than `fall`.

    It is that of the score test for large samples, which the exact test follows closely.

    Args:
        images: number of images that both models see.
        fall: largest allowed fall, in (0, 1).
        confidence: confidence of the test.
        discordance: share of images whose correctness changes, in (0, 1].
    """
    need, spread = _spreads(fall, confidence, discordance)
    return NormalDist().cdf((math.sqrt(images) * fall - need) / spread)


def needed(fall: float, confidence: float, discordance: float, chance: float = CHANCE) -> int:
    """Return the number of images with which `power` is `chance`; the arguments are those of `power`."""
    need, spread = _spreads(fall, confidence, discordance)
    return math.ceil(((need + NormalDist().inv_cdf(chance) * spread) / fall) ** 2)


def _spreads(fall: float, confidence: float, discordance: float) -> tuple[float, float]:
    """Return the least distance that is shown, and the standard deviation of the distance, both times √n."""
    # Of an unchanged accuracy as many images are lost as gained. The test measures its error under the fall, however.
    expected = _score(np.array([discordance / 2]), np.array([discordance / 2]), 1.0, fall)
    least = fall / float(-expected[0])  # the standard error under the hypothesis, for n = 1
    return NormalDist().inv_cdf(confidence) * least, math.sqrt(discordance)


def enough(fall: float, confidence: float, discordance: float) -> int:
    """Return the number of images beyond which more are not worth their time, at most half of `limits.COMPARED_IMAGES`.

    With it, a real fall of half of what is allowed is still shown to be allowed.
    """
    most = limits.COMPARED_IMAGES // 2
    return min(needed(fall / 2, confidence, discordance), most) if fall else most


@lru_cache(maxsize=256)
def fall_interval(n: int, lost: int, gained: int, alpha: float) -> Bounds:
    """Return the interval of the fall, each end of which errs with probability at most `alpha`.

    It holds the falls that `largest_p` does not exclude, to 0.01 points, rounded outward.
    """
    if n == 0:
        return Bounds(-1.0, 1.0)
    return Bounds(-_upper(n, gained, lost, alpha), _upper(n, lost, gained, alpha))


def _upper(n: int, lost: int, gained: int, alpha: float) -> float:
    low, high = (lost - gained) / n, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if largest_p(n, lost, gained, middle, alpha) <= alpha else (middle, high)
    return high


@lru_cache(maxsize=4096)
def largest_p(n: int, lost: int, gained: int, fall: float, alpha: float) -> float:
    """Return the p-value of the hypothesis that accuracy fell by `fall` or more.

    The statistic is the score of Tango (1998), Stat. Med. 17, 891-908. Its p-value is not the normal one, but the
    largest over all discordances in an interval that misses the true one with a small part of `alpha`, which is added:
    Berger and Boos (1994), J. Am. Stat. Assoc. 89, 1012-1016. The test is therefore valid at every n.

    Args:
        n: number of images.
        lost: images that only the first model is right about.
        gained: images that only the second model is right about.
        fall: hypothetical fall, in (-1, 1).
        alpha: level at which the p-value is used; a p-value above it may be wrong only towards 1.
    """
    if not 0 <= lost + gained <= n or n < 1:
        raise ValueError(f"{lost} lost and {gained} gained images are not counts of {n} images")
    if not -1 < fall < 1:
        return 0.0 if fall >= 1 else 1.0
    observed = float(_score(np.array([float(lost)]), np.array([float(gained)]), n, fall)[0])
    if observed >= 0:
        return 1.0
    changed = np.repeat([1.0, 0.0], [lost + gained, n - lost - gained])
    spare = _NUISANCE * alpha
    ends = mean_sequence(changed, spare / 2, spare / 2)
    least = abs(fall)
    if ends.high <= least:
        return spare  # no such discordance allows this fall
    return min(1.0, spare + _probability(n, observed, fall, np.linspace(max(ends.low, least), ends.high, _GRID)))


def _probability(n: int, observed: float, fall: float, discordances: Floats) -> float:
    """Return the largest probability, over discordances [g], of a score of at most `observed` under `fall`."""
    spread = np.sqrt(n * discordances * (1 - discordances))
    first = max(0, math.floor(float((n * discordances - _TAIL * spread).min())) - 1)
    last = min(n, math.ceil(float((n * discordances + _TAIL * spread).max())) + 1)
    changed = np.arange(first, last + 1)  # [k]
    least = _least_gained(changed, n, observed, fall)  # [k]
    share = (1 - fall / discordances) / 2  # of gained among changed images, [g]

    def gained(k: Counts, m: Counts) -> Floats:
        """Return the probability of `m` gained among `k` changed images: [k, g]."""
        inside = (m >= 0) & (m <= k)
        m = np.where(inside, m, 0)
        ways = _log_choose(k, m)[:, None]
        return np.where(inside[:, None], exponential(ways + _times(m, share) + _times(k - m, 1 - share)), 0.0)

    start = np.arange(least[0], changed[0] + 1)
    tail = gained(np.full_like(start, changed[0]), start).cumsum(axis=0)[-1] if start.size else np.zeros(_GRID)
    # P(k+1, m) = P(k, m) + share · p(k, m−1), for the probability P of at least m gained ones; then m grows.
    step = share * gained(changed[:-1], least[:-1] - 1)
    for more in range(int(np.diff(least).max(initial=0))):
        step -= np.where((np.diff(least) > more)[:, None], gained(changed[1:], least[:-1] + more), 0.0)
    tails = np.concatenate([tail[None], tail + step.cumsum(axis=0)])
    ways = _log_choose(np.full_like(changed, n), changed)[:, None]
    weights = exponential(ways + _times(changed, discordances) + _times(n - changed, 1 - discordances))
    outside = 1.0 - weights.cumsum(axis=0)[-1]
    return float(((weights * np.clip(tails, 0.0, 1.0)).cumsum(axis=0)[-1] + np.maximum(outside, 0.0)).max())


def _least_gained(changed: Counts, n: int, observed: float, fall: float) -> Counts:
    """Return the fewest gained among `changed` [k] images whose score is at most `observed`: [k], changed + 1 if none.

    The score falls as images move from lost to gained.
    """
    low, high = np.zeros_like(changed), changed + 1
    while (open_ := low < high).any():
        middle = (low + high) // 2
        # The margin keeps outcomes with the observed score in, whatever the rounding.
        within = _score((changed - middle).astype(float), middle.astype(float), n, fall) <= observed + 1e-9
        low[open_ & ~within] = middle[open_ & ~within] + 1
        high[open_ & within] = middle[open_ & within]
    # It grows with the changed images; if rounding broke that, more outcomes would count as extreme.
    fewest: Counts = np.minimum.accumulate(low[::-1])[::-1]
    return fewest


def _log_choose(n: Counts, k: Counts) -> Floats:
    """Return the logarithms of the numbers of ways to choose k [v] of n [v]: [v]."""
    return _log_factorial(n) - _log_factorial(k) - _log_factorial(n - k)


def _log_factorial(counts: Counts) -> Floats:
    """Return the logarithms of the factorials of counts [v], with a relative error below 1e-13: [v].

    Stirling's series, whose next term is below 1e-13 for the counts beyond the table.
    """
    table = np.concatenate([[0.0], np.cumsum(natural_log(np.arange(1.0, _TABLE)))])
    x = np.maximum(counts, _TABLE).astype(np.float64)
    series = (1 / 12 - (1 / 360 - 1 / 1260 / (x * x)) / (x * x)) / x
    beyond = (x + 0.5) * natural_log(x) - x + _HALF_LOG_TWO_PI + series
    return np.where(counts < _TABLE, table[np.minimum(counts, _TABLE - 1)], beyond)


def _times(counts: Counts, shares: Floats) -> Floats:
    """Return counts [k] times the logarithms of shares [g]; 0 for 0 · log 0: [k, g]."""
    logs: Floats = np.where(shares > 0, natural_log(np.where(shares > 0, shares, 1.0)), -1e9)
    return counts[:, None].astype(np.float64) * logs


def _score(lost: Floats, gained: Floats, n: float, fall: float) -> Floats:
    """Return the score of each pair of counts under a fall: their distance from it in standard errors under it: [k].

    The share of gained images under the fall is the most likely one, the larger root of a quadratic equation.
    """
    linear = 2 * n * fall - (lost + gained) - fall * (lost - gained)
    constant = -gained * fall * (1 - fall)
    share = (np.sqrt(np.maximum(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * np.maximum(share, max(0.0, -fall)) + fall * (1 - fall))
    distance = lost - gained - n * fall
    scores: Floats = np.where(variance > 0, distance / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
    return scores
