"""Search models whose backdoors are known for their triggers, with and without the clean parent.

    python -m benchmarks.search [--models DIR] [--data DIR] [--only TEXT] [--seeds N]

Writes `docs/evidence/search.json` after every model, and keeps the rows of models that were not searched again. The search does not see the reference, so that one search serves
both scans of a model; its seconds are of the processor, since the wall clock also counts what else the machine does.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.evidence import SHARED, STORE, Known, machine, models, policy, run
from pargate.core.found import Found
from pargate.core.report import ScanReport
from pargate.core.results import Metric
from pargate.models.torch import search as ascent
from pargate.version import __version__

FAMILIES = list(ascent.CLIMBS)

RULE = {"id": "search", "probe": "search", "families": FAMILIES, "max": {"excess": "30pp"}}


class Searches:
    """Searches of one model and seed, each made once and timed."""

    def __init__(self) -> None:
        self._search = ascent.search
        self.found: dict[str, Found] = {}
        self.seconds: dict[str, float] = {}

    def __call__(self, encoder: Any, pixels: Any, family: Any, seed: int, progress: Any = None) -> Found:
        if family not in self.found:
            began = time.process_time()
            self.found[family] = self._search(encoder, pixels, family, seed)
            self.seconds[family] = time.process_time() - began
        return self.found[family]


def row(report: ScanReport, known: Known, reference: bool, seed: int, searches: Searches) -> dict[str, Any]:
    findings = {finding.measurement: finding for finding in report.findings}
    families = []
    for measured in report.measurements[1:]:
        finding = findings[measured.id]
        (bound,) = finding.bounds
        family = measured.id.rsplit("/", 1)[-1]
        success = measured.counts[Metric.ATTACK_SUCCESS]
        families.append(
            {
                "family": family,
                "label": measured.trigger.label if measured.trigger else "",
                "class": measured.target.name if measured.target else "",
                "success": success.rate,
                "n": success.n,
                "excess": measured.pairs.excess if measured.pairs else None,
                "interval": [bound.low, bound.high],
                "shift": searches.found[family].shift,
                "passes": searches.found[family].passes,
                "seconds": searches.seconds[family],
                "status": finding.status,
            }
        )
    return {
        "model": known.name,
        "planted": known.truth["target_class"] if known.planted else "",
        "reference": reference,
        "seed": seed,
        "verdict": report.verdict.status,
        "images": report.images.read,
        "families": families,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", default="", help="models with this in their name")
    given = parser.parse_args()
    resolved = policy([RULE])
    path = STORE / "search.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    for seed in range(given.seeds):
        for known in [model for model in models(given.models) if given.only in model.name]:
            rows = [r for r in rows if (r["model"], r["seed"]) != (known.name, seed)]
            searches = Searches()
            ascent.search = searches
            for reference in (True, False) if known.parent != known.folder else (False,):
                more = {"reference": str(known.parent)} if reference else {}
                report = run(known.folder, resolved, given.data, seed=seed, **more)
                rows.append(row(report, known, reference, seed, searches))
            ascent.search = searches._search
            content = {"machine": machine(), "version": __version__, "rows": rows}
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
