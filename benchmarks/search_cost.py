"""The time of a search against that of the bare tower: passes forward and backward, the same batch, by turns.

    python -m benchmarks.search_cost [--models DIR] [--rounds N]

Writes `docs/evidence/search-cost.json`. ViT-B-32 has random weights; both search the family `blend` on drawn noise.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

from benchmarks.evidence import SHARED, STORE, machine
from pargate.models.inmemory import of_network
from pargate.models.open import open_model
from pargate.models.torch import search as ascent
from pargate.models.torch.encoder import OpenClipEncoder
from pargate.version import __version__

FAMILY = "blend"
SMALL = ("vit-clean", "rn-clean")


def bare(encoder: OpenClipEncoder, values: torch.Tensor, passes: int) -> float:
    """Return the processor seconds of `passes` images forward and backward through the tower alone."""
    at_once = max(ascent.BATCH, ascent.PIXELS["cpu"] // values[0, :, :, 0].numel())
    batch = values[torch.arange(at_once) % len(values)].requires_grad_()
    began = time.process_time()
    for _ in range(0, passes, len(batch)):
        torch.autograd.grad(encoder.embed_values(batch).square().sum(), batch)
    return time.process_time() - began


def measured(encoder: OpenClipEncoder, images: int, rounds: int) -> dict[str, Any]:
    """Return the rates of a search and of the bare tower, and their ratio by rounds."""
    height, width = encoder.spec.preprocess.size
    pixels = np.random.default_rng(0).integers(0, 256, (images, height, width, 3), dtype=np.uint8)
    values = encoder.put(pixels).float().div(255)
    climb = ascent.CLIMBS[FAMILY]
    passes = climb.restarts * ascent.BATCH * climb.steps + ascent.FINALISTS * ascent.FINAL_BATCH * climb.final_steps
    searched, alone = [], []
    for number in range(rounds):
        alone.append(bare(encoder, values, passes))
        began = time.process_time()
        ascent.climbed(encoder, values, FAMILY, number, lambda done, total: None)
        searched.append(time.process_time() - began)
    ratios = [one / other for one, other in zip(alone, searched, strict=True)]
    return {
        "passes": passes,
        "searched": passes / statistics.median(searched),
        "bare": passes / statistics.median(alone),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.manual_seed(0)
    rows = {}
    for name in SMALL:
        with open_model(str(given.models / name)) as model:
            rows[name] = measured(model.encoder(device="cpu"), 128, given.rounds)
        print(name, rows[name], flush=True)
    # Two steps each: a whole search of a large model takes minutes.
    ascent.CLIMBS[FAMILY] = replace(ascent.CLIMBS[FAMILY], steps=2, final_steps=2)
    network, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32")
    model = of_network(network.eval(), preprocess, open_clip.get_tokenizer("ViT-B-32"))
    rows["ViT-B-32"] = measured(model.encoder(device="cpu"), 32, 1)
    print("ViT-B-32", rows["ViT-B-32"], flush=True)
    content = {"machine": machine(), "version": __version__, "rows": rows}
    (STORE / "search-cost.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
