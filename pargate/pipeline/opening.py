"""From an inspected checkpoint to an open encoder: which activation, which precision, and why."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pargate.core import zeroshot
from pargate.core.model import Encoder, Pixels, Precision, Vectors
from pargate.data.carriers import CarrierSet
from pargate.data.decoding import Block
from pargate.encoders import open_encoder, open_graphs
from pargate.encoders.inspect import OpenCheckpoint
from pargate.files import BlockStore
from pargate.pipeline.views import Eye, Eyes

if TYPE_CHECKING:
    from pargate.encoders.onnx import OnnxEncoder
    from pargate.encoders.openclip import OpenClipEncoder

TRIAL = 32
"""Carriers on which precisions, or activations, are compared."""

AGREEMENT = 0.999
"""Least cosine between a carrier's bf16 and fp32 vectors for bf16 to be used."""

TIE = 0.005
"""Classes closer than this in cosine count as tied when precisions are compared."""


LABELLED = 16
"""Labelled carriers of the first block without which two activations are not compared."""


def open_eyes(
    model: OpenCheckpoint,
    reference: OpenCheckpoint | None,
    carriers: CarrierSet,
    first: Callable[[], Block],
    store: BlockStore,
    *,
    device: str,
    precision: Literal["auto"] | Precision,
) -> Eyes:
    """Open the model, and the reference in the same way, ready to see carriers.

    `first` waits for the first block of carriers, which is decoded while the model is opened.

    Raises:
        InputError, OperationalError: as `open_encoder`.
    """
    eye, head, notes = _graph_eye(model, carriers, store, device, precision) or _torch_eye(
        model, carriers, first, store, device, precision
    )
    if reference is None:
        return Eyes(eye, head, None, None, notes.activation, notes.precision, notes.threads)
    other, reference_head = _reference(reference, carriers, store, device, eye)
    return Eyes(eye, head, other, reference_head, notes.activation, notes.precision, notes.threads)


@dataclass(frozen=True, slots=True)
class _Notes:
    """What the report says of how a model was opened."""

    activation: str
    precision: str
    threads: int


def _torch_eye(
    model: OpenCheckpoint,
    carriers: CarrierSet,
    first: Callable[[], Block],
    store: BlockStore,
    device: str,
    precision: Literal["auto"] | Precision,
) -> tuple[Eye, Vectors, _Notes]:
    """A checkpoint, run by torch: activation and precision are found out where they are not said."""
    import torch

    encoder = open_encoder(model, device=device)
    activation_note = ""
    if not model.checkpoint.activation_known:
        chosen = choose_activation(encoder, lambda e: accuracy(e, carriers, first()))
        encoder, activation_note = chosen.encoder, chosen.note
    eye = Eye(encoder, model.checkpoint, store)
    head = eye.head(carriers.classes)
    precision_note = ""
    if precision == "auto":
        activation = encoder.spec.activation
        chosen = choose_precision(
            encoder, first().pixels, head, lambda: open_encoder(model, device=device, activation=activation)
        )
        eye.encoder, precision_note = chosen.encoder, chosen.note
    else:
        eye.encoder = encoder.into_precision(precision)
    return eye, head, _Notes(activation_note, precision_note, torch.get_num_threads())


def _graph_eye(
    model: OpenCheckpoint, carriers: CarrierSet, store: BlockStore, device: str, precision: Literal["auto"] | Precision
) -> tuple[Eye, Vectors, _Notes] | None:
    """Graphs, run by ONNX Runtime in the precision that they were written in; None for anything else."""
    if model.checkpoint.format != "onnx":
        return None
    encoder = graphs_encoder(model, device)
    if precision != "auto":
        encoder.into_precision(precision)
    note = f"{encoder.spec.precision}: as the graphs were written" + (f"; {encoder.note}" if encoder.note else "")
    eye = Eye(encoder, model.checkpoint, store)
    return eye, eye.head(carriers.classes), _Notes("", note, encoder.threads)


def graphs_encoder(model: OpenCheckpoint, device: str) -> "OnnxEncoder":
    """A folder of graphs, open on `device`, on as many threads as torch would take.

    Raises:
        InputError, OperationalError: as `open_graphs`.
    """
    return open_graphs(model, device=device, threads=processor_threads())


def processor_threads() -> int:
    """Threads that one operation may use: as OMP_NUM_THREADS says, else one for each processor that is ours."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(int(said), ours) if said.isdecimal() and int(said) else ours


def _reference(
    reference: OpenCheckpoint, carriers: CarrierSet, store: BlockStore, device: str, eye: Eye
) -> tuple[Eye, Vectors]:
    """The trusted model, opened as the model was: with its activation and, where both have a choice, its precision."""
    if reference.checkpoint.format == "onnx":
        other = Eye(graphs_encoder(reference, device), reference.checkpoint, store)
        return other, other.head(carriers.classes)
    trusted = open_encoder(reference, device=device, activation=eye.encoder.spec.activation)
    other = Eye(trusted, reference.checkpoint, store)
    head = other.head(carriers.classes)
    precision = eye.encoder.spec.precision
    if eye.checkpoint.format != "onnx" and precision != "int8":
        other.encoder = trusted.into_precision(precision)
    return other, head


def accuracy(encoder: "OpenClipEncoder", carriers: CarrierSet, block: Block) -> float | None:
    """Zero-shot accuracy on the labelled carriers of a block, or None where they are too few."""
    labels = carriers.labels[block.rows]
    known = labels >= 0
    if known.sum() < LABELLED:
        return None
    head = zeroshot.head(encoder, carriers.classes.names, carriers.classes.templates)
    shown = np.flatnonzero(known)[:TRIAL]
    vectors = encoder.encode_images(encoder.put(block.pixels[shown]))
    return float((zeroshot.predict(vectors, head) == labels[shown]).mean())


@dataclass(frozen=True, slots=True)
class Choice:
    """An encoder and why it is set up so."""

    encoder: "OpenClipEncoder"
    note: str


def choose_precision(
    encoder: "OpenClipEncoder", pixels: Pixels, head: Vectors, again: "Callable[[], OpenClipEncoder]"
) -> Choice:
    """bf16 or fp32: the faster on the first carriers, bf16 only where it agrees with fp32.

    `encoder` runs in fp32, and is converted: two towers would double the memory that a scan needs. `again` opens
    it anew where bf16 loses. `pixels`: uint8 [n, H, W, 3]; `head`: float32 [classes, d].
    """
    trial = pixels[:TRIAL]
    exact, slow = _timed(encoder, trial)
    other = encoder.into_precision("bf16")
    rough, fast = _timed(other, trial)
    cosine = float((exact * rough).sum(axis=1).min())
    ratio = slow / fast
    if not np.isfinite(cosine) or cosine < AGREEMENT:
        return Choice(again(), f"fp32: bf16 agrees only to a cosine of {cosine:.4f}")
    if not zeroshot.same_top1(exact, rough, head, TIE):
        return Choice(again(), "fp32: bf16 sees other classes")
    if ratio <= 1.0:
        return Choice(again(), f"fp32: bf16 runs at {ratio:.1f} times its rate here")
    return Choice(other, f"bf16: {ratio:.1f} times the rate of fp32 here, cosine {cosine:.4f} or more")


def _timed(encoder: Encoder, pixels: Pixels) -> tuple[Vectors, float]:
    """Vectors, and seconds of a second pass: the first one also sets up kernels."""
    batch = encoder.put(pixels)
    vectors = encoder.encode_images(batch)
    began = time.perf_counter()
    encoder.encode_images(batch)
    return vectors, time.perf_counter() - began


def choose_activation(encoder: "OpenClipEncoder", accuracy: "Callable[[OpenClipEncoder], float | None]") -> Choice:
    """GELU or QuickGELU, where nothing says which the weights were trained with: the more accurate one.

    OpenAI's weights need QuickGELU and lose accuracy silently without it. `accuracy` measures an encoder on
    labelled carriers; without them the architecture's own activation stays.
    """
    own = accuracy(encoder)
    if own is None:
        return Choice(encoder, f"{encoder.spec.activation}: the architecture's; without labels nothing tells")
    other = encoder.with_activation("quick_gelu" if encoder.spec.activation == "gelu" else "gelu")
    its = accuracy(other) or 0.0
    best = other if its > own else encoder
    return Choice(
        best,
        f"{best.spec.activation}: nothing says which; clean accuracy {encoder.spec.activation} {own:.1%}, "
        f"{other.spec.activation} {its:.1%}",
    )
