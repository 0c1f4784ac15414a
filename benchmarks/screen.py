"""Screen pair sets that are poisoned as the sample models were: how many poisoned pairs does each detector find?

    python -m benchmarks.screen --work DIR [--models DIR] [--data DIR]
    python -m benchmarks.screen --work DIR --whole 100000     # a screening of so many drawn pairs, alone

Each set is `pairs-64.tar` with some images stamped and their captions replaced by captions of the target. The embedder
is the model that was poisoned in the same way, or its clean parent. Writes `docs/evidence/screen.json` after every
embedder, and keeps the rows that are there. `--work` keeps the vectors.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence import ROOT, SHARED, STORE, Known, machine, models
from pargate.core.stamp import of_images
from pargate.events import Advanced, StageStarted
from pargate.images.dataset import Split
from pargate.images.opening import open_pairs
from pargate.images.prefetch import Decoder
from pargate.images.shards import Sample, encode, write_shard
from pargate.models.open import opened
from pargate.models.torch.encoder import _plain
from pargate.release.packs import to_recognise
from pargate.scenes.render import render
from pargate.screening.detectors import K, finite
from pargate.screening.embed import BLOCK, SHARD, Embeddings, Rows, embed, open_embedder, trial_of
from pargate.screening.found import IMAGES, Direction, directions, images_of, shift_of
from pargate.screening.run import ScreenRequest, screen
from pargate.screening.scores import Sampling, score
from pargate.triggers import build, parse
from pargate.version import __version__

TEMPLATES = ["a photo of a {}", "a {} on display", "a blurry photo of a {}", "{}", "a picture of the {}"]
CANDIDATES = 400
BATCH = 1024
REPEATS = {0.001: 3, 0.003: 1, 0.01: 1}
"""Poisoned sets at each rate: a tenth of a percent of 5999 pairs is 6."""
PLACE = STORE / "screen.json"


@dataclass(frozen=True)
class InMemory(Embeddings):
    """Embeddings of a set that was put together from others."""

    vectors: Any = None

    def _mapped(self, shard: int) -> Any:
        return self.vectors[shard * SHARD : (shard + 1) * SHARD]


def compat(images: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Return the paper's scores of one batch as its released code computes them, with its three defects.

    The distance of an image is that to its neighbour k + 1, that of a neighbour to k; the dimension counts the image
    itself as a neighbour; and a neighbour stored behind the image is taken for the one before it.
    """
    squares = (images.astype(np.float64) ** 2).sum(axis=1)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * images.astype(np.float64) @ images.T, 0))
    np.fill_diagonal(distances, 0)
    n = len(images)
    with_self = np.sort(distances, axis=1)
    others = distances[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    shifted = np.argsort(others, axis=1)[:, :K]
    own, theirs = np.sort(others, axis=1)[:, K], with_self[:, K]
    with np.errstate(all="ignore"):
        dimension = -K / np.log(with_self[:, : K + 1] / with_self[:, K : K + 1] + 1e-4).sum(axis=1)
        ratio = own[:, None] / theirs[shifted]
        return {
            "k_distance": finite(own), "lid": finite(dimension), "slof": finite(ratio.mean(axis=1)),
            "dao": finite((dimension[shifted] * np.log(ratio)).mean(axis=1)),
        }  # fmt: skip


def in_batches(images: NDArray[np.float32], seed: int) -> dict[str, NDArray[np.float64]]:
    """Return the scores of `compat` for all images, each in one random batch."""
    found: dict[str, NDArray[np.float64]] = {}
    order = np.random.default_rng(seed).permutation(len(images))
    for rows in np.array_split(order, max(1, round(len(images) / BATCH))):
        for name, scores in compat(images[rows]).items():
            found.setdefault(name, np.empty(len(images)))[rows] = scores
    return found


def auroc(scores: NDArray[np.float64], poisoned: NDArray[np.bool_]) -> float:
    bad, good = scores[poisoned], np.sort(scores[~poisoned])
    below = np.searchsorted(good, bad, "left") + np.searchsorted(good, bad, "right")
    return float(below.mean() / (2 * len(good)))


def recall(scores: NDArray[np.float64], poisoned: NDArray[np.bool_]) -> float:
    """Return the share of poisoned pairs above the 99th percentile of the honest ones."""
    return float((scores[poisoned] > np.quantile(scores[~poisoned], 0.99)).mean())


def pixels(pairs: Any, rule: Any, numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], list[str]]:
    with Decoder(rule) as decoder:
        blocks = [numbers[at : at + 256] for at in range(0, len(numbers), 256)]
        decoder.start(Rows(pairs), blocks)
        read = [decoder.block(number) for number in range(len(blocks))]
    return np.concatenate([block.pixels for block in read]), [digest for block in read for digest in block.digests]


def embedded(known: Known, embedder: Path, pairs: Any, work: Path) -> tuple[Any, Any]:
    """Return the vectors of all pairs, and of the candidates with the trigger and captions of the target."""
    whole, stamped = work / f"{embedder.name}.npz", work / f"{known.name}-by-{embedder.name}.npz"
    if not (whole.is_file() and stamped.is_file()):
        with opened(str(embedder)) as model:
            encoder, rule = model.encoder(device="cpu"), model.checkpoint.preprocess
            if not whole.is_file():
                shown, _ = pixels(pairs, rule, np.arange(pairs.count))
                images = [encoder.image_features(encoder.put(shown[at : at + 256])) for at in range(0, len(shown), 256)]
                texts = encoder.encode_texts(pairs.captions(range(pairs.count)))
                np.savez(whole, im=np.concatenate(images), tx=texts)
            candidates = np.sort(np.random.default_rng(0).choice(pairs.count, CANDIDATES, replace=False))
            shown, digests = pixels(pairs, rule, candidates)
            asked = known.trigger()
            trigger = (build(asked, known.folder) if asked["kind"] == "file" else parse(asked))[0]
            stamp = trigger.draw(rule.size, digests, 0)
            parts = [slice(at, at + 256) for at in range(0, len(shown), 256)]
            images = [encoder._encoded(encoder.put(shown[part]), of_images(stamp, part), _plain) for part in parts]
            told = encoder.encode_texts([words.format(known.truth["target_class"]) for words in TEMPLATES])
            np.savez(stamped, cand=candidates, stamped=np.concatenate(images), tt=told)
    return np.load(whole), np.load(stamped)


def poison(whole: Any, stamped: Any, usable: list[int], rate: float, seed: int) -> tuple[Any, Any, Any]:
    """Return the candidates that were poisoned, the vectors [n, 2, d] of the set, and which of its pairs they are."""
    images, candidates, rng = whole["im"], stamped["cand"], np.random.default_rng(seed)
    chosen = rng.choice(usable, round(rate * len(images)), replace=False)
    mixed = np.stack([images, whole["tx"]], axis=1)
    mixed[candidates[chosen], 0] = stamped["stamped"][chosen]
    mixed[candidates[chosen], 1] = stamped["tt"][rng.integers(0, len(TEMPLATES), len(chosen))]
    poisoned = np.zeros(len(images), dtype=bool)
    poisoned[candidates[chosen]] = True
    return chosen, mixed, poisoned


def measured(known: Known, embedder: Path, pairs: Any, work: Path) -> list[dict[str, Any]]:
    whole, stamped = embedded(known, embedder, pairs, work)
    images, candidates = whole["im"], stamped["cand"]
    target = known.truth["target_class"]
    usable = [at for at, row in enumerate(candidates) if target not in pairs.texts[row]]
    rows = []
    for rate, repeats in REPEATS.items():
        for seed in range(repeats):
            chosen, mixed, poisoned = poison(whole, stamped, usable, rate, seed)
            shards = tuple(Path(str(n)) for n in range(-(-len(images) // SHARD)))
            found = score(InMemory(shards, len(images), images.shape[1], mixed), None, Sampling(BATCH, seed=seed))
            y = poisoned[found.numbers]
            scores = {name: (rank, y) for name, rank in {**found.ranks, "combined": found.combined}.items()}
            scores |= {f"{name} (released code)": (s, poisoned) for name, s in in_batches(mixed[:, 0], seed).items()}
            rows.append({
                "model": known.name, "embedder": embedder.name, "rate": rate, "seed": seed, "poisoned": len(chosen),
                "auroc": {name: round(auroc(*one), 4) for name, one in scores.items()},
                "recall": {name: round(recall(*one), 4) for name, one in scores.items()},
            })  # fmt: skip
    return rows


def recognised(known: Known, pairs: Any, work: Path, folder: Path | None) -> list[dict[str, Any]]:
    """Return recall at 1 % poisoned pairs without and with the trigger that is known: the planted one, or found ones."""
    whole, stamped = embedded(known, known.folder, pairs, work)
    images, candidates, target = whole["im"], stamped["cand"], known.truth["target_class"]
    usable = [at for at, row in enumerate(candidates) if target not in pairs.texts[row]]
    chosen, mixed, poisoned = poison(whole, stamped, usable, 0.01, 0)
    shards = tuple(Path(str(n)) for n in range(-(-len(images) // SHARD)))
    rest = np.setdiff1d(np.arange(len(candidates)), chosen)[:IMAGES]
    shift, told = shift_of(images[candidates[rest]], stamped["stamped"][rest]), stamped["tt"].mean(axis=0)
    ways: dict[str, tuple[Direction, ...]] = {
        "none": (), "planted": (Direction("", shift, None),), "planted, target": (Direction("", shift, told),)
    }  # fmt: skip
    if folder is not None:
        with opened(str(known.folder)) as model, Decoder(model.checkpoint.preprocess) as decoder:
            embedder = open_embedder(model, "cpu", "fp32", decoder, lambda: trial_of(pairs, decoder))
            moving = directions(embedder, images_of(pairs, decoder, 0), to_recognise(folder), 0)
        ways["found"] = moving
        ways["found, target"] = tuple(replace(one, target=told) for one in moving)
    rows = []
    for name, found in ways.items():
        scored = score(InMemory(shards, len(images), images.shape[1], mixed), None, Sampling(BATCH), found=found)
        y = poisoned[scored.numbers]
        rows.append({"model": known.name, "known": name, "shift": round(float(shift @ shift), 3),
                     **{key: [round(auroc(one, y), 4), round(recall(one, y), 4)] for key, one in
                        {**scored.ranks, "combined": scored.combined}.items() if key in ("trigger", "combined")}})  # fmt: skip
    return rows


TURNS, TIMED = 3, 2048


def speed(folder: Path, pairs: Any, work: Path) -> dict[str, Any]:
    """Return the pairs per second of an embedding, and of the bare towers on decoded images, by turns: medians."""
    some = pairs.take(Split("timed", 0, frozenset(pairs.keys[:TIMED]), ""))
    digest = some.digest  # read before the clock runs
    found: dict[str, list[float]] = {"embed": [], "bare": []}
    with opened(str(folder)) as model, Decoder(model.checkpoint.preprocess) as decoder:
        embedder = open_embedder(model, "cpu", "fp32", decoder, lambda: trial_of(some, decoder))
        shown, _ = pixels(some, model.checkpoint.preprocess, np.arange(TIMED))
        encoder, texts = embedder.encoder, list(dict.fromkeys(some.captions(range(TIMED))))
        for _ in range(TURNS):
            place = work / digest
            began = time.perf_counter()
            embed(embedder, model, some, place)
            found["embed"].append(TIMED / (time.perf_counter() - began))
            shutil.rmtree(place)
            began = time.perf_counter()
            encoder.encode_texts(texts)
            for at in range(0, TIMED, BLOCK):
                encoder.image_features(encoder.put(shown[at : at + BLOCK]))
            found["bare"].append(TIMED / (time.perf_counter() - began))
    return {"model": folder.name, **{name: round(sorted(rates)[TURNS // 2], 1) for name, rates in found.items()}}


COSTS = (6_250, 25_000, 100_000)
"""Numbers of drawn vectors with which the cost of scoring is measured."""

DIM = 512


def cost(count: int, work: Path) -> dict[str, Any]:
    """Return the seconds and the peak memory of scoring drawn vectors, in this process alone."""
    place = work / f"drawn-{count}"
    place.mkdir(exist_ok=True)
    shards = tuple(place / f"{number:06d}.npy" for number in range(-(-count // SHARD)))
    rng = np.random.default_rng(0)
    for number, path in enumerate(shards):
        np.save(path, rng.normal(size=(min(SHARD, count - number * SHARD), 2, DIM)).astype(np.float32))
    began = time.process_time()
    score(Embeddings(shards, count, DIM), None, Sampling())
    seconds = time.process_time() - began
    shutil.rmtree(place)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"pairs": count, "seconds": round(seconds, 1), "peak_mib": round(peak)}


WHOLE = (6_250, 25_000, 100_000)
"""Numbers of drawn pairs that are screened from end to end."""

TAR = 6_250
"""Drawn pairs in one tar."""

TOWERS = "vit-clean"


def drawn(count: int, work: Path) -> str:
    """Return a source of `count` drawn pairs with 64 pixels, as tars below `work` that are kept.

    Each tar holds the same scenes, moved sideways by other numbers of pixels: drawing takes as long as embedding.
    """
    place = work / "drawn-pairs"
    place.mkdir(exist_ok=True)
    paths = [place / f"{number:04d}.tar" for number in range(count // TAR)]
    if not all(path.is_file() for path in paths):
        scenes = [render(range(at, at + 250), 64, 0) for at in range(0, TAR, 250)]
    for number, path in enumerate(paths):
        if not path.is_file():
            samples = (
                Sample(encode(np.roll(image, 3 * number, axis=1), ".jpg"), caption)
                for some in scenes
                for image, caption in zip(some.pixels, some.captions, strict=True)
            )
            part = path.with_suffix(".part")
            write_shard(part, samples, number * TAR)
            part.rename(path)
    return str(place / f"{{0000..{len(paths) - 1:04d}}}.tar")


@dataclass
class Clock:
    """Listener of a screening that times its stages; between shards it times the bare towers, which it leaves out.

    Times are seconds of the wall clock, and of this process on processors, without the workers that decode.
    """

    encoder: Any
    pixels: NDArray[np.uint8]
    captions: list[str]
    """Captions of a whole shard."""
    stages: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    bare: list[NDArray[np.float64]] = field(default_factory=list)
    """Times of the towers for a pair, each from four blocks of images and the captions of a shard."""
    _stage: str = ""
    _since: Any = 0.0

    def __call__(self, event: Any) -> None:
        now = _clock()
        if isinstance(event, StageStarted):
            self.stages[self._stage] = now - self._since
            self._stage, self._since = event.stage, now
        elif self._stage == "embed" and isinstance(event, Advanced) and event.done % (SHARD // BLOCK) == 1:
            for _ in range(4):
                self.encoder.image_features(self.encoder.put(self.pixels))
            images = _clock() - now
            self.encoder.encode_texts(list(dict.fromkeys(self.captions)))
            texts = _clock() - now - images
            self.bare.append(images / (4 * BLOCK) + texts / len(self.captions))
            self._since = self._since + _clock() - now


def _clock() -> NDArray[np.float64]:
    return np.array([time.perf_counter(), time.process_time()])


def whole(count: int, folder: Path, work: Path) -> dict[str, Any]:
    """Return times and peak memory of a screening of drawn pairs, in this process alone."""
    source = drawn(count, work)
    pairs: Any = open_pairs(source, seed=0)
    with opened(str(folder)) as model:
        encoder, rule = model.encoder(device="cpu"), model.checkpoint.preprocess
        clock = Clock(encoder, pixels(pairs, rule, np.arange(BLOCK))[0], pairs.captions(range(min(SHARD, count))))
    with tempfile.TemporaryDirectory(dir=work) as place:
        request = ScreenRequest(
            source, str(folder), Path(place, "out"), device="cpu", precision="fp32", cache=Path(place, "cache")
        )
        screen(request, clock)
        clock(StageStarted("end"))
    kept = {name: clock.stages[name] for name in ("pairs", "open", "embed", "score")}
    towers, embedding = np.median(clock.bare, axis=0), kept["embed"] / count
    memory = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "model": folder.name, "pairs": count, "seconds": {name: round(both[0], 1) for name, both in kept.items()},
        "processor_seconds": {name: round(both[1], 1) for name, both in kept.items()},
        "embedding": [round(1 / each, 1) for each in embedding], "towers": [round(1 / each, 1) for each in towers],
        "peak_mib": round(memory[0]), "worker_mib": round(memory[1]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--cost", type=int, help="measure the cost of scoring so many drawn vectors, and stop")
    parser.add_argument("--whole", type=int, help="screen so many drawn pairs from end to end, and stop")
    parser.add_argument(
        "--found", type=Path, help="folder with found-NAME, triggers that a scan found in sample models"
    )
    given = parser.parse_args()
    given.work.mkdir(exist_ok=True)
    if given.cost:
        print(json.dumps(cost(given.cost, given.work)))
        return
    if given.whole:
        print(json.dumps(whole(given.whole, given.models / TOWERS, given.work)))
        return
    pairs = open_pairs(str(given.data / "pairs-64.tar"), seed=0)
    before = json.loads(PLACE.read_text()) if PLACE.is_file() else {}
    rows, costs, speeds, wholes, alike = (
        before.get(name, []) for name in ("rows", "costs", "speeds", "wholes", "alike")
    )

    def write() -> None:
        content = {
            "machine": machine(),
            "version": __version__,
            "batch": BATCH,
            "rows": rows,
            "costs": costs,
            "speeds": speeds,
            "wholes": wholes,
            "alike": alike,
        }
        PLACE.write_text(json.dumps(content, indent=1) + "\n")

    known_rows = {(row["model"], row["embedder"]) for row in rows}
    for known in models(given.models):
        for embedder in (known.folder, known.parent):
            if not known.planted or (known.name, embedder.name) in known_rows:
                continue
            rows += measured(known, embedder, pairs, given.work)
            last = rows[-1]
            print(known.name, embedder.name, last["auroc"]["combined"], last["recall"]["combined"], flush=True)
            write()
    for known in [one for one in models(given.models) if one.planted and one.name not in {r["model"] for r in alike}]:
        folder = given.found / f"found-{known.name}" if given.found else None
        alike += recognised(known, pairs, given.work, folder if folder and folder.is_dir() else None)
        print(alike[-1], flush=True)
        write()
    for name in ("vit-clean", "rn-clean")[len(speeds) :]:
        speeds.append(speed(given.models / name, pairs, given.work))
        print(speeds[-1], flush=True)
        write()
    for kept, option, counts in ((costs, "--cost", COSTS), (wholes, "--whole", WHOLE)):
        for count in [n for n in counts if n not in {row["pairs"] for row in kept}]:
            command = [sys.executable, "-m", "benchmarks.screen", "--work", str(given.work), "--models",
                       str(given.models), option, str(count)]  # fmt: skip
            kept.append(json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout))
            print(kept[-1], flush=True)
            write()


if __name__ == "__main__":
    main()
