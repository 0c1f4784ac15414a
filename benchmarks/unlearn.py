"""Clean models by unlearning what a search found in them, and measure the planted trigger, which nobody told.

    python -m benchmarks.unlearn [--models DIR] [--data DIR] [--method NAME]… [--only MODEL]…

Each model is searched with its clean parent as reference, on the carriers. The triggers that break the rule become a
pack, and `pargate clean --unlearn PACK` gets it. What the method does alone is read from `docs/evidence/cleaning.json`
(`benchmarks.cleaning`), where the settings and the seed are the same. Writes `docs/evidence/unlearning.json` after
every model, and keeps the other rows.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.cleaning import PLACE as ALONE
from benchmarks.cleaning import Job, measured
from benchmarks.evidence import SHARED, STORE, Known, machine, models, policy, run
from benchmarks.search import RULE
from pargate.clean.run import clean
from pargate.release.packs import PackRequest, create, to_unlearn
from pargate.version import __version__

MODELS = ("vit-badnet", "vit-watermark")


def alone(known: Known, method: str) -> dict[str, Any]:
    """Return the run of a method without triggers."""
    wanted = {"model": known.name, "method": method, "pairs": "real", "seed": 0, "change": "", "device": "cpu"}
    runs = json.loads(ALONE.read_text())["runs"].values()
    found = [r for r in runs if {**r, **wanted} == {"change": "", "device": "cpu", **r}]
    if not found:
        raise SystemExit(f"{ALONE} has no run of {known.name} by {method}: python -m benchmarks.cleaning")
    return found[0]


def work(known: Known, method: str, data: Path) -> dict[str, Any]:
    usual = alone(known, method)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        report = run(known.folder, policy([RULE]), data, reference=str(known.parent))
        (place / "report.json").write_text(report.to_json())
        pack = create(PackRequest([place / "report.json"], place / "pack", "CC0-1.0"))
        job = Job(known, method, "real", 0, data, 1)
        began = time.process_time()
        clean(replace(job.request(place / "cleaned"), unlearn=tuple(to_unlearn(place / "pack"))))
        seconds = time.process_time() - began
        after = measured(place / "cleaned", known, data)
    shown = [f"{trigger.provenance.how.rsplit(' ', 1)[-1]} → {trigger.provenance.target}" for trigger in pack.triggers]
    return {
        "model": known.name, "method": method, "unlearned": shown, "before": usual["before"], "alone": usual["after"],
        "after": after, "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--method", action="append")
    parser.add_argument("--only", action="append", metavar="MODEL")
    given = parser.parse_args()
    path = STORE / "unlearning.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    for method in given.method or ("par-plus",):
        for known in models(given.models):
            if known.name not in (given.only or MODELS):
                continue
            row = work(known, method, given.data)
            print(
                f"  {known.name}: {method} alone {row['alone']['success']:.1%}, unlearning {row['after']['success']:.1%}"
            )
            rows = [r for r in rows if (r["model"], r["method"]) != (known.name, method)] + [row]
            path.write_text(json.dumps({"machine": machine(), "version": __version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
