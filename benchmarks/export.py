"""What graphs cost and gain: ONNX Runtime against torch on the processor, and what an export takes.

    python benchmarks/export.py [--models FOLDER] [--threads N]

Writes `docs/evidence/export.json`. Both runtimes get the same pictures in turn, in one process and on as many threads,
and ratios are of medians of the processor time of the whole process, which other programs on the machine change little.
Each export runs in a process of its own, whose peak of memory is its own. Architectures have random weights: they cost
what trained ones cost.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pargate.version import __version__

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "evidence"
ROUNDS = 5
SPEED = ("ViT-B-32",)
SIZES = ("RN50", "ViT-B-32", "ViT-L-14")
BATCH = 32


def random_model(arch: str, folder: Path) -> str:
    """Write a folder with random weights of an architecture of open_clip."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from pargate.models.config import architecture

    place = folder / arch
    if not place.is_dir():
        place.mkdir()
        torch.manual_seed(0)
        state = open_clip.create_model(arch).state_dict()
        save_file(
            {key: value.contiguous().clone() for key, value in state.items()}, place / "open_clip_model.safetensors"
        )
        (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": architecture(arch)}))
    return str(place)


def size_of(model: str) -> int:
    return sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))


def export(model: str, out: str, precisions: list[str]) -> dict[str, Any]:
    """In a process of its own: processor seconds and peak memory of opening and writing a model."""
    script = f"""
import json, time
from pathlib import Path
import torch
from pargate.models.open import open_model
from pargate.export import folder, onnx
def high():  # the kernel's mark for this program alone; what getrusage says is inherited
    return next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) / 1024
began = time.process_time()
with open_model({model!r}) as found:
    encoder = found.encoder(device="cpu")
    before = high()
    opened = time.process_time()
    Path({out!r}).mkdir()
    folder.write(encoder, found.checkpoint, Path({out!r}), precisions={precisions!r}, classes=["a", "b"], templates=["a {{}}"])
done = time.process_time()
peak = high()
print(json.dumps({{"open_processor_s": opened - began, "export_processor_s": done - opened, "peak_open_mb": before, "peak_mb": peak}}))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def in_turn(runs: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Processor seconds of each, round by round: whatever disturbs the machine meets all of them."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            began = time.process_time()
            run()
            times[name].append(time.process_time() - began)
    return times


def speed(model: str, name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Images and captions a second by each runtime, and how alike the vectors are."""
    import numpy as np
    import torch

    from pargate.export import folder as writer
    from pargate.export import onnx as graphs
    from pargate.models.open import open_model

    torch.set_num_threads(threads)
    with open_model(model) as found:
        encoder = found.encoder(device="cpu")
        options: Any = {"classes": ["a", "b"], "templates": ["a {}"]}
        places = dict(
            writer.write(
                encoder, found.checkpoint, _new(folder / f"{name}-speed"), precisions=("fp32", "int8"), **options
            )
        )
        respelt, graphs._respelt = graphs._respelt, lambda tower: tower
        places["as torch spells it"] = writer.write(
            encoder, found.checkpoint, _new(folder / f"{name}-plain"), **options
        )["fp32"]
        graphs._respelt = respelt
    encoders = {}
    for key, place in places.items():
        with open_model(str(place)) as found:
            encoders[key] = found.graph_encoder(device="cpu", threads=threads)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *encoder.spec.preprocess.size, 3), dtype=np.uint8)
    texts = [f"a photo of a dog and {n} cats" for n in range(BATCH)]
    batch = encoder.put(pixels)
    images = {"torch": lambda: encoder.encode_images(batch)}
    captions = {"torch": lambda: encoder.encode_texts(texts)}
    for key, other in encoders.items():
        images[key] = lambda other=other: other.encode_images(pixels)
        captions[key] = lambda other=other: other.encode_texts(texts)
    wanted, worded = images["torch"](), captions["torch"]()
    result: dict[str, Any] = {"batch": BATCH, "threads": threads, "rounds": ROUNDS}
    for what, runs in (("images", images), ("captions", captions)):
        times = in_turn(runs)
        base = statistics.median(times["torch"])
        result[what] = {
            key: {
                "per_processor_second": BATCH / statistics.median(seconds),
                "ratio": base / statistics.median(seconds),
                "ratios_by_round": [a / b for a, b in zip(times["torch"], seconds, strict=True)],
            }
            for key, seconds in times.items()
        }
    for key, other in encoders.items():
        result["images"][key]["min_cosine"] = float((wanted * other.encode_images(pixels)).sum(axis=1).min())
        result["captions"][key]["min_cosine"] = float((worded * other.encode_texts(texts)).sum(axis=1).min())
    return result


def _new(path: Path) -> Path:
    path.mkdir()
    return path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, help="a folder of open_clip folders to measure as well")
    parser.add_argument("--threads", type=int, default=1, help="with more than one, waiting counts as well")
    given = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `pargate scan` sets it
    import onnxruntime
    import torch

    threads = given.threads
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = {arch: random_model(arch, folder) for arch in SIZES}
        trained = (
            {p.name: str(p) for p in sorted(given.models.iterdir()) if p.name.endswith("-clean")}
            if given.models
            else {}
        )
        found: dict[str, Any] = {
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
            "version": __version__,
            "load": os.getloadavg(),
            "versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__},
            "export": {},
            "speed": {},
        }
        for key, model in {**{arch: known[arch] for arch in SPEED}, **trained}.items():
            found["speed"][key] = speed(model, key, folder, threads)
            keep(found)
        for key, model in {**trained, **known}.items():
            out = str(folder / f"{key}-out")
            found["export"][key] = {"model_mb": size_of(model) / 1e6, **export(model, out, ["fp32"])}
            keep(found)


def keep(found: dict[str, Any]) -> None:
    (STORE / "export.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
