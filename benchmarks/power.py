"""How many images decide an accuracy budget, and what the exact test gains over the confidence sequence.

    python -m benchmarks.power

Takes the discordance of each comparison that `benchmarks.gate` made, computes the images that certify with it, and
simulates gates whose accuracy did not change, and gates whose accuracy fell by exactly the budget. One core, a minute.
"""

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pargate.core.paired import largest_p, needed
from pargate.core.results import PairedCounts
from pargate.core.splits import total
from pargate.files import write_atomic
from pargate.judge.bounds import excess_interval
from pargate.version import __version__

STORE = Path(__file__).parents[1] / "docs" / "evidence"
PLACE = STORE / "power.json"
CONFIDENCE, ALPHA = 0.99, 0.01
RUNS = 400


def pairs(n: int, lost: int, gained: int) -> PairedCounts:
    return PairedCounts(baseline="cleaned", target="", n=n, both=0, trigger_only=lost, baseline_only=gained)


def discordance(drop: dict[str, Any]) -> float:
    """Return the share of images whose correctness changed; in older runs the kept end of the interval gives it away."""
    n = drop["n"]
    if "lost" in drop:
        return (drop["lost"] + drop["gained"]) / n
    net = round(drop["drop"] * n)
    found = {
        lost: abs(excess_interval(pairs(n, lost, lost - net), ALPHA, ALPHA).high - drop["high"])
        for lost in range(max(net, 0), (n + net) // 2 + 1)
    }
    lost = min(found, key=found.__getitem__)
    return (2 * lost - net) / n


def shown(n: int, share: float, fall: float, truth: float, seed: int) -> tuple[float, float]:
    """Return how often a fall below `fall` is shown by the exact test and by the sequence, if it really is `truth`."""
    odds = [(share + truth) / 2, (share - truth) / 2, 1 - share]
    drawn = [(int(a), int(b)) for a, b, _ in np.random.default_rng(seed).multinomial(n, odds, RUNS)]
    exact = sum(largest_p(n, *counts, fall, ALPHA) <= ALPHA for counts in drawn)
    sequence = sum(excess_interval(pairs(n, *counts), ALPHA, ALPHA).high <= fall for counts in drawn)
    return exact / RUNS, sequence / RUNS


def main() -> None:
    runs = json.loads((STORE / "gate.json").read_text())["runs"].values()
    measured = sorted(discordance(stage["drop"]) for run in runs for stage in run["stages"] if "drop" in stage)
    share = round(median(measured), 2)
    rows = []
    for fall in (0.01, 0.02, 0.03, 0.05):
        n = needed(fall, CONFIDENCE, share)
        exact, sequence = shown(n, share, fall, 0.0, 1)
        rows.append(
            {"fall": fall, "certify": n, "all": total(n), "exact": exact, "sequence": sequence,
             "error": shown(n, share, fall, fall, 2)[0],
             "more": needed(fall, CONFIDENCE, round(measured[-1], 2))}
        )  # fmt: skip
        print(rows[-1], flush=True)
    content = {"version": __version__, "discordances": [round(value, 4) for value in measured], "share": share, "runs": RUNS,
               "rows": rows}  # fmt: skip
    write_atomic(PLACE, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
