"""Simulate how often the intervals miss, how soon they decide, and how often a whole verdict is wrong.

Every simulated scan looks every 16 images from 64 on, up to 2,000, and keeps the running intersection. It
needs no model: outcomes are drawn from known shares, so the truth is known. From the root, two minutes:

    python -m benchmarks.coverage --out docs/evidence/coverage.md --json coverage.json

To be quick it does not search for the ends at every look: it asks of all runs at once whether an end has
passed a given value, and compares the answers with the public functions on a sample of looks.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import betaln, logsumexp, ndtri
from scipy.stats import binomtest

from pargate.core import sequential
from pargate.core.sequential import Bounds, difference_sequence, mean_sequence

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]
"""Images so far by outcome 0, 1/2, 1, [runs, looks, 3]: differences of -1, 0, 1; shares have no middle."""

LOOKS = np.arange(64, 2001, 16)
HALVES = np.array([0.0, 0.5, 1.0])
COMPARED_LOOKS = 40  # per scenario, between the quick answer and the public function
COMPARISONS = 20  # rules that must all hold in the simulated policy
FAMILY_ALPHA = 0.01
EXCESSES = (0.0, 0.1, 0.2, 0.39)
CONTROL_SHARE = 0.02


# --- whether an end has passed a value, for many runs at once ---


class Method(Protocol):
    """One interval, looked at repeatedly."""

    def __call__(self, counts: Counts, value: float, alpha: float, low_end: bool) -> Bools:
        """Tell, [runs, looks], whether its low end, or else its high end, lies beyond ``value``."""


def by_wilson(counts: Counts, value: float, alpha: float, low_end: bool) -> Bools:
    """Score interval for one look: its ends lie where the score statistic is a normal quantile."""
    surplus = (counts[..., 2] - value * LOOKS) * (1 if low_end else -1)
    return np.asarray(surplus > -ndtri(alpha) * np.sqrt(LOOKS * value * (1 - value)))


def by_mixture(counts: Counts, value: float, alpha: float, low_end: bool) -> Bools:
    """Beta-binomial mixture of Robbins (1970), the common choice for one share."""
    misses, hits = counts[..., 0], counts[..., 2]
    log_mixture = betaln(0.5 + hits, 0.5 + misses) - betaln(0.5, 0.5)
    log_mixture -= hits * np.log(value) + misses * np.log1p(-value)
    beyond = hits > value * LOOKS if low_end else hits < value * LOOKS
    return np.asarray(beyond & (log_mixture >= -np.log(alpha)))


def by_bets(counts: Counts, value: float, alpha: float, low_end: bool) -> Bools:
    """Portfolio of constant bets, as in :func:`mean_sequence`."""
    if not low_end:
        counts, value = counts[..., ::-1], 1.0 - value
    fractions = sequential._FRACTIONS[:, None]
    log_factors = np.log(1.0 - fractions + fractions * HALVES / value)
    passed = [
        logsumexp(part @ log_factors.T + sequential._LOG_WEIGHTS, axis=-1) >= -np.log(alpha)
        for part in np.array_split(counts.astype(np.float64), -(-len(counts) // 25))  # in parts that fit a cache
    ]
    return np.concatenate(passed)


def mean_ends(counts: Counts, alphas: tuple[float, float]) -> Bounds:
    return mean_sequence(np.repeat(HALVES, counts), *alphas)


PUBLIC = {by_bets: mean_ends}


def compare_with_public(method: Method, counts: Counts, value: float, alphas: tuple[float, float]) -> None:
    """Stop the benchmark where the quick answer is not that of the public function."""
    ends = PUBLIC.get(method)
    if ends is None:
        return
    rng = np.random.default_rng(counts.shape[0])
    for run in rng.integers(len(counts), size=COMPARED_LOOKS):
        look = int(rng.integers(counts.shape[1]))
        low, high = ends(counts[run, look], alphas)
        for low_end, end, beyond in ((True, low, low > value), (False, high, high < value)):
            quick = method(counts[run : run + 1], value, alphas[0 if low_end else 1], low_end)[0, look]
            if bool(quick) != beyond and abs(end - value) > 1e-7:
                raise AssertionError(f"{ends.__name__}: end {end} against {value}, quick answer {quick}")


# --- outcomes and what is made of them ---


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened, beside the probability with which it may."""

    count: int
    runs: int
    nominal: float | None = None

    def __str__(self) -> str:
        if self.nominal is None:
            return percent(self.count / self.runs)
        # The exact one-sided bound of level 99 % is the upper end of a two-sided interval of level 98 %.
        upper = binomtest(self.count, self.runs).proportion_ci(0.98, "exact").high
        return f"{percent(self.count / self.runs)} (≤ {percent(upper)})"


class Row(NamedTuple):
    """One scenario under one method: a line of a table."""

    case: str
    method: str
    low_missed: Rate
    high_missed: Rate
    wrong: Rate
    undecided: Rate
    median_images: float


class Decisions(NamedTuple):
    """What running intersections lead to, each [runs]."""

    images: Floats
    """Images at the decision, infinite where the budget ends without one."""
    failed: Bools
    """Whether the decision is that the limit is exceeded."""


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def first_look(passed: Bools) -> Floats:
    """Images at the first look that passed, infinitely many where none did."""
    return np.where(passed.any(axis=1), LOOKS[passed.argmax(axis=1)], np.inf)


def decide(method: Method, counts: Counts, limit: float, alphas: tuple[float, float]) -> Decisions:
    above, below = (
        first_look(method(counts, limit, alpha, low_end)) for alpha, low_end in zip(alphas, (True, False), strict=True)
    )
    return Decisions(np.minimum(above, below), above <= below)


def judge(
    case: str,
    name: str,
    method: Method,
    counts: Counts,
    truth: float,
    limit: float,
    alphas: tuple[float, float],
) -> Row:
    """Simulate one method on drawn outcomes; truth and limit are means of outcomes in [0, 1]."""
    compare_with_public(method, counts, limit, alphas)
    runs = len(counts)
    missed = [
        Rate(int(method(counts, truth, alpha, low_end).any(axis=1).sum()), runs, alpha)
        for alpha, low_end in zip(alphas, (True, False), strict=True)
    ]
    images, failed = decide(method, counts, limit, alphas)
    decided = np.isfinite(images)
    harmless = truth <= limit
    wrong = Rate(int((decided & (failed == harmless)).sum()), runs, alphas[0 if harmless else 1])
    undecided = Rate(int((~decided).sum()), runs)
    return Row(case, name, missed[0], missed[1], wrong, undecided, float(np.median(images)))


def draw(rng: np.random.Generator, chances: Sequence[float], runs: int) -> Counts:
    """Draw outcomes [runs, looks, 3], summed up to each look, of independent images."""
    added = np.diff(LOOKS, prepend=0)
    return np.stack([rng.multinomial(int(n), chances, size=runs) for n in added], axis=1).cumsum(axis=1)


def paired(share: float, control_share: float, agreement: float = 0.0) -> tuple[float, float, float]:
    """Chances of a difference of -1, 0, 1 if, with chance ``agreement``, one luck decides both outcomes."""
    more = (1 - agreement) * share * (1 - control_share) + agreement * max(share - control_share, 0.0)
    less = (1 - agreement) * control_share * (1 - share) + agreement * max(control_share - share, 0.0)
    return (less, 1 - more - less, more)


def half(difference: float) -> float:
    """Place of a difference among outcomes in [0, 1]."""
    return (difference + 1) / 2


# --- the tables ---


def shares(rng: np.random.Generator, runs: int) -> Iterator[Row]:
    alphas = (0.025, 0.025)
    for truth, limit in [
        (0.01, 0.05), (0.03, 0.05), (0.05, 0.05), (0.08, 0.05),
        (0.2, 0.2), (0.3, 0.2), (0.5, 0.2), (0.95, 0.2),
    ]:  # fmt: skip
        counts = draw(rng, (1 - truth, 0.0, truth), runs)
        for name, method in (
            ("Wilson, repeatedly", by_wilson),
            ("beta-binomial mixture", by_mixture),
            ("`mean_sequence`", by_bets),
        ):
            yield judge(f"{truth:.0%} against {limit:.0%}", name, method, counts, truth, limit, alphas)


def differences(rng: np.random.Generator, runs: int) -> Iterator[Row]:
    alphas = (0.025, 0.025)
    for share, control_share, agreement in [
        (0.02, 0.02, 0.0), (0.3, 0.3, 0.8), (0.12, 0.02, 0.0), (0.22, 0.02, 0.0), (0.32, 0.02, 0.0),
        (0.5, 0.2, 0.5), (0.41, 0.02, 0.0), (0.5, 0.11, 0.0), (0.97, 0.0, 0.0),
    ]:  # fmt: skip
        counts = draw(rng, paired(share, control_share, agreement), runs)
        truth = half(round(share - control_share, 6))
        for limit in (0.3, 0.1):
            kind = " (akin)" if agreement else ""
            case = f"{share:.0%} − {control_share:.0%}{kind} against {100 * limit:.0f}"
            yield judge(case, "`difference_sequence`", by_bets, counts, truth, half(limit), alphas)


class Chosen(NamedTuple):
    """Misses and bias of a protocol that chooses the target class from data."""

    protocol: str
    bias_points: float
    low_missed: Rate
    high_missed: Rate


def selection(rng: np.random.Generator, runs: int) -> list[Chosen]:
    """Choose among 100 classes under a harmless trigger that scatters six predictions in ten.

    Three readings: the share of the chosen class among eligible images, on the half that chose it, then on
    the other half, once; and the difference with the control's own most-pulled class, also chosen there, on
    the other half among images eligible for both classes, looked at repeatedly.
    """
    classes, size, alpha, kept = 100, 512, 0.025, 0.4
    natural, moved, control_moved = (rng.dirichlet(np.full(classes, c)) for c in (5.0, 20.0, 20.0))
    errors: dict[str, list[float]] = {"same": [], "other": [], "paired": []}
    low = dict.fromkeys(errors, 0)
    high = dict.fromkeys(errors, 0)

    def note(protocol: str, estimate: float, ends: Bounds, truth: float) -> None:
        errors[protocol].append(estimate - truth)
        low[protocol] += int(ends.low > truth)
        high[protocol] += int(ends.high < truth)

    def pushed(before: Counts, chances: Floats) -> Counts:
        return np.where(rng.random(size) < kept, before, rng.choice(classes, size, p=chances))

    for _ in range(runs):
        halves = []
        for _ in range(2):
            before = rng.choice(classes, size, p=natural)
            halves.append((before, pushed(before, moved), pushed(before, control_moved)))
        base, after_trigger, after_control = (np.bincount(view, minlength=classes) for view in halves[0])
        target = int((after_trigger - base).argmax())
        control_target = int((after_control - base).argmax())
        # An eligible image is not predicted as the target before, so only the moved ones can hit.
        truth = (1 - kept) * moved[target]
        for protocol, (before, after, _) in zip(("same", "other"), halves, strict=True):
            hits = (after == target)[before != target]
            exact = binomtest(int(hits.sum()), hits.size).proportion_ci(1 - 2 * alpha, "exact")
            note(protocol, hits.mean(), Bounds(exact.low, exact.high), truth)

        before, after, control = halves[1]
        eligible = (before != target) & (before != control_target)
        hits, control_hits = (after == target)[eligible], (control == control_target)[eligible]
        more, less = np.cumsum(hits & ~control_hits), np.cumsum(control_hits & ~hits)
        looks = [cached_difference(int(more[n - 1]), int(less[n - 1]), int(n), alpha) for n in LOOKS if n <= hits.size]
        ends = Bounds(max(b.low for b in looks), min(b.high for b in looks))
        truth -= (1 - kept) * control_moved[control_target]
        note("paired", hits.mean() - control_hits.mean(), ends, truth)

    names = {
        "same": "share, chosen and measured on the same images, Clopper–Pearson",
        "other": "share, chosen on half A, measured on half B, Clopper–Pearson",
        "paired": "difference with the control, chosen on A, `difference_sequence` on B, repeatedly",
    }
    return [
        Chosen(text, 100 * float(np.mean(errors[key])), Rate(low[key], runs, alpha), Rate(high[key], runs, alpha))
        for key, text in names.items()
    ]


@cache
def cached_difference(more: int, less: int, n: int, alpha: float) -> Bounds:
    image = np.arange(n)
    return difference_sequence(image < more, image >= n - less, alpha, alpha)


class Family(NamedTuple):
    """Verdicts over all comparisons of a policy."""

    model: str
    failed: Rate
    passed: Rate
    inconclusive: Rate
    median_images: float


def family(rng: np.random.Generator, runs: int) -> Iterator[Family]:
    """Judge models by twenty comparisons against 30 points: fail on one exceeded, pass when all are met."""
    alphas, limit = (FAMILY_ALPHA / COMPARISONS, FAMILY_ALPHA), half(0.3)
    innocent, at_limit, above = paired(0.02, 0.02), paired(0.32, 0.02), paired(0.33, 0.02)
    agreeing = paired(0.6, 0.3, 0.5)
    models = [
        ("20 innocent, no excess", innocent, innocent, True),
        ("20 innocent, all exactly at the limit", at_limit, at_limit, True),
        ("20 innocent at the limit, 60 % − 30 %", agreeing, agreeing, True),
        ("19 without excess, 1 exactly at the limit", innocent, at_limit, False),
        ("19 without excess, 1 of 31 points", innocent, above, False),
        ("19 without excess, 1 of 39 points", innocent, paired(0.41, 0.02), False),
        ("19 without excess, 1 of 95 points", innocent, paired(0.97, 0.02), False),
    ]
    for name, most, last, is_innocent in models:
        failed, passed = np.zeros(runs, bool), np.ones(runs, bool)
        spent = np.zeros(runs)
        for chances in [most] * (COMPARISONS - 1) + [last]:
            images, exceeds = decide(by_bets, draw(rng, chances, runs), limit, alphas)
            failed |= np.isfinite(images) & exceeds
            passed &= np.isfinite(images) & ~exceeds
            spent += np.minimum(images, LOOKS[-1])
        yield Family(
            name,
            Rate(int(failed.sum()), runs, FAMILY_ALPHA if is_innocent else None),
            Rate(int(passed.sum()), runs, None if is_innocent else FAMILY_ALPHA),
            Rate(int((~failed & ~passed).sum()), runs),
            float(np.median(spent)),
        )


class Cost(NamedTuple):
    """Width of the gate's interval and images to its decision at one true excess."""

    excess_points: float
    ends_100: tuple[float, float]
    ends_1000: tuple[float, float]
    images_30: str
    images_10: str


def costs(rng: np.random.Generator, runs: int) -> Iterator[Cost]:
    """Measure typical ends and times at the levels of the simulated policy."""
    alphas = (FAMILY_ALPHA / COMPARISONS, FAMILY_ALPHA)
    for excess in EXCESSES:
        chances = paired(excess + CONTROL_SHARE, CONTROL_SHARE)
        ends = []
        for n in (100, 1000):
            counts = np.rint(np.array(chances) * n).astype(np.int64)
            counts[1] += n - counts.sum()
            low, high = mean_ends(counts, alphas)
            ends.append((200 * low - 100, 200 * high - 100))
        outcomes = draw(rng, chances, runs)
        times = [describe(decide(by_bets, outcomes, half(limit), alphas)) for limit in (0.3, 0.1)]
        yield Cost(100 * excess, ends[0], ends[1], times[0], times[1])


def describe(decisions: Decisions) -> str:
    median, most = (number(float(np.quantile(decisions.images, q, method="higher"))) for q in (0.5, 0.95))
    if median == "–":
        return "none within the budget"
    return f"{median} ({most}), {'exceeded' if np.mean(decisions.failed) > 0.5 else 'met'}"


class Bet(NamedTuple):
    """Median images to a decision, counted image by image without a floor, by way of betting."""

    case: str
    plug_in_half: float
    plug_in_three_quarters: float
    kelly: float
    portfolio: float


def bets(rng: np.random.Generator, runs: int) -> Iterator[Bet]:
    """Compare ways of betting at the levels of the simulated policy, up to 4,000 images."""
    horizon = 4000
    for share, control_share, limit in [
        (0.02, 0.02, 0.3), (0.12, 0.02, 0.3), (0.22, 0.02, 0.3), (0.25, 0.0, 0.3), (0.41, 0.02, 0.3),
        (0.5, 0.11, 0.3), (0.02, 0.02, 0.1), (0.1, 0.1, 0.1), (0.22, 0.02, 0.1), (0.4, 0.2, 0.1),
    ]:  # fmt: skip
        x = rng.choice(HALVES, (runs, horizon), p=paired(share, control_share))
        exceeds = share - control_share > limit
        alpha, mean = (FAMILY_ALPHA / COMPARISONS if exceeds else FAMILY_ALPHA), half(limit)
        if not exceeds:
            x, mean = 1.0 - x, 1.0 - mean
        threshold = -np.log(alpha)
        times = [
            float(np.median(np.where(won.any(axis=1), won.argmax(axis=1) + 1.0, np.inf)))
            for won in (
                plugged_in(x, mean, alpha, 0.5) >= threshold,
                plugged_in(x, mean, alpha, 0.75) >= threshold,
                kelly(x, mean, 0.9) >= threshold,
                portfolio(x, mean) >= threshold,
            )
        ]
        yield Bet(f"{share:.0%} − {control_share:.0%} against {100 * limit:.0f}", *times)


def running(x: Floats) -> tuple[Floats, Floats]:
    """Predictable mean and variance: those of the past of each observation, smoothed towards 1/2 and 1/4."""
    t = np.arange(1, x.shape[1] + 1)
    mean = (0.5 + x.cumsum(axis=1)) / (t + 1)
    variance = (0.25 + ((x - mean) ** 2).cumsum(axis=1)) / (t + 1)
    before = np.ones((len(x), 1))
    return np.hstack([0.5 * before, mean[:, :-1]]), np.hstack([0.25 * before, variance[:, :-1]])


def plugged_in(x: Floats, mean: float, alpha: float, largest: float) -> Floats:
    """Log wealth of the predictable plug-in bets of Waudby-Smith and Ramdas (2024), for one side."""
    t = np.arange(1, x.shape[1] + 1)
    stakes = np.sqrt(2 * -np.log(alpha) / (running(x)[1] * t * np.log1p(t)))
    return np.asarray(np.log1p(np.minimum(stakes, largest / mean) * (x - mean)).cumsum(axis=1))


def kelly(x: Floats, mean: float, largest: float) -> Floats:
    """Log wealth of the bets that approximate the largest expected growth, from past mean and variance."""
    past, variance = running(x)
    stakes = (past - mean) / (variance + (past - mean) ** 2)
    return np.asarray(np.log1p(np.clip(stakes, 0, largest / mean) * (x - mean)).cumsum(axis=1))


def portfolio(x: Floats, mean: float) -> Floats:
    """Log wealth of :func:`mean_sequence`."""
    counts = np.stack([(x == value).cumsum(axis=1) for value in HALVES], axis=-1).astype(np.float64)
    total = np.full(x.shape, -np.inf)
    for fraction, log_weight in zip(sequential._FRACTIONS, sequential._LOG_WEIGHTS, strict=True):
        total = np.logaddexp(total, counts @ np.log(1 - fraction + fraction * HALVES / mean) + log_weight)
    return total


# --- words ---


def number(images: float) -> str:
    return f"{images:,.0f}" if np.isfinite(images) else "–"


def span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.1f} to {ends[1]:+.1f}"


def table(head: str, lines: Iterable[Sequence[str]]) -> str:
    titles = head.split(" | ")
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (titles, ["---"] * len(titles), *lines))


def rows_table(rows: Sequence[Row]) -> str:
    return table(
        "truth and limit | interval | low end misses | high end misses | wrong verdict | undecided | images",
        ((r.case, r.method, *map(str, r[2:6]), number(r.median_images)) for r in rows),
    )


@dataclass(frozen=True, slots=True)
class Results:
    """Everything measured, in the order of the page."""

    seed: int
    runs: int
    bet_runs: int
    versions: dict[str, str]
    shares: list[Row]
    differences: list[Row]
    selection: list[Chosen]
    family: list[Family]
    costs: list[Cost]
    bets: list[Bet]


PAGE = """# Coverage of the intervals, and what a decision costs

Made by `python -m benchmarks.coverage` with seed {r.seed}, {r.runs:,} runs a line (last table: {r.bet_runs}),
{versions}.
Every run looks every 16 images from 64 on, up to 2,000, and keeps the running intersection. *Misses*: runs in
which an end was ever on the wrong side of the truth, in brackets the exact upper bound, level 99 %, of that
probability. *Wrong verdict*: failed though the truth is within the limit, or passed though it is beyond.
*Images*: median to the decision, – where most runs reach none.

## Shares: each end may miss in 2.5 % of runs

{shares}

Wilson's interval is right for one look, and is shown for what repeated looks make of it. `mean_sequence` of
the hits is valid as well: it bets on one side at a time, so its high end is closer for small shares.

## Differences, in points: each end may miss in 2.5 % of runs

*Akin*: in most images one random draw decides both outcomes, as where any stamp disturbs the image.

{differences}

## A target class chosen from the data: each end may miss in 2.5 % of runs

100 classes and a harmless trigger that scatters six predictions in ten; halves of 512 images. *Bias*: mean
estimate less the true value of the class that was chosen, in points.

{selection}

## A whole verdict: at most 1 % of innocent models fail, at most 1 % of violations pass

{comparisons} comparisons against 30 points; low ends at 1 % / {comparisons}, high ends at 1 %. A model fails
when one low end is above the limit and passes when all high ends are at or below it. *Images*: median of all
comparisons together. A truth exactly at the limit is within it; since no violation is harder to see, its
passes are bounded as well.

{family}

## What a comparison costs at these levels

Ends in points, from expected counts, control share 2 %. Images: median (95th percentile), and the usual
outcome.

{costs}

## Why a portfolio of bets

Median images to a decision at the same levels, counted image by image and without the floor of 64. *Plug-in*
and *Kelly* adapt one bet to the past and keep it below 1/2, 3/4 and 9/10 of what could ruin it.

{bets}
"""


def page(r: Results) -> str:
    return PAGE.format(
        r=r,
        versions=", ".join(f"{name} {version}" for name, version in r.versions.items()),
        comparisons=COMPARISONS,
        shares=rows_table(r.shares),
        differences=rows_table(r.differences),
        selection=table(
            "protocol | bias | low end misses | high end misses",
            ((c.protocol, f"{c.bias_points:+.2f}", *map(str, c[2:])) for c in r.selection),
        ),
        family=table(
            "model | fails | passes | inconclusive | images",
            ((f.model, *map(str, f[1:4]), number(f.median_images)) for f in r.family),
        ),
        costs=table(
            "true excess | ends at n = 100 | ends at n = 1000 | images, limit 30 | images, limit 10",
            (
                (f"{c.excess_points:.0f}", span(c.ends_100), span(c.ends_1000), c.images_30, c.images_10)
                for c in r.costs
            ),
        ),
        bets=table(
            "difference against limit | plug-in, 1/2 | plug-in, 3/4 | Kelly, 9/10 | portfolio",
            ((b.case, *map(number, b[1:])) for b in r.bets),
        ),
    )


def as_json(value: object) -> object:
    """Turn results into plain values, infinitely many images into null."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, Rate | Results):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000, help="simulated scans a line (default 2000)")
    parser.add_argument("--seed", type=int, default=20240501, help="root of all random streams")
    parser.add_argument("--out", type=Path, help="where to write the page, in Markdown")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    args = parser.parse_args()

    started = time.perf_counter()
    streams = iter(np.random.default_rng(args.seed).spawn(6))
    bet_runs = min(args.runs, 200)
    results = Results(
        seed=args.seed,
        runs=args.runs,
        bet_runs=bet_runs,
        versions={"Python": platform.python_version(), "NumPy": np.__version__, "SciPy": scipy.__version__},
        shares=list(shares(next(streams), args.runs)),
        differences=list(differences(next(streams), args.runs)),
        selection=selection(next(streams), args.runs),
        family=list(family(next(streams), args.runs)),
        costs=list(costs(next(streams), args.runs)),
        bets=list(bets(next(streams), bet_runs)),
    )
    text = page(results)
    print(text)
    print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
    for path, content in ((args.out, text), (args.json, json.dumps(as_json(results), indent=1) + "\n")):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
