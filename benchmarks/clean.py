"""What a step of cleaning costs: ratios to a plain step, and memory of large batches. One run, one machine.

    python -m benchmarks.clean [--models DIR] [--data DIR]

Writes `docs/evidence/cleaning-speed.json`.

1. Pairs per second of PAR's step here against a plain one written below: two forwards in fp32 with the towers as
   open_clip makes them, captions at full length, pictures decoded beforehand. Same model, batch, pairs and optimiser.
   The two take turns, and the ratio is of their medians.
2. Peak memory of a step with 2,048 pairs: all at once, and 128 at a time with the same negatives.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks.evidence import SHARED, STORE, machine
from pargate.version import __version__

PLACE = STORE / "cleaning-speed.json"
BATCH, STEPS, TURNS = 128, 6, 3


def setting(model: Path, pairs: str, **overrides: Any) -> tuple[Any, Any, Any]:
    """The checkpoint, the pairs and the configuration of a run."""
    from pargate.clean.config import Sizes, propose
    from pargate.data.pairs import open_pairs
    from pargate.encoders.inspect import open_checkpoint

    opened = open_checkpoint(str(model))
    source = open_pairs(pairs, seed=0)
    sizes = Sizes(opened.checkpoint.parameters, max(opened.checkpoint.preprocess.size), source.count, "cpu")
    return opened, source, propose("par", sizes, overrides=overrides).config


def ours(model: Path, pairs: str, steps: int, **overrides: Any) -> float:
    """Pairs per second of the loop that `pargate clean` runs, after a first run of the same length."""
    import torch

    from pargate import events
    from pargate.clean.distributed import Group
    from pargate.clean.loop import train
    from pargate.clean.state import StateStore
    from pargate.clean.towers import Towers
    from pargate.clean.views import Viewer
    from pargate.data.loader import PairLoader
    from pargate.encoders import openclip, towers

    opened, source, config = setting(model, pairs, steps=steps, save_every=10**6, **overrides)
    with opened:
        rule = opened.checkpoint.preprocess
        loaded = towers.load(opened)
        text = openclip.text_tower(loaded)
        both = Towers(loaded.get_submodule("visual"), text, openclip.embed)
        viewer = Viewer(
            config, rule, openclip.tokenizer(opened.checkpoint), lambda t: openclip.needed(text, t), torch.device("cpu"),
            None if source.count is None else source.count // config.batch_size,
        )  # fmt: skip
        scale = torch.nn.Parameter(loaded.get_parameter("logit_scale").detach().clone())
        moments = []

        def listen(event: events.Event) -> None:
            moments.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as place, PairLoader(
            source, rule, seed=0, batch=config.batch_size, last_step=steps
        ) as loader:  # fmt: skip
            store = StateStore(Path(place) / "state.pt", "", Group(), False)
            train(both, scale, loader, viewer, config, group=Group(), store=store, emit=listen)
    # The first step also sets up kernels and embeds captions that come again.
    return config.batch_size * (steps - 1) / (moments[-1] - moments[0]) if steps > 1 else 0.0


def plain(model: Path, pairs: str, steps: int) -> float:
    """Pairs per second of a plain PAR step."""
    import open_clip
    import torch
    from torch.nn import functional

    from pargate.data.loader import PairLoader

    opened, source, config = setting(model, pairs)
    rule = opened.checkpoint.preprocess
    loader = PairLoader(source, rule, seed=0, batch=BATCH, last_step=steps, workers=0)
    student = open_clip.create_model(f"local-dir:{model}").float()
    frozen = copy.deepcopy(student).eval().requires_grad_(False)
    student.logit_scale.requires_grad_(False)
    tokenize = open_clip.get_tokenizer(f"local-dir:{model}")
    optimiser = torch.optim.AdamW(student.parameters(), lr=config.lr, betas=config.betas, weight_decay=1e-4)
    mean, std = torch.tensor(rule.mean).view(1, 3, 1, 1), torch.tensor(rule.std).view(1, 3, 1, 1)
    ready = []
    for step in range(steps):
        batch = loader.batch(step)
        ready.append((torch.from_numpy(batch.pixels).permute(0, 3, 1, 2).contiguous(), list(batch.captions)))
    began = 0.0
    for step, (pixels, captions) in enumerate(ready):
        if step == 1:
            began = time.perf_counter()
        images = pixels.float() / 255
        noisy = torch.rand(len(images), 1, 1, 1) < 0.5
        images = (images + noisy * (torch.randn_like(images) * 0.2).clamp(0, 1)).clamp(max=1)
        images = (images - mean) / std
        tokens = tokenize(captions)
        with torch.no_grad():
            old_images = frozen.encode_image(images, normalize=True)
            old_texts = frozen.encode_text(tokens, normalize=True)
        new_images = student.encode_image(images, normalize=True)
        new_texts = student.encode_text(tokens, normalize=True)
        logits = student.logit_scale.exp() * new_images @ new_texts.T
        labels = torch.arange(len(logits))
        loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
        for new, old in ((new_images, old_images), (new_texts, old_texts)):
            shift = (new - old).square().sum(1).mean()
            if shift <= config.tau:
                loss = loss - shift / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()
    return BATCH * (steps - 1) / (time.perf_counter() - began)


def ratio(model: Path, pairs: str) -> dict[str, Any]:
    """Both, taking turns."""
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(TURNS):
        rates["ours"].append(ours(model, pairs, STEPS, batch_size=BATCH))
        rates["plain"].append(plain(model, pairs, STEPS))
        print(f"{model.name}: {rates['ours'][-1]:.0f} against {rates['plain'][-1]:.0f} pairs/s", flush=True)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    each = sorted(a / b for a, b in zip(rates["ours"], rates["plain"], strict=True))
    return {"model": model.name, **middle, "ratio": middle["ours"] / middle["plain"], "span": [each[0], each[-1]]}


def memory(model: Path, pairs: str, micro_batch: int) -> dict[str, Any]:
    """Peak resident memory of a process that takes one step with 2,048 pairs."""
    command = [sys.executable, "-m", "benchmarks.clean", "--child", str(model), pairs, str(micro_batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"model": model.name, "micro_batch": micro_batch, **json.loads(done.stdout.splitlines()[-1])}


def child(model: str, pairs: str, micro_batch: str) -> None:
    began = time.perf_counter()
    ours(Path(model), pairs, 1, batch_size=2048, micro_batch=int(micro_batch))
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    print(json.dumps({"peak_bytes": peak, "seconds": time.perf_counter() - began}))


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    options = parser.parse_args()
    pairs = str(options.data / "pairs-64.tar")
    import torch

    found = {
        "version": __version__,
        "machine": f"{machine()}, {torch.get_num_threads()} threads",
        "steps": [ratio(options.models / name, pairs) for name in ("vit-clean", "rn-clean")],
        "memory": [
            memory(options.models / name, pairs, size) for name in ("vit-clean", "rn-clean") for size in (2048, 128)
        ],
    }
    PLACE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
