"""Load a file of the size of ViT-B-32 with pargate and with the tool that it is made for, and compare time and memory.

    python -m benchmarks.loading [--repeats N] [--files FOLDER]

The weights are random. The tools take turns, each in a process of its own that has imported its libraries before and
finds the file in the system's cache. Each loads the model with its tokenizer and preprocessing and embeds one image and
one caption, since transformers reads weights only when they are used. Time is that of one processor; memory is the
largest resident size meanwhile, less that before. `--files` keeps the files for the next run. Writes `docs/evidence/loading.json`.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAME = "ViT-B-32"
LAYOUTS = {"safetensors": "open_clip", "torch zip": "open_clip", "transformers folder": "transformers"}
"""The tool that each layout is made for."""


def status(field: str) -> float:
    """Return the MiB of a field of this process, such as VmRSS."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", text).group(1)) / 1024


def loaders(layout: str, place: Path) -> dict[str, Callable[[], Any]]:
    """Return the ways to load a layout and embed one image and one caption; each has imported what it needs."""
    import numpy as np
    import open_clip
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    from pargate.images.decode import fit
    from pargate.models.open import open_model
    from pargate.models.torch.encoder import OpenClipEncoder  # noqa: F401 - imported before the clock starts

    image, caption = Image.new("RGB", (300, 200)), "a photo of a cat"

    def with_pargate() -> Any:
        model = open_model(str(place), arch=NAME if place.is_file() else None)
        encoder = model.encoder(device="cpu")
        encoder.encode_images(encoder.put(np.stack([fit(image, model.checkpoint.preprocess)])))
        encoder.encode_texts([caption])
        return encoder

    def with_open_clip() -> Any:
        named = (
            {"model_name": NAME, "pretrained": str(place)} if place.is_file() else {"model_name": f"local-dir:{place}"}
        )
        model, _, prepare = open_clip.create_model_and_transforms(**named)
        with torch.inference_mode():
            model.eval().encode_image(prepare(image)[None])
            model.encode_text(open_clip.get_tokenizer(NAME)([caption]))
        return model

    def with_transformers() -> Any:
        model, prepare = CLIPModel.from_pretrained(place).eval(), CLIPProcessor.from_pretrained(place)
        with torch.inference_mode():
            model(**prepare(text=[caption], images=image, return_tensors="pt", padding=True))
        return model

    tool = LAYOUTS[layout]
    return {"pargate": with_pargate, tool: {"open_clip": with_open_clip, "transformers": with_transformers}[tool]}


def child(layout: str, place: Path, tool: str) -> None:
    """Load and embed once, and print what it cost."""
    import torch

    torch.set_num_threads(1)
    load = loaders(layout, place)[tool]
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the largest size counts from here
    began, used = time.perf_counter(), time.process_time()
    kept = load()
    took = {"seconds": time.perf_counter() - began, "processor": time.process_time() - used}
    took["mib"], took["process_mib"] = status("VmHWM") - before, status("VmHWM")
    del kept
    print(json.dumps(took))


def written(folder: Path) -> dict[str, Path]:
    """Write the same random weights in every layout, unless they are there already."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from benchmarks.layouts import as_transformers, layouts

    places = {
        "safetensors": folder / "open_clip",
        "torch zip": folder / "model.pt",
        "transformers folder": folder / "clip",
    }
    if all(place.exists() for place in places.values()):
        return places
    torch.manual_seed(0)
    state = {k: v.contiguous() for k, v in open_clip.create_model(NAME).state_dict().items()}
    config = open_clip.get_model_config(NAME)
    places["safetensors"].mkdir(parents=True)
    save_file(state, places["safetensors"] / "open_clip_model.safetensors")
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    (places["safetensors"] / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}})
    )
    torch.save(state, places["torch zip"])
    layouts.transformers_folder(as_transformers(config, state), places["transformers folder"])
    return places


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--child", nargs=3)
    asked = parser.parse_args()
    if asked.child:
        layout, place, tool = asked.child
        child(layout, Path(place), tool)
        return
    from benchmarks.evidence import STORE, machine
    from pargate.version import __version__

    rows: dict[str, Any] = {}
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        for layout, place in written(asked.files or Path(scratch)).items():
            found: dict[str, list[dict[str, float]]] = {"pargate": [], LAYOUTS[layout]: []}
            for number in range(asked.repeats):
                for tool in sorted(found, reverse=number % 2 == 1):
                    said = subprocess.run(
                        [sys.executable, "-m", "benchmarks.loading", "--child", layout, str(place), tool],
                        cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True, text=True,
                    ).stdout  # fmt: skip
                    found[tool].append(json.loads(said.splitlines()[-1]))
                    print(layout, tool, found[tool][-1], flush=True)
            rows[layout] = {
                tool: {key: round(statistics.median(one[key] for one in runs), 2) for key in runs[0]}
                for tool, runs in found.items()
            }
    whole = {"machine": machine(), "version": __version__, "model": NAME, "repeats": asked.repeats, "rows": rows}
    (STORE / "loading.json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
