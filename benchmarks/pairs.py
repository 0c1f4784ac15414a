"""How fast pairs come: the renderer on one core at 64 pixels, and the loader on real pairs.

    python -m benchmarks.pairs [SHARD.tar]

Writes `docs/evidence/pairs.json`. Rates are medians of several turns; other work on the machine lowers them, and the
spread says by how much.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np

from benchmarks.evidence import SHARED, STORE, machine
from pargate.core.model import Preprocess
from pargate.files import write_atomic
from pargate.images.dataset import Dataset
from pargate.images.opening import open_pairs
from pargate.images.prefetch import BatchOrder, PairLoader
from pargate.images.workers import processors
from pargate.scenes import render as scenes
from pargate.version import __version__

RULE = Preprocess((64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SHARD = SHARED / "data" / "pairs-64.tar"
TURNS = 7
IMAGES = 1024

Row = dict[str, str | float]


def told(name: str, rates: list[float], n: int) -> Row:
    low, middle, high = (float(rate) for rate in np.quantile(rates, (0.0, 0.5, 1.0)))
    print(f"{name:<52} {middle:>8,.0f} images/s   ({low:,.0f} to {high:,.0f}, {len(rates)} turns of {n:,} images)")
    return {"name": name, "low": low, "median": middle, "high": high, "turns": len(rates), "images": n}


def renderer() -> list[Row]:
    scenes.render(range(64), 64, 0)  # the sprites are drawn once
    rates, processor = [], []
    for turn in range(TURNS):
        wall, used = time.perf_counter(), time.process_time()
        scenes.render(range(turn * IMAGES, (turn + 1) * IMAGES), 64, 0)
        rates.append(IMAGES / (time.perf_counter() - wall))
        processor.append(IMAGES / (time.process_time() - used))
    return [
        told("renderer, 64 px, one process", rates, IMAGES),
        told("renderer, 64 px, per second of processor time", processor, IMAGES),
    ]


def loader(name: str, pairs: Dataset, batch: int = 256) -> list[Row]:
    """First an epoch that decodes, then one from the store."""
    found = []
    steps = (pairs.count or 8192) // batch
    for store, kind in ((0, "decoding"), (1 << 30, "from the store")):
        if store and pairs.count is None:
            continue
        with PairLoader(pairs, RULE, BatchOrder(pairs.count, 0, batch), range(3 * steps), store_bytes=store) as loaded:
            begin = steps if store else 2  # workers have started, or the store is full
            for step in range(begin):
                loaded.batch(step)
            rates = []
            for first in range(begin, begin + steps - 4, 4):
                began = time.perf_counter()
                for step in range(first, first + 4):
                    loaded.batch(step)
                rates.append(4 * batch / (time.perf_counter() - began))
        found.append(told(f"loader, {name}, batch {batch}, {kind}", rates, 4 * batch))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shard", nargs="?", type=Path, default=SHARD, help="real pairs")
    shard = parser.parse_args().shard
    print(f"{processors()} processors, load {os.getloadavg()[0]:.1f}; {max(1, min(8, processors() // 2))} workers")
    load = os.getloadavg()[0]
    rows = [*renderer(), *loader("synthetic:", open_pairs("synthetic:", seed=0))]
    if shard.exists():
        began = time.perf_counter()
        pairs = open_pairs(str(shard), seed=0)
        print(
            f"{'listing and digest of ' + shard.name:<52} {pairs.count / (time.perf_counter() - began):>8,.0f} pairs/s"
        )
        rows += loader(shard.name, pairs)
    else:
        print(f"no {shard}: real pairs are not measured")
    content = {"version": __version__, "machine": machine(), "load": load, "rows": rows}
    write_atomic(STORE / "pairs.json", (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
