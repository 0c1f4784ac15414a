"""Search models whose backdoors are known for their triggers: with the clean parent, with a fine-tuned copy, and with neither.

    python -m benchmarks.search --work DIR [--models DIR] [--data DIR] [--only TEXT] [--seeds LIST] [--clean N]

Writes `docs/evidence/search.json` after every model and seed, and keeps the rows of those that were not searched again. `--work`
holds the fine-tuned copies, and clean children of the clean parents, which are made where they are missing. The climbs
do not see the other model, so that one climb serves all scans of a model and seed; its seconds are of the processor, since
the wall clock also counts what else the machine does.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evidence import SHARED, STORE, Known, machine, models, policy, run
from pargate.core.report import ScanReport
from pargate.core.results import Metric
from pargate.models.torch import search as ascent
from pargate.version import __version__

FAMILIES = list(ascent.CLIMBS)
MILD = [family for family in FAMILIES if family != "colour"]

RULE = {"id": "search", "probe": "search", "families": MILD, "max": {"excess": "30pp"}}
COLOUR = {"id": "colours", "probe": "search", "families": ["colour"], "max": {"excess": "60pp"}}
"""The two rules of `strict`."""

BUDGET = ["--method", "finetune", "--batch-size", "128", "--steps", "100"]
"""Fine-tuning that makes copies and children."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model that is searched, and what it is compared with."""

    name: str
    folder: Path
    planted: str
    """Target class; empty for a clean model."""
    parent: Path | None
    copy: Path | None


class Climbs:
    """Climbs of one model and seed, each made once and timed."""

    def __init__(self) -> None:
        self._climbed = ascent.climbed
        self.found: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}

    def __call__(self, encoder: Any, values: Any, family: Any, seed: int, progress: Any) -> Any:
        if family not in self.found:
            began = time.process_time()
            self.found[family] = self._climbed(encoder, values, family, seed, progress)
            self.seconds[family] = time.process_time() - began
        return self.found[family]


def made(source: Path, place: Path, data: Path, seed: int) -> Path:
    """Return a model after a short fine-tuning on clean pairs; `place` keeps it."""
    if not place.exists():
        print(f"fine-tuning {source.name} into {place}", flush=True)
        command = [
            "clean",
            str(source),
            *BUDGET,
            "--pairs",
            str(data / "pairs-64.tar"),
            "--out",
            str(place),
            "--seed",
            str(seed),
        ]
        subprocess.run([sys.executable, "-m", "pargate", *command, "--device", "cpu", "--quiet"], check=True)
    return place


def subjects(known: list[Known], work: Path, data: Path, children: int) -> Iterator[Subject]:
    """Yield the models, and clean children of the clean ones."""
    for model in known:
        copy = made(model.folder, work / f"{model.name}-child", data, 0)
        planted = model.truth["target_class"] if model.planted else ""
        yield Subject(model.name, model.folder, planted, model.parent if model.planted else None, copy)
        if not model.planted:
            for seed in range(children):
                name = f"{model.name}-child" + (f"-{seed}" if seed else "")
                yield Subject(name, made(model.folder, work / name, data, seed), "", model.folder, None)


def row(report: ScanReport, model: Subject, against: str, seed: int, climbs: Climbs) -> dict[str, Any]:
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
                "passes": climbs.found[family][1],
                "seconds": climbs.seconds[family],
                "status": finding.status,
            }
        )
    return {
        "model": model.name,
        "planted": model.planted,
        "against": against,
        "seed": seed,
        "verdict": report.verdict.status,
        "images": report.images.read,
        "families": families,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--clean", type=int, default=1, help="clean children of each clean model")
    parser.add_argument("--only", default="", help="models with this in their name")
    given = parser.parse_args()
    given.work.mkdir(exist_ok=True)
    resolved = policy([RULE, COLOUR])
    path = STORE / "search.json"
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    known = [model for model in models(given.models) if given.only in model.name]
    for model in subjects(known, given.work, given.data, given.clean):
        for seed in map(int, given.seeds.split(",")):
            rows = [r for r in rows if (r["model"], r["seed"]) != (model.name, seed)]
            climbs = Climbs()
            ascent.climbed = climbs
            others = {"parent": ("reference", model.parent), "copy": ("tuned", model.copy)}
            for against, (option, other) in [*others.items(), ("nothing", ("", None))]:
                if other is None and against != "nothing":
                    continue
                report = run(model.folder, resolved, given.data, seed=seed, **({option: str(other)} if other else {}))
                rows.append(row(report, model, against, seed, climbs))
            ascent.climbed = climbs._climbed
            content = {"machine": machine(), "version": __version__, "rows": rows}
            path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
