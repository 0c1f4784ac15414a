"""What a step of cleaning costs: ratios to a plain step, and memory of large batches. One run, one machine.

    python -m benchmarks.clean [--device cpu|cuda] [--models DIR] [--data DIR]

Writes `docs/evidence/cleaning-speed.json`, a section for each machine.

1. Pairs per second of `pargate clean --method par` against a plain step written below: two forwards in fp32 with the
   towers as open_clip makes them, captions at full length, pictures decoded anew in each epoch by a worker. Same model,
   batch, optimiser and pairs. The two take turns, and the ratio is of their medians.
2. Peak memory of a step with 2,048 pairs: all at once, and in parts with the same negatives.

ViT-B-32 and RN50 have random weights, which cost what trained ones cost; the small models are trained ones.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks.evidence import SHARED, STORE, machine
from benchmarks.export import random_model
from pargate.errors import OperationalError
from pargate.files import write_atomic
from pargate.version import __version__

PLACE = STORE / "cleaning-speed.json"
Device = Literal["cpu", "cuda"]
LARGE = 2048
FULL = ("ViT-B-32", "RN50")
"""Models of full size."""


@dataclass(frozen=True)
class Case:
    """One ratio."""

    model: str
    batch: int
    steps: int
    """That count."""
    later: bool = False
    """Whether they are of the second epoch on, when pictures are decoded; else the first ones."""
    views: int | None = None
    """Different augmentations of a picture; None for a new one each time, as published."""

    @property
    def told(self) -> str:
        when = "later epochs" if self.later else "first epoch"
        return when if self.views is None else f"{when}, `--views {self.views}`"


@dataclass(frozen=True)
class Setting:
    """What is measured on a kind of device."""

    cases: tuple[Case, ...]
    large: tuple[str, ...]
    """Models that take a step with `LARGE` pairs."""
    part: int
    """Pairs at a time of the step that saves memory."""


SMALL = ("vit-clean", "rn-clean")
SETTINGS = {
    "cpu": Setting(
        (
            *(Case(model, 128, 12) for model in SMALL),
            *(Case(model, 128, 24, later=True) for model in SMALL),
            *(Case(model, 128, 24, later=True, views=1) for model in SMALL),
            Case("ViT-B-32", 16, 4),
        ),
        SMALL,
        128,
    ),
    "cuda": Setting(tuple(Case(model, 256, 12) for model in FULL), FULL, 256),
}
TURNS = 3


def ours(model: str, pairs: str, device: Device, steps: int, skipped: int, **overrides: Any) -> tuple[float, str]:
    """Pairs per second of `steps` steps of `pargate clean` after `skipped` ones, and the arithmetic it chose."""
    from pargate import events
    from pargate.clean.request import CleanRequest
    from pargate.clean.run import clean

    moments = [time.perf_counter()]

    def listen(event: events.Event) -> None:
        if isinstance(event, events.TrainStep):
            moments.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as place:
        made = clean(
            CleanRequest(
                model, pairs, Path(place) / "cleaned", datetime.now(UTC).isoformat(timespec="seconds"),
                overrides={"steps": skipped + steps, "save_every": 10**6, **overrides}, device=device,
            ),
            listen,
        )  # fmt: skip
    assert made is not None
    settings = made.record.configuration
    return settings["batch_size"] * steps / (moments[-1] - moments[skipped]), str(settings["precision"])


def plain(model: str, pairs: str, device: Device, steps: int, batch: int) -> float:
    """Pairs per second of `steps` plain PAR steps after a first one."""
    import open_clip
    import torch
    from torch.nn import functional

    from pargate.clean.config import propose
    from pargate.clean.run import sizes_of
    from pargate.images.opening import open_pairs
    from pargate.images.prefetch import BatchOrder, PairLoader
    from pargate.models.open import inspect

    checkpoint = inspect(model)
    source = open_pairs(pairs, seed=0)
    sizes = sizes_of(checkpoint, source, device)
    config = propose("par", sizes, overrides={"batch_size": batch}).config
    rule = checkpoint.preprocess
    student = open_clip.create_model(f"local-dir:{model}").float().to(device)
    frozen = copy.deepcopy(student).eval().requires_grad_(False)
    student.logit_scale.requires_grad_(False)
    tokenize = open_clip.get_tokenizer(f"local-dir:{model}")
    optimiser = torch.optim.AdamW(student.parameters(), lr=config.lr, betas=config.betas, weight_decay=1e-4)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (rule.mean, rule.std))
    began = 0.0
    with PairLoader(source, rule, BatchOrder(source.count, 0, batch), range(steps + 1), store_bytes=0) as loader:
        for step in range(steps + 1):
            if step == 1:
                began = time.perf_counter()
            pair = loader.batch(step)
            tokens = tokenize(list(pair.captions)).to(device)
            images = torch.from_numpy(pair.pixels).to(device).permute(0, 3, 1, 2).contiguous().float() / 255
            noisy = torch.rand(len(images), 1, 1, 1, device=device) < 0.5
            images = (images + noisy * (torch.randn_like(images) * 0.2).clamp(0, 1)).clamp(max=1)
            images = (images - mean) / std
            with torch.no_grad():
                old_images = frozen.encode_image(images, normalize=True)
                old_texts = frozen.encode_text(tokens, normalize=True)
            new_images = student.encode_image(images, normalize=True)
            new_texts = student.encode_text(tokens, normalize=True)
            logits = student.logit_scale.exp() * new_images @ new_texts.T
            labels = torch.arange(len(logits), device=device)
            loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
            for new, old in ((new_images, old_images), (new_texts, old_texts)):
                shift = (new - old).square().sum(1).mean()
                if shift <= config.tau:
                    loss = loss - shift / 2
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()
    return batch * steps / (time.perf_counter() - began)


def ratio(case: Case, model: str, pairs: str, device: Device) -> dict[str, Any]:
    """Both, taking turns."""
    from pargate.images.opening import open_pairs

    count = open_pairs(pairs, seed=0).count
    assert count is not None
    # The first step also sets up kernels and embeds captions that come again.
    skipped = 1 + (count // case.batch if case.later else 0)
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    asked = {"batch_size": case.batch, "views": case.views}
    # Not counted: the first run on a machine also reads programs from the disk and sets up kernels.
    _, precision = ours(model, pairs, device, 1, 1, **asked)
    for _ in range(TURNS):
        rate, _ = ours(model, pairs, device, case.steps, skipped, **asked)
        rates["ours"].append(rate)
        rates["plain"].append(plain(model, pairs, device, case.steps, case.batch))
        print(
            f"{case.model}, {case.told}: {rate:.1f} ({precision}) against {rates['plain'][-1]:.1f} pairs/s", flush=True
        )
    middle = {name: statistics.median(values) for name, values in rates.items()}
    each = sorted(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True))
    return {
        "model": case.model, "when": case.told, "precision": precision, "batch": case.batch, **middle,
        "ratio": middle["ours"] / middle["plain"], "span": [each[0], each[-1]],
    }  # fmt: skip


def memory(model: str, pairs: str, device: Device, micro_batch: int) -> dict[str, Any]:
    """Peak memory of a process that takes one step with 2,048 pairs: resident, or on the GPU what was allocated."""
    command = [sys.executable, "-m", "benchmarks.clean", "--child", model, pairs, device, str(micro_batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"a step with {micro_batch} of {LARGE} pairs at a time failed:\n{done.stderr[-2000:]}")
    found = {"model": Path(model).name, "micro_batch": micro_batch, **json.loads(done.stdout.splitlines()[-1])}
    print(found, flush=True)
    return found


def child(model: str, pairs: str, device: Device, micro_batch: str) -> None:
    import torch

    began = time.perf_counter()
    try:
        ours(model, pairs, device, 1, 0, batch_size=LARGE, micro_batch=int(micro_batch))
    except OperationalError as error:
        print(json.dumps({"problem": f"{error.message}: {error.hint}"}))
        return
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        status = Path("/proc/self/status").read_text()
        peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    print(json.dumps({"peak_bytes": peak, "seconds": time.perf_counter() - began}))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(SETTINGS), default="cpu")
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--no-memory", action="store_true", help="the ratios alone; what was kept of memory stays")
    options = parser.parse_args()
    pairs, device = str(options.data / "pairs-64.tar"), options.device
    import torch

    setting = SETTINGS[device]
    own = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    name = torch.cuda.get_device_name() if device == "cuda" else own
    with tempfile.TemporaryDirectory() as place:
        names = dict.fromkeys([*(case.model for case in setting.cases), *setting.large])
        models = {m: random_model(m, Path(place)) if m in FULL else str(options.models / m) for m in names}
        where = f"{machine()}, {name}"
        earlier = kept().get(where, {}).get("memory", []) if options.no_memory else []
        section: dict[str, Any] = {"device": device, "machine": where, "steps": [], "memory": earlier}
        for case in setting.cases:
            section["steps"].append(ratio(case, models[case.model], pairs, device))
            keep(section)
        gc.collect()
        torch.cuda.empty_cache()  # or what is left of the rates on the GPU is missing in what follows
        for model in setting.large if not options.no_memory else ():
            for size in (LARGE, setting.part):
                section["memory"].append(memory(models[model], pairs, device, size))
                keep(section)


def kept() -> dict[str, Any]:
    """Return the results of earlier runs, by machine."""
    found: dict[str, Any] = json.loads(PLACE.read_text())["sections"] if PLACE.is_file() else {}
    return found


def keep(section: dict[str, Any]) -> None:
    """Write what is known so far, lest a run that is cut short leave nothing."""
    sections = {**kept(), section["machine"]: section}
    content = {"version": __version__, "sections": dict(sorted(sections.items()))}
    write_atomic(PLACE, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
