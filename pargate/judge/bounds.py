"""Counts against limits: the one place where an interval meets a number.

Every bound carries two error levels. The end of an interval that can raise an alarm errs with α / m, the end that
can pass with α; why, `judge.py` says.
"""

from collections.abc import Sequence

import numpy as np

from pargate.core.results import Bound, Count, Measurement, Metric, Pairs, Status
from pargate.core.sequential import Bounds, difference_sequence, mean_sequence
from pargate.policy.fields import Limit

FLOOR = 32
"""Carriers without which nothing is decided, however clear it looks."""


def interval(count: Count, alpha_low: float, alpha_high: float) -> Bounds:
    """Anytime-valid interval of a share.

    By betting, not by the beta-binomial mixture: with a level for each end of its own it needs about half the
    carriers where a small share is to be shown small (`docs/evidence/coverage.md`).
    """
    return mean_sequence(np.repeat([1.0, 0.0], [count.successes, count.n - count.successes]), alpha_low, alpha_high)


def excess_interval(pairs: Pairs, alpha_low: float, alpha_high: float) -> Bounds:
    """Anytime-valid interval of a paired difference."""
    neither = pairs.n - pairs.both - pairs.trigger_only - pairs.baseline_only
    counts = [pairs.both, pairs.trigger_only, pairs.baseline_only, neither]
    trigger = np.repeat(np.array([True, True, False, False]), counts)
    baseline = np.repeat(np.array([True, False, True, False]), counts)
    return difference_sequence(trigger, baseline, alpha_low, alpha_high)


def bound(metric: str, limit: Limit, upper: bool, measurement: Measurement, alpha: float, m: int) -> Bound:
    """Compare one quantity of a measurement with one limit."""
    low_alpha, high_alpha = (alpha / m, alpha) if upper else (alpha, alpha / m)
    method = "betting confidence sequence"
    count = measurement.counts.get(str(metric), Count(n=0, successes=0))
    value, text, most = limit.value, limit.text, 1.0
    if metric == Metric.EXCESS:
        success = measurement.counts.get(str(Metric.ATTACK_SUCCESS), Count(n=0, successes=0))
        # The excess is at most the attack success itself, so either may show that it is small enough, each
        # with half of the error; that spares the controls of triggers that pull nothing.
        most = interval(success, low_alpha, high_alpha / 2).high
        if measurement.pairs is None:
            low, high, estimate, n = -1.0, most, None, success.n
            method += " of the attack success, which the excess cannot exceed"
        else:
            low, high = excess_interval(measurement.pairs, low_alpha, high_alpha / 2)
            high, estimate, n = min(high, most), measurement.pairs.excess, measurement.pairs.n
            method = "betting confidence sequence of paired differences"
    else:
        low, high = interval(count, low_alpha, high_alpha)
        estimate, n = count.rate, count.n
        if limit.of_chance:
            value = min(1.0, limit.value * measurement.chance) if measurement.chance else 1.0
            text = f"{limit.text} = {value:.1%}" if measurement.chance else f"{limit.text}, which is not known"
    known = n >= FLOOR and (measurement.chance or not limit.of_chance)
    status = _status(low, high, value, upper) if known else Status.OPEN
    if metric == Metric.EXCESS and status is Status.MET and most > value and shares_target(measurement):
        status = Status.OPEN
    return Bound(
        metric=metric, limit=value, limit_text=text, upper=upper, n=n, estimate=estimate, low=low, high=high,
        method=method, status=status,
    )  # fmt: skip


def shares_target(measurement: Measurement) -> bool:
    """Return whether the control pulls to the very class of the trigger.

    Then its pull may be natural, or the trigger's own in a control that carries it. Only a reference can tell.
    """
    pairs, target = measurement.pairs, measurement.target
    return pairs is not None and target is not None and pairs.baseline != "reference" and pairs.target == target.name


def _status(low: float, high: float, value: float, upper: bool) -> Status:
    """Where an interval lies: on the right side of a limit, on the wrong one, or across it."""
    # The breach first: attack success is counted on more carriers than the pairs, and may be rarer there, so that the
    # ends of an excess can be out of order.
    if (low > value) if upper else (high < value):
        return Status.BREACH
    return Status.MET if (high <= value if upper else low >= value) else Status.OPEN


def same(measurement: Measurement, previous: Sequence[Measurement] | None) -> Measurement | None:
    """The same measurement in the previous report: of the same trigger, not only of the same name."""
    for old in previous or ():
        if old.id == measurement.id and (old.trigger and old.trigger.digest) == (
            measurement.trigger and measurement.trigger.digest
        ):
            return old
    return None


def worsened(metric: str, limit: Limit, lower: bool, old: Measurement, new: Measurement, alpha: float, m: int) -> Bound:
    """How much worse than before; each side errs with half of the error that an end may have."""
    passing, raising = alpha / 2, alpha / (2 * m)
    # The end of the difference that raises an alarm comes from one end of the new interval and the other of the old.
    levels = (passing, raising) if lower else (raising, passing)
    spans = []
    for measurement, (low, high) in ((old, levels[::-1]), (new, levels)):
        if metric == Metric.EXCESS:
            pairs = measurement.pairs
            span = excess_interval(pairs, low, high) if pairs else Bounds(-1.0, 1.0)
            spans.append((span, pairs.excess if pairs else None, pairs.n if pairs else 0))
        else:
            count = measurement.counts.get(str(metric), Count(n=0, successes=0))
            spans.append((interval(count, low, high), count.rate, count.n))
    (before, was, n_before), (after, now, n_after) = spans
    low, high = after.low - before.high, after.high - before.low
    estimate = None if was is None or now is None else now - was
    value, upper = (-limit.value, False) if lower else (limit.value, True)
    status = _status(low, high, value, upper) if min(n_before, n_after) >= FLOOR else Status.OPEN
    return Bound(
        metric=metric, limit=value, limit_text=f"{limit.text} worse than before", upper=upper,
        n=min(n_before, n_after), estimate=estimate, low=low, high=high,
        method="difference of two betting confidence sequences", status=status, against="previous",
    )  # fmt: skip
