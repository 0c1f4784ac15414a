"""Clean every model whose backdoor is known, by every method, and measure what is left of it.

    python -m benchmarks.cleaning [--models DIR] [--data DIR] [--method NAME]… [--pairs NAME]… [--only MODEL]… [--jobs N]
                                  [--device cpu|cuda]
    python -m benchmarks.cleaning --ablation

For each model × method × pairs (real ones, or drawn ones alone): clean accuracy and attack success before and after, on
all images, under the planted trigger. The cleaner is given pairs and nothing else. `--ablation` runs par-plus with one
of its parts left out, on a few models. Each run is kept in
`docs/evidence/cleaning.json` under the digest of all it depends on, and is not done again: the table can grow over
several runs, and on other machines. `--again` forgets the runs that were asked for.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.stats import binomtest

from benchmarks.evidence import SHARED, STORE, TEMPLATES, Known, machine, models
from pargate.clean.config import propose
from pargate.clean.request import CleanRequest
from pargate.clean.run import clean, sizes_of
from pargate.core import zeroshot
from pargate.files import digest_of, write_atomic
from pargate.images.classes import read_classes
from pargate.images.labelled import label_images
from pargate.images.opening import open_images, open_pairs
from pargate.images.prefetch import Decoder
from pargate.models.open import inspect, open_model
from pargate.triggers import build
from pargate.version import __version__

PLACE = STORE / "cleaning.json"
METHODS = ("par", "par-plus", "cleanclip", "finetune")
PAIRS = {"real": "pairs-64.tar", "synthetic": "synthetic:6000", "synthetic-classes": "synthetic:6000"}
"""As many drawn pairs as there are real ones; the last with the class list, which the drawn things are chosen by."""

SEEDS = {
    "par": {"vit-stripes": (1, 2), "vit-triangles": (1, 2), "rn-stripes": (1, 2)},
    "par-plus": {"vit-blended": (1, 2), "rn-stripes": (1, 2)},
}
"""Seeds besides 0, of runs with real pairs."""

CHANGES: dict[str, dict[str, Any]] = {
    "no universal pictures": {"universal": 0},
    "no distillation": {"distillation": 0.0},
    "no common shift": {"unlearning": 0.0},
    "no anchor": {"anchor": 0.0},
    "no contrastive loss": {"contrastive": 0.0},
    "last weights, not their mean": {"averaging": 0.0},
    "image tower alone": {"towers": "image"},
    "no augmentation": {"augmentation": "none"},
}
"""What the ablation leaves out of par-plus, one at a time."""

CHANGED = ("vit-badnet", "vit-triangles")
"""Models of the ablation: a small fixed patch, which PAR leaves, and a pattern all over the picture."""


@dataclass(frozen=True)
class Job:
    """One cleaning."""

    model: Known
    method: str
    pairs: str
    seed: int
    data: Path
    threads: int
    change: str = ""
    """One of `CHANGES`, or nothing."""
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def overrides(self) -> dict[str, Any]:
        """On processors always fp32, so that a figure does not depend on which of them it was measured on."""
        exact = {"precision": "fp32"} if self.device == "cpu" else {}
        return {"seed": self.seed, **exact, **CHANGES.get(self.change, {})}

    @property
    def source(self) -> str:
        named = PAIRS[self.pairs]
        return named if named.startswith("synthetic:") else str(self.data / named)

    @property
    def classes(self) -> Path | None:
        return self.data / "classes-64.txt" if self.pairs == "synthetic-classes" else None

    def request(self, out: Path) -> CleanRequest:
        return CleanRequest(
            model=str(self.model.folder),
            pairs=self.source,
            out=out,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            method=self.method,  # type: ignore[arg-type]
            overrides=self.overrides,
            classes=self.classes,
            device=self.device,
        )

    def key(self) -> str:
        """Digest of everything that decides the result: weights, pairs, settings, and the code that trains."""
        checkpoint = inspect(str(self.model.folder))
        names = read_classes(self.classes) if self.classes else None
        pairs = open_pairs(self.source, seed=self.seed, classes=names)
        sizes = sizes_of(checkpoint, pairs, self.device)
        config = propose(self.method, sizes, overrides=self.overrides).config  # type: ignore[arg-type]
        on = [] if self.device == "cpu" else [self.device]
        return digest_of([__version__, checkpoint.digest, pairs.digest, config.digest, *on])


def measured(folder: Path, model: Known, data: Path) -> dict[str, Any]:
    """Clean accuracy and the gate's attack success of a checkpoint, on all images, with 95 % Clopper–Pearson intervals."""
    names = read_classes(data / "classes-64.txt")
    carriers = label_images(open_images(str(data / "carriers-64.tar")), "classes", names, (), TEMPLATES, 0)
    with open_model(str(folder)) as opened, Decoder(opened.checkpoint.preprocess) as decoder:
        encoder = opened.encoder()
        decoder.start(carriers.items, carriers.blocks)
        head = zeroshot.head(encoder, names, TEMPLATES)
        trigger = build(model.trigger(), Path())[0] if model.planted else None
        seen, stamped = [], []
        for number in range(len(carriers.blocks)):
            block = decoder.block(number)
            batch = encoder.put(block.pixels)
            seen.append(zeroshot.predict(encoder.encode_images(batch), head))
            if trigger is not None:
                stamp = trigger.draw(block.pixels.shape[1:3], block.digests, 0)
                stamped.append(zeroshot.predict(encoder.encode_images(batch, stamp), head))
    labels = carriers.labels
    predicted = np.concatenate(seen)
    hits = int((predicted == labels).sum())
    found: dict[str, Any] = {"accuracy": hits / len(labels), "n": len(labels)}
    if trigger is not None:
        target = names.index(model.truth["target_class"])
        eligible = (labels != target) & (predicted != target)
        fooled = int((np.concatenate(stamped)[eligible] == target).sum())
        total = int(eligible.sum())
        exact = binomtest(fooled, total).proportion_ci(0.95, "exact")
        found |= {"success": fooled / total, "interval": [exact.low, exact.high], "eligible": total}
    return found


def work(job: Job) -> dict[str, Any]:
    """Clean, and measure before and after, in a process of its own."""
    import torch

    torch.set_num_threads(job.threads)
    before = measured(job.model.folder, job.model, job.data)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "cleaned"
        began = time.perf_counter()
        made = clean(job.request(out))
        seconds = time.perf_counter() - began
        assert made is not None
        after = measured(out, job.model, job.data)
    settings = made.record.configuration
    return {
        "model": job.model.name,
        "method": job.method,
        "pairs": job.pairs,
        "seed": job.seed,
        "change": job.change,
        "device": job.device,
        "before": before,
        "after": after,
        "moved": {name: moved.model_dump() for name, moved in made.record.moved.items()},
        "steps": settings["steps"],
        "batch_size": settings["batch_size"],
        "lr": settings["lr"],
        "seconds": seconds,
        "precision": settings["precision"],
        "threads": job.threads,
        "machine": machine() if job.device == "cpu" else f"{machine()}, {torch.cuda.get_device_name()}",
    }


def jobs(options: argparse.Namespace) -> list[Job]:
    zoo = models(options.models)
    if options.ablation:
        return [
            Job(model, "par-plus", "real", 0, options.data, options.threads, change, options.device)
            for change in CHANGES
            for model in zoo
            if model.name in CHANGED
        ]
    found = []
    for method in options.method or METHODS:
        for pairs in options.pairs or ("real", "synthetic"):
            for model in zoo:
                if options.only and model.name not in options.only:
                    continue
                if not model.planted and method not in ("par", "par-plus"):
                    continue
                more = SEEDS.get(method, {}).get(model.name, ()) if pairs == "real" else ()
                found += [
                    Job(model, method, pairs, seed, options.data, options.threads, device=options.device)
                    for seed in (0, *more)
                ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--pairs", action="append", choices=list(PAIRS))
    parser.add_argument("--only", action="append", metavar="MODEL")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--ablation", action="store_true", help="par-plus, one part changed at a time")
    parser.add_argument("--again", action="store_true")
    options = parser.parse_args()
    wanted = {job.key(): job for job in jobs(options)}
    kept: dict[str, Any] = json.loads(PLACE.read_text())["runs"] if PLACE.is_file() else {}
    missing = [(key, job) for key, job in wanted.items() if options.again or key not in kept]
    print(f"{len(wanted)} runs, {len(missing)} of them to do")
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        pending = {pool.submit(work, job): key for key, job in missing}
        for done in as_completed(pending):
            row = done.result()
            # Whatever other processes have kept meanwhile stays.
            kept = json.loads(PLACE.read_text())["runs"] if PLACE.is_file() else {}
            kept[pending[done]] = row
            content = {"version": __version__, "runs": dict(sorted(kept.items()))}
            write_atomic(PLACE, (json.dumps(content, indent=1) + "\n").encode())
            before, after = row["before"], row["after"]
            print(
                f"{row['model']:14} {row['method']:10} {row['pairs']:10} seed {row['seed']} {row['change']} accuracy "
                f"{before['accuracy']:.1%} → {after['accuracy']:.1%}  success "
                f"{before.get('success', float('nan')):.1%} → {after.get('success', float('nan')):.1%}  "
                f"{row['seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
