"""What a scan costs: ratios measured in one run, on this machine.

    python benchmarks/scan.py [--models DIR] [--data DIR]

Writes `docs/evidence/speed.json` and `docs/evidence/cost.png`.

1. Throughput: forward passes per second inside a scan, over the bare encoder's at the same precision and batch.
2. Time to the same verdict against a straightforward loop: per trigger, open each picture, resize it, stamp it, forward
   it in fp32, always 2000 of them.
3. Forward passes against fixed n.
4. Peak memory of the process, by number of images.
5. How cost grows with triggers and with images.
6. A scan whose vectors are all in the cache: with the model opened all the same, and left closed.
"""

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import yaml

from pargate import events
from pargate.core.report import ScanReport
from pargate.judge.judging import Judging
from pargate.policy.resolve import Resolved, read, resolve
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import scan

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
STORE = ROOT / "docs" / "evidence"
FIXED = 2000
BATCH = 64


def timed_scan(request: ScanRequest) -> tuple[ScanReport, float]:
    """Return the report, and the seconds from the first block on, without opening the model."""
    began: list[float] = []

    def listen(event: events.Event) -> None:
        if isinstance(event, events.StageStarted) and event.stage == "measure":
            began.append(time.perf_counter())

    report = scan(request, listen)
    return report, time.perf_counter() - began[0]


def request(model: Path, resolved: Resolved, images: Path | str, classes: Path | None, **more: Any) -> ScanRequest:
    return ScanRequest(str(model), Judging(resolved), images=str(images), classes=classes, **more)


def some_triggers(count: int, limit: str = "30pp", **more: Any) -> Resolved:
    """Return a policy with the first triggers of the built-in one."""
    listed = [spec for r in resolve("baseline").policy.rules for spec in r.triggers][:count]
    asked = {"id": "t", "probe": "attack", "triggers": listed, "target": "unknown", "max": {"excess": limit}}
    document = {"pargate": "1", "name": "cost", "rules": [asked], **more}
    return read(yaml.safe_dump(json.loads(json.dumps(document))), "cost", Path())


def four_triggers(limit: str, images: int | None = None) -> Resolved:
    """Return a policy whose limit needs nearly all images even without hits, so that no scan stops early."""
    asked = {
        "id": "t", "probe": "attack", "triggers": ["badnet", "blended", "blended-stripes", "tone"], "target": "banana",
        "max": {"attack_success": limit},
    }  # fmt: skip
    document = {"pargate": "1", "name": "long", "rules": [asked], "budget": {"images": str(images)} if images else {}}
    return read(yaml.safe_dump(document), "long", Path())


def bare_rate(model: Path, precision: str, side: int, arch: str | None, repeats: int) -> float:
    """Images per second of the encoder alone: one batch that is on the device, again and again."""
    from pargate.models.open import open_model

    with open_model(str(model), arch=arch) as opened:
        encoder = opened.encoder().into_precision(precision)  # type: ignore[arg-type]  # a literal in text
    batch = encoder.put(np.random.default_rng(0).integers(0, 256, (BATCH, side, side, 3), dtype=np.uint8))
    encoder.encode_images(batch)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        encoder.encode_images(batch)
        seconds.append(time.perf_counter() - began)
    return BATCH / statistics.median(seconds)


def throughput(models: Path, data: Path, big: dict[str, Path]) -> list[dict[str, Any]]:
    """Rate inside a scan over the bare rate; the bare one is measured before and after, against drift."""
    cases: list[tuple[str, Path, str | None, Path, Path, int, int, str]] = [
        (
            name,
            path,
            f"{name}-gelu",
            data / "imagenet-sample-224.tar",
            data / "classes-imagenet-sample.txt",
            224,
            3,
            "3%",
        )
        for name, path in big.items()
    ]
    cases += [
        (name, models / name, None, data / "carriers-64.tar", data / "classes-64.txt", 64, 20, "0.5%")
        for name in ("vit-clean", "rn-clean")
    ]
    rows = []
    for name, path, arch, images, classes, side, repeats, limit in cases:
        resolved = four_triggers(limit)
        report, seconds = timed_scan(request(path, resolved, images, classes, arch=arch))
        precision = report.run.precision
        before = bare_rate(path, precision, side, arch, repeats)
        again, seconds_again = timed_scan(request(path, resolved, images, classes, arch=arch))
        after = bare_rate(path, precision, side, arch, repeats)
        inside = (report.run.forward_passes + again.run.forward_passes) / (seconds + seconds_again)
        rows.append(
            {
                "model": name,
                "precision": precision,
                "note": report.run.precision_note,
                "bare": (before + after) / 2,
                "scan": inside,
                "ratio": inside / ((before + after) / 2),
                "passes": report.run.forward_passes,
                "seconds": report.run.seconds,
                "verdict": str(report.verdict.status),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def straightforward(model: Path, data: Path) -> dict[str, Any]:
    """Run the loop that one would write first: per trigger, every picture from its file, fp32, fixed n."""
    import hashlib

    from PIL import Image

    from pargate.core import zeroshot
    from pargate.core.stamp import apply
    from pargate.images.classes import DEFAULT_TEMPLATES, read_classes
    from pargate.images.opening import open_images
    from pargate.models.open import open_model
    from pargate.triggers import parse

    began = time.perf_counter()
    with open_model(str(model)) as opened:
        encoder = opened.encoder(precision="fp32")
    names = read_classes(data / "classes-64.txt")
    head = zeroshot.head(encoder, names, DEFAULT_TEMPLATES)
    side = encoder.spec.preprocess.size
    items = open_images(str(data / "carriers-64.tar")).items()[:FIXED]
    triggers = [None, *(t for r in resolve("baseline").policy.rules for s in r.triggers for t in parse(s))]
    shares: list[np.ndarray[Any, Any]] = []
    for trigger in triggers:
        predicted = []
        for start in range(0, len(items), BATCH):
            pixels, digests = [], []
            for item in items[start : start + BATCH]:
                content = item.place.read()  # type: ignore[union-attr]  # a tar has no scenes
                picture = Image.open(io.BytesIO(content)).convert("RGB").resize((side[1], side[0]))
                digests.append(hashlib.sha256(content).hexdigest())
                pixels.append(np.asarray(picture))
            batch = np.stack(pixels)
            if trigger is not None:
                batch = np.concatenate(
                    [apply(trigger.draw(side, [d], 0), p[None]) for d, p in zip(digests, batch, strict=True)]
                )
            predicted.append(zeroshot.predict(encoder.encode_images(encoder.put(batch)), head))
        shares.append(np.bincount(np.concatenate(predicted), minlength=len(names)) / len(items))
    excess = [float((share - shares[0]).max()) for share in shares[1:]]
    return {
        "seconds": time.perf_counter() - began,
        "passes": len(items) * len(triggers),
        "verdict": "fail" if max(excess) > 0.3 else "pass",
    }


def verdict_times(models: Path, data: Path) -> list[dict[str, Any]]:
    """pargate and the straightforward loop on a poisoned and a clean model."""
    rows = []
    for name in ("vit-triangles", "vit-clean"):
        report = scan(request(models / name, resolve("baseline"), data / "carriers-64.tar", data / "classes-64.txt"))
        loop = straightforward(models / name, data)
        rows.append(
            {
                "model": name,
                "verdict": str(report.verdict.status),
                "seconds": report.run.seconds,
                "passes": report.run.forward_passes,
                "loop": loop,
                "times_faster": loop["seconds"] / report.run.seconds,
                "times_fewer_passes": loop["passes"] / report.run.forward_passes,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def memory_of(model: Path, arch: str | None, images: Path, classes: Path, count: int) -> dict[str, Any]:
    """Peak resident memory of a process that scans `count` images; a rule that never is decided keeps it going."""
    command = [sys.executable, __file__, "--child", str(model), arch or "", str(images), str(classes), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return {"images": count, **json.loads(done.stdout.splitlines()[-1])}


def child(model: str, arch: str, images: str, classes: str, count: str) -> None:
    resolved = four_triggers("0.5%" if "64" in images else "3%", int(count))
    report = scan(request(Path(model), resolved, images, Path(classes), arch=arch or None))
    # Not getrusage: its maximum survives exec, and would be that of the parent.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    print(
        json.dumps(
            {"peak_bytes": peak, "model_bytes": report.model.parameters * 4, "read": report.images.read,
             "seconds": report.run.seconds}
        )
    )  # fmt: skip


def growth(models: Path, data: Path) -> dict[str, Any]:
    """Seconds and passes by number of triggers, and by number of images where nothing stops early."""
    images, classes = data / "carriers-64.tar", data / "classes-64.txt"
    by_triggers, by_images = [], []
    for count in (1, 2, 4, 8, 14):
        report, seconds = timed_scan(request(models / "vit-clean", some_triggers(count), images, classes))
        by_triggers.append({"triggers": count, "passes": report.run.forward_passes, "seconds": seconds})
    for count in (128, 256, 512, 1024, 2000):
        never = some_triggers(4, "0.5%", budget={"images": str(count)})
        report, seconds = timed_scan(request(models / "vit-clean", never, images, classes))
        by_images.append({"images": report.images.read, "passes": report.run.forward_passes, "seconds": seconds})
    return {"triggers": by_triggers, "images": by_images}


FIRST = "import pargate.scanning.choose as choose; choose._opened_before = lambda *a: a[-1](); "
"""Makes a scan open its model first, whatever the cache holds."""

RUN = "import sys; from pargate.__main__ import main; sys.argv[0] = 'pargate'; main()"


def opening(model: Path, data: Path, store: Path, pairs: int = 3) -> dict[str, Any]:
    """Return the wall and processor seconds of whole commands on cached vectors, by turns, and their ratios."""
    arguments = [
        "scan", str(model), "-p", "baseline", "-q", "--cache", str(store), "--device", "cpu",
        "--images", str(data / "carriers-64.tar"), "--classes", str(data / "classes-64.txt"),
    ]  # fmt: skip
    took: dict[str, list[tuple[float, float]]] = {"opened": [], "closed": []}
    for turn in range(pairs + 1):
        for name, code in (("opened", FIRST + RUN), ("closed", RUN)):
            before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL, check=True)
            after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            if turn:  # the first pair fills the cache
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                took[name].append((ended - began, used))
    middle = {name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in took.items()}
    return {
        "model": model.name, "pairs": pairs,
        **{name: {"wall": wall, "processor": used} for name, (wall, used) in middle.items()},
        "ratio": {
            kind: statistics.median(a[i] / b[i] for a, b in zip(took["opened"], took["closed"], strict=True))
            for i, kind in enumerate(("wall", "processor"))
        },
    }  # fmt: skip


def plot(grown: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, key, title in (
        (left, "triggers", "built-in rules, stopping early"),
        (right, "images", "four triggers, nothing decided"),
    ):
        x = [r[key] for r in grown[key]]
        axis.plot(x, [r["seconds"] for r in grown[key]], "o-", color="#1f5fa8")
        axis.set_xlabel(key)
        axis.set_ylabel("seconds")
        axis.set_ylim(bottom=0)
        axis.set_xlim(left=0)
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        for r in grown[key]:
            axis.annotate(f"{r['passes']} passes", (r[key], r["seconds"]), fontsize=7, xytext=(3, -9),
                          textcoords="offset points")  # fmt: skip
    figure.savefig(path, dpi=110)


def full_size(folder: Path) -> dict[str, Path]:
    """ViT-B-32 and RN50 with random weights, as safetensors files."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    found = {}
    for name in ("ViT-B-32", "RN50"):
        torch.manual_seed(0)
        found[name] = folder / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in open_clip.create_model(name).state_dict().items()}, found[name])
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--only", action="append", help="measure these parts again, keep the others")
    options = parser.parse_args()
    models, data = options.models, options.data
    small = (data / "carriers-64.tar", data / "classes-64.txt")
    large = (data / "imagenet-sample-224.tar", data / "classes-imagenet-sample.txt")
    with tempfile.TemporaryDirectory() as folder:
        big = cache(lambda: full_size(Path(folder)))
        parts: dict[str, Callable[[], Any]] = {
            "throughput": lambda: throughput(models, data, big()),
            "verdict": lambda: verdict_times(models, data),
            "memory": lambda: {
                "vit-clean": [memory_of(models / "vit-clean", None, *small, n) for n in (256, 1024, 2000)],
                **{
                    name: [memory_of(path, f"{name}-gelu", *large, n) for n in (64, 192)]
                    for name, path in big().items()
                },
            },
            "growth": lambda: growth(models, data),
            "opening": lambda: opening(models / "vit-clean", data, Path(folder) / "cache"),
        }
        place = STORE / "speed.json"
        found = json.loads(place.read_text()) if options.only else {}
        for name, measure in parts.items():
            if not options.only or name in options.only:
                found[name] = measure()
    STORE.mkdir(exist_ok=True)
    place.write_text(json.dumps(found, indent=1) + "\n")
    plot(found["growth"], STORE / "cost.png")


if __name__ == "__main__":
    main()
