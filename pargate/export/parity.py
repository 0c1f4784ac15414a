"""Prove that graphs give the results of the checkpoint, by running the same inputs through both.

Exporters do write wrong graphs: one lost its text mask and kept every shape. So all vectors are compared, on images
with and without triggers and on captions of every length, then the decisions that follow from them. A proof that could
not be measured has failed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from pargate.core import zeroshot
from pargate.core.model import Checkpoint, Encoder, GraphPrecision, Pixels, Vectors
from pargate.core.stamp import Stamp, of_images
from pargate.core.value import Value
from pargate.files import read_bytes
from pargate.limits import PARITY_BYTES

PARITY = "parity.json"
"""File name of the proof in the folder of the graphs."""

SCHEMA = "pargate/parity/1"

Progress = Callable[[int, int], None]
"""Function that is called with the number of images done, and of all."""

BATCHES = (1, 2, 3, 7, 17)
"""Batch sizes besides the largest: those that an exporter may take for constants, and odd ones."""

LARGEST = 64
"""Number of images or captions in the largest batch."""

TIES = {"fp32": 1e-4, "fp16": 1e-3, "int8": 1e-2}
"""Difference in cosine, by precision, below which classes are tied, since rounding may decide between them."""

LOGITS: dict[GraphPrecision, float | None] = {"fp32": 1e-3, "fp16": 1e-2, "int8": None}
"""Largest difference of a logit, as a share of the scale; for int8 it is only recorded."""


class Limits(Value):
    """The limits within which graphs and checkpoint must agree."""

    min_cosine: float
    """Least cosine of any vector with its counterpart."""
    top1_agreement: float
    """Least share of images that get the same class; ties count as the same."""
    tie: float
    """Difference in cosine below which classes are tied."""
    logit_difference: float | None
    """Largest difference of an image-text logit; None where it is only recorded."""


class Check(Value):
    """Vectors of one view at one batch size."""

    view: str
    """Name of the view: `carriers` (the images as they are), a trigger's label, or `captions`."""
    batch: int
    n: int
    """Number of vectors compared."""
    min_cosine: float | None
    """Least cosine; None where some vector is not finite."""


class Decisions(Value):
    """Classes and logits that follow from the vectors."""

    pictures: int
    """Number of images, with and without triggers, that both classified."""
    differ: int
    """Number of images with another class, without ties."""
    ties: int
    """Number of images with another class that is tied."""
    logits: int
    """Number of image-text logits compared."""
    max_logit_difference: float | None
    """Largest difference of a logit; None where some logit is not finite."""


class ProviderRun(Value):
    """The results of one provider of the runtime."""

    asked: str
    """Provider that was requested: `cpu`, `cuda` or `tensorrt`."""
    ran: str
    """Provider that really ran, empty where none did."""
    note: str = ""
    """Reason why the provider did not run."""
    backend: str = ""
    checks: tuple[Check, ...] = ()
    decisions: Decisions | None = None
    problems: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def min_cosine(self) -> float | None:
        """The least cosine of all checks; None without checks, or where some vector was not finite."""
        found = [check.min_cosine for check in self.checks]
        known = [value for value in found if value is not None]
        return min(known) if known and len(known) == len(found) else None


class ParityReport(Value):
    """The proof of one set of graphs."""

    schema_: Literal["pargate/parity/1"] = Field(alias="schema")
    precision: GraphPrecision
    checkpoint: str
    """Digest of the weights and configuration of the checkpoint."""
    graphs: str
    """SHA-256 over the graphs' files (`pargate inspect`)."""
    reference: str
    """Library that ran the checkpoint."""
    limits: Limits
    runs: tuple[ProviderRun, ...]
    problems: tuple[str, ...] = ()
    """Problems of the files themselves."""

    @property
    def passed(self) -> bool:
        """Whether the graphs ran on the CPU, and no provider had a problem."""
        ran = [run for run in self.runs if run.ran]
        return any(run.ran == "cpu" for run in ran) and not self.problems and not any(run.problems for run in ran)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons why the proof failed."""
        found = [*self.problems, *(f"{run.ran}: {problem}" for run in self.runs if run.ran for problem in run.problems)]
        if not any(run.ran == "cpu" for run in self.runs):
            found.append("the graphs did not run on the CPU")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Samples:
    """The inputs of both encoders."""

    pixels: Pixels
    """Images: uint8 [n, H, W, 3]."""
    stamps: tuple[tuple[str, Stamp], ...]
    """Triggers by label, each drawn for the first `stamped` images."""
    stamped: int
    captions: tuple[str, ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]


def limits(precision: GraphPrecision, min_cosine: float, top1_agreement: float, logit_scale: float) -> Limits:
    """Return the limits of a precision; `min_cosine` and `top1_agreement` are those of the policy."""
    share = LOGITS[precision]
    return Limits(
        min_cosine=min_cosine,
        top1_agreement=top1_agreement,
        tie=TIES[precision],
        logit_difference=None if share is None else share * logit_scale,
    )


def captions_of_lengths(context: int) -> tuple[str, ...]:
    """Return captions of one word to more than the context holds: each length up to 8, then some, and the longest."""
    longest = context - 2  # without the start and end tokens
    lengths = {*range(min(9, longest)), *range(8, longest, 8), *range(max(0, longest - 2), longest + 3)}
    return tuple(" ".join(["a"] * n) for n in sorted(lengths))


def check_files(folder: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return the errors that onnx's own checker finds, with inferred shapes."""
    import onnx

    found = []
    for name in names:
        try:
            onnx.checker.check_model(str(folder / name), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
            found.append(f"onnx.checker refuses {name}: {' '.join(str(error).split())[:200]}")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Expected:
    """The results of the checkpoint for the samples, which are compared with those of every provider."""

    backend: str
    scale: float
    bias: float
    images: Vectors
    stamped: tuple[tuple[str, Vectors], ...]
    captions: Vectors
    head: Vectors


def expect(reference: Encoder, samples: Samples, progress: Progress = lambda done, of: None) -> Expected:
    """Return the results of the checkpoint's own encoder for all samples."""
    total = len(samples.pixels) + samples.stamped * len(samples.stamps)
    images = _images(reference, samples.pixels, None, LARGEST, lambda done: progress(done, total))
    stamped, base = [], len(samples.pixels)
    for label, stamp in samples.stamps:
        vectors = _images(reference, samples.pixels[: samples.stamped], stamp, LARGEST)
        base += samples.stamped
        progress(base, total)
        stamped.append((label, vectors))
    spec = reference.spec
    return Expected(
        spec.backend,
        spec.logit_scale,
        spec.logit_bias or 0.0,
        images,
        tuple(stamped),
        _texts(reference, samples.captions, LARGEST),
        zeroshot.head(reference, samples.classes, samples.templates),
    )


def prove(
    expected: Expected,
    exported: Encoder,
    samples: Samples,
    within: Limits,
    *,
    asked: str,
    ran: str,
    progress: Progress = lambda done, of: None,
) -> ProviderRun:
    """Compare the graphs, run by one provider, with the checkpoint; `asked` and `ran` name the provider."""
    began = time.monotonic()
    total = len(samples.pixels) + samples.stamped * len(samples.stamps)
    checks, images = [], _images(exported, samples.pixels, None, LARGEST, lambda done: progress(done, total))
    checks.append(_check("carriers", LARGEST, expected.images, images))
    for batch in BATCHES:
        some = samples.pixels[: max(batch, min(2 * batch, 8))]
        checks.append(_check("carriers", batch, expected.images, _images(exported, some, None, batch)))
    seen, wanted, done = [images], [expected.images], len(samples.pixels)
    for (label, stamp), (_, vectors) in zip(samples.stamps, expected.stamped, strict=True):
        given = _images(exported, samples.pixels[: samples.stamped], stamp, LARGEST)
        checks.append(_check(label, LARGEST, vectors, given))
        seen.append(given)
        wanted.append(vectors)
        done += samples.stamped
        progress(done, total)
    captions = _texts(exported, samples.captions, LARGEST)
    checks.append(_check("captions", LARGEST, expected.captions, captions))
    for batch in BATCHES:
        some_texts = samples.captions[-max(batch, min(2 * batch, 8)) :]
        there = expected.captions[len(expected.captions) - len(some_texts) :]
        checks.append(_check("captions", batch, there, _texts(exported, some_texts, batch)))
    head = zeroshot.head(exported, samples.classes, samples.templates)
    decisions = _decide(expected, np.concatenate(wanted), np.concatenate(seen), captions, head, within.tie)
    return ProviderRun(
        asked=asked,
        ran=ran,
        backend=exported.spec.backend,
        checks=tuple(checks),
        decisions=decisions,
        problems=tuple(_problems(checks, decisions, within)),
        seconds=round(time.monotonic() - began, 3),
    )


def _images(
    encoder: Encoder,
    pixels: Pixels,
    stamp: Stamp | None,
    batch: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Vectors:
    """Return the vectors of images, `batch` at a time: float32 [n, d]."""
    found = []
    for first in range(0, len(pixels), batch):
        part = slice(first, first + batch)
        given = None if stamp is None else of_images(stamp, part)
        found.append(encoder.encode_images(encoder.put(np.ascontiguousarray(pixels[part])), given))
        progress(min(first + batch, len(pixels)))
    return np.concatenate(found) if found else np.empty((0, encoder.spec.dim), dtype=np.float32)


def _texts(encoder: Encoder, texts: Sequence[str], batch: int) -> Vectors:
    found = [encoder.encode_texts(texts[first : first + batch]) for first in range(0, len(texts), batch)]
    return np.concatenate(found) if found else np.empty((0, encoder.spec.dim), dtype=np.float32)


def _check(view: str, batch: int, expected: Vectors, given: Vectors) -> Check:
    """Compare all of `given` with the first of `expected`."""
    cosines = _cosines(expected[: len(given)], given)
    finite = len(cosines) > 0 and bool(np.isfinite(cosines).all())
    return Check(view=view, batch=batch, n=len(given), min_cosine=float(cosines.min()) if finite else None)


def _cosines(first: Vectors, second: Vectors) -> NDArray[np.float64]:
    """Return the cosines of rows, float64 [n]; NaN if the shapes differ."""
    if first.shape != second.shape:
        return np.full(max(len(first), len(second)), np.nan)
    a, b = first.astype(np.float64), second.astype(np.float64)
    with np.errstate(all="ignore"):  # the check reports vectors that are not finite
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        # A vector of length 0 has no direction.
        return np.asarray(np.where(lengths > 0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1), np.nan))


def _decide(
    expected: Expected, wanted: Vectors, seen: Vectors, captions: Vectors, head: Vectors, tie: float
) -> Decisions:
    with np.errstate(all="ignore"):
        counted = zeroshot.disagreements(wanted, seen, expected.head, head, tie)
        before = wanted @ expected.captions.T
        after = seen @ captions.T
        difference = float(np.abs(before - after).max()) * expected.scale if before.size else float("nan")
    return Decisions(
        pictures=len(wanted),
        differ=counted.apart,
        ties=counted.tied,
        logits=before.size,
        max_logit_difference=difference if np.isfinite(difference) else None,
    )


def _problems(checks: Sequence[Check], decisions: Decisions, within: Limits) -> "list[str]":
    """Return the reasons why the proof fails, the most important first."""
    found = []
    empty = [check.view for check in checks if not check.n]
    if empty or not decisions.pictures:
        found.append(f"nothing was measured for {', '.join(dict.fromkeys(empty)) or 'classes'}")
    for view in dict.fromkeys(check.view for check in checks):
        own = [check for check in checks if check.view == view and check.n]
        broken = [check for check in own if check.min_cosine is None]
        worst = min((c for c in own if c.min_cosine is not None), key=lambda c: c.min_cosine or 0.0, default=None)
        if broken:
            found.append(f"{view}: vectors that are not finite, in batches of {broken[0].batch}")
        elif worst is not None and worst.min_cosine is not None and worst.min_cosine < within.min_cosine:
            found.append(
                f"{view}: a cosine of {worst.min_cosine:.6f} with the checkpoint's vector, in batches of "
                f"{worst.batch}; at least {within.min_cosine:g} is required"
            )
    if decisions.pictures and decisions.differ > (1 - within.top1_agreement) * decisions.pictures:
        found.append(
            f"{decisions.differ} of {decisions.pictures} images get another class; {within.top1_agreement:.4%} must "
            "agree"
        )
    if decisions.max_logit_difference is None:
        found.append("logits are not finite")
    elif within.logit_difference is not None and decisions.max_logit_difference > within.logit_difference:
        found.append(
            f"an image-text logit differs by {decisions.max_logit_difference:.4g}, at most "
            f"{within.logit_difference:.4g} is allowed"
        )
    return found


def altered(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return notices about graphs without a valid proof; none for any other checkpoint."""
    if checkpoint.format != "onnx" or checkpoint.folder is None:
        return ()
    path = Path(checkpoint.folder) / PARITY
    if not path.is_file():
        return (f"the graphs have no {PARITY}, so their checkpoint is not known",)
    try:
        proven = ParityReport.model_validate_json(read_bytes(path, PARITY_BYTES))
    except OSError as error:
        return (f"{PARITY} cannot be read ({error.strerror}), so the checkpoint of the graphs is not known",)
    except ValidationError:
        return (f"{PARITY} cannot be read, so the checkpoint of the graphs is not known",)
    if proven.graphs != checkpoint.sha256:
        return (
            f"digest: the graphs were altered after export: {PARITY} is the proof of {proven.graphs[:12]}, "
            f"but these are {checkpoint.sha256[:12]}",
        )
    return () if proven.passed else (f"{PARITY} says that the graphs are not the checkpoint: {proven.reasons[0]}",)


def made_from(checkpoint: Checkpoint) -> str:
    """Return the first half of the SHA-256 of the weights in the graphs' proof, or an empty string."""
    if checkpoint.format != "onnx" or checkpoint.folder is None:
        return ""
    try:
        content = read_bytes(Path(checkpoint.folder) / PARITY, PARITY_BYTES)
        return ParityReport.model_validate_json(content).checkpoint[:32]
    except (OSError, ValidationError):
        return ""
