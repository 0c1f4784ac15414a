"""From an inspected checkpoint to an open encoder: which activation, which precision, and why."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pargate.core import zeroshot
from pargate.core.model import Checkpoint, Pixels, Precision, Vectors
from pargate.core.sequential import mean_sequence
from pargate.errors import Undecided
from pargate.files import BlockStore
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Block
from pargate.models import config
from pargate.models.model import Model
from pargate.scanning.embed import BlockViews, Eye, Eyes

if TYPE_CHECKING:
    from pargate.models.onnx import OnnxEncoder
    from pargate.models.torch.encoder import OpenClipEncoder

TRIAL = 32
"""Carriers on which bf16 is compared with fp32."""

AGREEMENT = 0.999
"""Least cosine between a carrier's bf16 and fp32 vectors for bf16 to be used."""

TIE = 0.005
"""Classes closer than this in cosine count as tied when precisions are compared."""

ERROR = 1e-3
"""Chance, at most, that an activation is taken which is right no more often than the other."""

LOOKED_AT = 512
"""Labelled carriers by which two activations are told apart, at most."""


def open_eyes(
    model: Model,
    reference: Model | None,
    carriers: LabelledImages,
    block: Callable[[int], Block],
    store: BlockStore,
    *,
    device: str,
    precision: Literal["auto"] | Precision,
) -> Eyes:
    """Open the model, and the reference in the same way, ready to see carriers.

    `block` gives a block of carriers by its number; the first is decoded while the model is opened.

    Raises:
        InputError, OperationalError: as `Model.encoder`.
        Undecided: nothing says which activation the model was trained with, and the carriers do not tell.
    """
    eye, head, notes = _graph_eye(model, carriers, store, device, precision) or _torch_eye(
        model, carriers, block, store, device, precision
    )
    if reference is None:
        return Eyes(eye, head, None, None, notes.activation, notes.precision)
    other, reference_head = _reference(reference, carriers, store, device, eye)
    return Eyes(eye, head, other, reference_head, notes.activation, notes.precision)


@dataclass(frozen=True, slots=True)
class _Notes:
    """What the report says of how a model was opened."""

    activation: str
    precision: str


def _torch_eye(
    model: Model,
    carriers: LabelledImages,
    block: Callable[[int], Block],
    store: BlockStore,
    device: str,
    precision: Literal["auto"] | Precision,
) -> tuple[Eye, Vectors, _Notes]:
    """A checkpoint, run by torch: activation and precision are settled where they are not said."""
    from pargate.models.torch import encoder as openclip

    activation = settle_activation(model.encoder(device=device), model.checkpoint, carriers, block, store)
    encoder = activation.encoder
    eye = Eye(encoder, model.checkpoint, store)
    head = eye.head(carriers.classes)
    if precision != "auto":
        eye.encoder = encoder.into_precision(precision)
        return eye, head, _Notes(activation.note, "")
    faster, why = openclip.bf16_is_faster(openclip.resolve(device))
    chosen = Choice(encoder, f"fp32: {why}")
    if faster:
        told = encoder.spec.activation
        chosen = checked_bf16(
            encoder, block(0).pixels, head, why, lambda: model.encoder(device=device, activation=told)
        )
    eye.encoder = chosen.encoder
    return eye, head, _Notes(activation.note, chosen.note)


def _graph_eye(
    model: Model,
    carriers: LabelledImages,
    store: BlockStore,
    device: str,
    precision: Literal["auto"] | Precision,
) -> tuple[Eye, Vectors, _Notes] | None:
    """Graphs, run by ONNX Runtime in the precision that they were written in; None for anything else."""
    if model.checkpoint.format != "onnx":
        return None
    encoder = graphs_encoder(model, device)
    if precision != "auto":
        encoder.into_precision(precision)
    note = f"{encoder.spec.precision}: as the graphs were written" + (f"; {encoder.note}" if encoder.note else "")
    eye = Eye(encoder, model.checkpoint, store)
    return eye, eye.head(carriers.classes), _Notes("", note)


def graphs_encoder(model: Model, device: str) -> "OnnxEncoder":
    """A folder of graphs, open on `device`, on as many threads as torch would take.

    Raises:
        InputError, OperationalError: as `Model.graph_encoder`.
    """
    return model.graph_encoder(device=device, threads=processor_threads())


def processor_threads() -> int:
    """Threads that one operation may use: as OMP_NUM_THREADS says, else one for each processor that is ours."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(int(said), ours) if said.isdecimal() and int(said) else ours


def _reference(
    reference: Model, carriers: LabelledImages, store: BlockStore, device: str, eye: Eye
) -> tuple[Eye, Vectors]:
    """The trusted model, opened as the model was: in its precision where both have a choice.

    Where nothing says its activation, it is the model's, of whose family it is.
    """
    if reference.checkpoint.format == "onnx":
        other = Eye(graphs_encoder(reference, device), reference.checkpoint, store)
        return other, other.head(carriers.classes)
    told = None if reference.checkpoint.activation_known else eye.encoder.spec.activation
    trusted = reference.encoder(device=device, activation=told)
    other = Eye(trusted, reference.checkpoint, store)
    head = other.head(carriers.classes)
    precision = eye.encoder.spec.precision
    if eye.checkpoint.format != "onnx" and precision != "int8":
        other.encoder = trusted.into_precision(precision)
    return other, head


@dataclass(frozen=True, slots=True)
class Choice:
    """An encoder and why it is set up so."""

    encoder: "OpenClipEncoder"
    note: str


def checked_bf16(
    encoder: "OpenClipEncoder", pixels: Pixels, head: Vectors, why: str, again: "Callable[[], OpenClipEncoder]"
) -> Choice:
    """The encoder in bf16, or in fp32 where bf16 does not agree with it on the first carriers.

    `encoder` runs in fp32, and is converted: two towers would double the memory that a scan needs. `again` opens
    it anew where bf16 does not agree. `pixels`: uint8 [n, H, W, 3]; `head`: float32 [classes, d].
    """
    trial = pixels[:TRIAL]
    if not len(trial):
        return Choice(encoder, "fp32: there is no carrier to compare bf16 by")
    exact = encoder.encode_images(encoder.put(trial))
    other = encoder.into_precision("bf16")
    rough = other.encode_images(other.put(trial))
    cosine = float((exact * rough).sum(axis=1).min())
    if not np.isfinite(cosine) or cosine < AGREEMENT:
        return Choice(again(), f"fp32: bf16 agrees only to a cosine of {cosine:.4f}")
    if not zeroshot.same_top1(exact, rough, head, TIE):
        return Choice(again(), "fp32: bf16 sees other classes")
    return Choice(other, f"bf16: {why}, and it agrees with fp32 to a cosine of {cosine:.4f} or more")


def settle_activation(
    encoder: "OpenClipEncoder",
    checkpoint: Checkpoint,
    carriers: LabelledImages,
    block: Callable[[int], Block],
    store: BlockStore,
) -> Choice:
    """The encoder with the activation that the weights were trained with.

    Where nothing says it, each of GELU and QuickGELU names the labelled carriers, block after block, until one is
    right significantly more often on those that only one of them names.

    Raises:
        Undecided: the labelled carriers do not tell.
    """
    if checkpoint.activation_known:
        return Choice(encoder, "")
    both = (encoder.with_activation("gelu"), encoder.with_activation("quick_gelu"))
    eyes = [Eye(one, checkpoint, store) for one in both]
    heads = [eye.head(carriers.classes) for eye in eyes]
    right = np.zeros((2, 0), dtype=bool)
    seen: set[str] = set()
    for number in range(len(carriers.blocks)):
        if right.shape[1] >= LOOKED_AT:
            break
        views = [BlockViews(block(number), carriers, eye, None, 0) for eye in eyes]
        labels, digests = views[0].labels, views[0].digests
        new = [i for i, digest in enumerate(digests) if labels[i] >= 0 and digest not in seen]
        seen.update(digests)
        told = [zeroshot.predict(view.clean(), head) == labels for view, head in zip(views, heads, strict=True)]
        right = np.concatenate([right, np.stack(told)[:, new]], axis=1)
        better = more_often_right(right[0], right[1])
        if better is not None:
            chosen = both[better]
            return Choice(chosen, f"{chosen.spec.activation}: nothing says which; {_counted(right)}")
    more = "; or give more labelled images" if right.shape[1] < LOOKED_AT else ""
    raise Undecided(
        f"nothing says whether {checkpoint.source} was trained with GELU or QuickGELU, and its carriers do not tell: "
        f"{_counted(right)}",
        f"name the one it was trained with: --arch {config.with_activation(checkpoint.architecture, 'gelu')} or "
        f"--arch {config.with_activation(checkpoint.architecture, 'quick_gelu')}{more}",
    )


def more_often_right(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> int | None:
    """Which of two, 0 or 1, is right more often on the same carriers, at an error of `ERROR`; None while that is open.

    A sign test on the carriers that one alone is right about; it may be repeated as they come.
    """
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    share = mean_sequence(np.repeat([1.0, 0.0], [wins, losses]), ERROR / 2, ERROR / 2)
    return 0 if share.low > 0.5 else 1 if share.high < 0.5 else None


def _counted(right: NDArray[np.bool_]) -> str:
    gelu, quick = right.sum(axis=1).tolist()
    return f"of {right.shape[1]} labelled carriers, GELU is right about {gelu} and QuickGELU about {quick}"
