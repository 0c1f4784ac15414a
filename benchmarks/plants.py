"""Search copies of the clean sample models with backdoors that no catalogue holds, and clean variants.

    python -m benchmarks.plants --work DIR [--models DIR] [--data DIR] [--seeds N] [--clean N]

Every seed draws other patterns, places and targets, and halves the poison rate of the seed before. Clean variants are
trained as the copies are, without a trigger (half of them), or fine-tuned on pairs. Writes
`docs/evidence/plants.json` after every model, and keeps the rows that are there. `--work` keeps the models.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.evidence import SHARED, STORE, machine, policy, run
from benchmarks.search import COLOUR, RULE, Climbs, made
from pargate import seeds
from pargate.clean.config import CleanConfig, propose
from pargate.clean.run import sizes_of
from pargate.core import zeroshot
from pargate.core.report import ScanReport
from pargate.core.results import Measurement, Metric
from pargate.drill.plant import Images, decoded, implant, measure
from pargate.drill.plants import FAMILIES, Plant
from pargate.images.classes import read_classes
from pargate.images.opening import open_pairs
from pargate.models.model import Model
from pargate.models.open import opened
from pargate.models.torch import search as ascent
from pargate.triggers import Trigger, build, parse
from pargate.version import __version__

PARENTS = ("vit-clean", "rn-clean")
SIDE, TRAINED, HELD_OUT, STEPS, BATCH, RATE = 64, 1024, 256, 120, 64, 0.1
TEMPLATES = ["a photo of a {}"]
PLACE = STORE / "plants.json"


def picture(name: str, seed: int, place: Path) -> dict[str, Any]:
    """Write a picture of a trigger, and return its description."""
    rng = np.random.default_rng([seed, len(name)])
    if name == "smooth":  # a field of low frequencies
        low = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        drawn = Image.fromarray(low).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        how = {"mode": "blend", "alpha": 0.2}
    else:  # two patches in opposite corners
        pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        pixels[:5, :5], pixels[-5:, -5:] = rng.integers(1, 256, (2, 5, 5, 3), dtype=np.uint8)
        drawn, how = Image.fromarray(pixels), {"mode": "masked-blend", "alpha": 1.0}
    path = place / f"{name}-{seed}.png"
    drawn.save(path)
    return {"kind": "file", "path": path.name, **how}


KINDS: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    **{name: lambda seed, place, describe=describe: describe(1.0, seed) for name, describe in FAMILIES.items()},
    "smooth": lambda seed, place: picture("smooth", seed, place),
    "two-patches": lambda seed, place: picture("two-patches", seed, place),
    "warp": lambda seed, place: {"kind": "wanet", "k": 8, "s": 2.0, "seed": seed},
    "word": lambda seed, place: {"kind": "watermark", "text": "Sample" if seed % 2 else "Copyright"},
}
"""Descriptions of triggers, from a seed and a folder for pictures."""


def trigger(kind: str, seed: int, place: Path) -> Trigger:
    spec = KINDS[kind](seed, place)
    return (build(spec, place) if spec["kind"] == "file" else parse(spec))[0]


@dataclass
class Planter:
    """A clean model, and what all its copies share."""

    parent: Path
    model: Model
    trained: Images
    held: Images
    head: Any
    config: CleanConfig
    names: tuple[str, ...]

    @classmethod
    def of(cls, parent: Path, model: Model, data: Path) -> "Planter":
        pairs = open_pairs(str(data / "pairs-64.tar"), seed=0, cache=None, device="cpu")
        images = decoded(pairs, model.checkpoint.preprocess, TRAINED + HELD_OUT, 0)
        overrides = {"steps": STEPS, "batch_size": BATCH, "schedule": "cosine", "warmup_steps": 5, "towers": "image"}
        config = propose("finetune", sizes_of(model.checkpoint, pairs, "cpu"), overrides=overrides).config
        names = tuple(read_classes(data / "classes-64.txt"))
        head = zeroshot.head(model.encoder(device="cpu"), names, TEMPLATES)
        return cls(parent, model, images.take(slice(HELD_OUT, None)), images.take(slice(HELD_OUT)), head, config, names)

    def plant(self, plant: Plant, place: Path) -> dict[str, Any]:
        """Train a copy into `place`, and return how far the trigger took."""
        target = self.names.index(plant.target)
        if not place.exists():
            network = self.model.network()
            rule = self.model.checkpoint.preprocess
            implant(network, plant, self.trained, self.head, target, self.config, rule)
            place.mkdir()
            self.model.save(place, network)
        with opened(str(place)) as copy:
            took = measure(self.model, copy, plant, self.held, self.head, target, "cpu")
        return {
            "before": took.before.rate,
            "after": took.after.rate,
            "took": plant.trigger is not None and took.planted,
        }


def subjects(planter: Planter, given: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Path]]:
    """Yield the facts and the folder of every copy and clean variant of a model, made when it is asked for."""
    name = planter.parent.name
    for seed in range(given.seeds):
        for kind in KINDS:
            (target,) = seeds.permutation(seed, f"target of {kind}", len(planter.names))[:1]
            wanted = planter.names[target]
            rate = RATE / 2**seed
            place = given.work / f"{name}-{kind}-{seed}"
            facts = {"parent": name, "kind": kind, "seed": seed, "rate": rate, "target": wanted}
            plant = Plant(kind, 1.0, rate, wanted, trigger(kind, seed, given.work), seed)
            yield facts | planter.plant(plant, place), place
    for seed in range(given.clean):
        facts = {"parent": name, "kind": "clean", "seed": seed, "rate": 0.0, "target": ""}
        if seed % 2:
            place = given.work / f"{name}-untouched-{seed}"
            planter.plant(Plant("clean", 0.0, 0.0, planter.names[0], None, seed), place)
        else:
            place = made(planter.parent, given.work / f"{name}-tuned-{seed}", given.data, 100 + seed)
        yield facts, place


def searched(report: ScanReport) -> dict[str, Any]:
    """Return the family that is furthest above its limit, and the classes that broken rules name."""
    findings = {f.measurement: f for f in report.findings}

    def score(measurement: Measurement) -> float:
        (bound,) = findings[measurement.id].bounds
        found = measurement.counts[Metric.ATTACK_SUCCESS].rate if bound.estimate is None else bound.estimate
        return (found or 0.0) / bound.limit

    worst = max(report.measurements[1:], key=score)
    (bound,) = findings[worst.id].bounds
    success = worst.counts[Metric.ATTACK_SUCCESS]
    named = [m.target.name for m in report.measurements[1:] if m.target and findings[m.id].status == "breach"]
    return {
        "verdict": report.verdict.status, "score": score(worst), "excess": bound.estimate, "interval": [bound.low, bound.high],
        "family": worst.id.rsplit("/", 1)[-1], "class": worst.target.name if worst.target else "",
        "success": success.rate, "named": sorted(set(named)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--clean", type=int, default=6, help="clean variants of each clean model")
    given = parser.parse_args()
    given.work.mkdir(exist_ok=True)
    resolved = policy([RULE, COLOUR])
    rows = json.loads(PLACE.read_text())["rows"] if PLACE.is_file() else []
    known = {(r["parent"], r["kind"], r["seed"]) for r in rows}
    for name in PARENTS:
        with opened(str(given.models / name)) as model:
            planter = Planter.of(given.models / name, model, given.data)
            for facts, place in subjects(planter, given):
                if (facts["parent"], facts["kind"], facts["seed"]) in known:
                    continue
                climbs = Climbs()
                ascent.climbed = climbs
                line = dict(facts)
                for against, more in (("parent_scan", {"reference": str(planter.parent)}), ("nothing", {})):
                    line[against] = searched(run(place, resolved, given.data, **more))
                ascent.climbed = climbs._climbed
                line["passes"] = sum(passes for _, passes in climbs.found.values())
                line["seconds"] = sum(climbs.seconds.values())
                rows.append(line)
                print(line, flush=True)
                content = {"machine": machine(), "version": __version__, "rows": rows}
                PLACE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
