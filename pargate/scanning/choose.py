"""Choose the activation and the precision in which a checkpoint is run, and give the reason."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pargate.core import zeroshot
from pargate.core.environment import computing
from pargate.core.model import Checkpoint, EncoderSpec, Pixels, Precision, Vectors
from pargate.core.sequential import mean_sequence
from pargate.errors import Undecided
from pargate.files import BlockStore
from pargate.images.classes import ClassList
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Block
from pargate.models import config
from pargate.models.model import Model
from pargate.scanning.embed import BlockViews, CachedEncoder, Later, ModelPair
from pargate.version import __version__

if TYPE_CHECKING:
    from pargate.models.onnx import OnnxEncoder
    from pargate.models.torch.encoder import OpenClipEncoder

TRIAL = 32
"""Number of images on which bf16 is compared with fp32."""

AGREEMENT = 0.999
"""Least cosine between an image's bf16 and fp32 vectors for bf16 to be used."""

TIE = 0.005
"""Classes closer than this in cosine count as tied when precisions are compared."""

ERROR = 1e-3
"""Largest probability of choosing an activation that is right no more often than the other."""

LOOKED_AT = 512
"""Largest number of labelled images on which two activations are compared."""


def open_pair(
    model: Model,
    reference: Model | None,
    images: LabelledImages,
    block: Callable[[int], Block],
    store: BlockStore,
    *,
    device: str,
    precision: Literal["auto"] | Precision,
) -> ModelPair:
    """Open the model and the reference, now or, if an earlier run opened them here, when a vector is missing.

    `block` returns a block of images by its number; the first is decoded while the model is opened.

    Raises:
        InputError, OperationalError: as `Model.encoder`.
        Undecided: the checkpoint does not name its activation, and the images do not show which is right.
    """
    cached, head, notes = _graph_encoder(model, images, store, device, precision) or _opened_before(
        model, store, device, images.classes, [precision], lambda: list(block(0).digests),
        lambda: _torch_encoder(model, images, block, store, device, precision),
    )  # fmt: skip
    if reference is None:
        return ModelPair(cached, head, None, None, notes.activation, notes.precision)
    other, reference_head = _reference(reference, images, store, device, cached)
    return ModelPair(cached, head, other, reference_head, notes.activation, notes.precision)


@dataclass(frozen=True, slots=True)
class _Notes:
    """The report's notes on how a model was opened."""

    activation: str = ""
    precision: str = ""


_Opened = tuple[CachedEncoder, Vectors, _Notes]
"""A model, its zero-shot head [classes, d], and notes on how it was opened."""

_KEPT = TypeAdapter(tuple[list[str], EncoderSpec, _Notes])


def _opened_before(
    model: Model,
    store: BlockStore,
    device: str,
    classes: ClassList,
    settings: list[str],
    looked_at: Callable[[], list[str]],
    first: Callable[[], _Opened],
) -> _Opened:
    """Return a model as an earlier run opened it on this machine, without torch, or else as `first` opens it.

    A checkpoint that does not name its activation is always opened, since images decide how.

    Args:
        model: the checkpoint.
        store: keeps how the model was opened.
        device: the device as the user gave it.
        classes: those of the zero-shot head.
        settings: other settings that decide how the model is opened.
        looked_at: the digests of the images that decide it, which take time to decode.
        first: opens the model.
    """
    if store.folder is None or not model.checkpoint.activation_known:
        return first()
    key = [
        "opened",
        __version__,
        computing(),
        model.checkpoint.digest,
        device,
        classes.names,
        classes.templates,
        settings,
    ]
    block = store.load(key)
    kept = _KEPT.validate_json(block.astype(np.uint8).tobytes()) if block is not None else None
    if kept is None or kept[0] != looked_at():
        found = first()
        text = _KEPT.dump_json((looked_at(), found[0].spec, found[2]))
        store.save(key, np.frombuffer(text, dtype=np.uint8).astype(np.float32)[:, None])
        return found
    _, spec, notes = kept
    exact = replace(spec, precision="fp32")
    later = Later(exact, key, lambda: model.encoder(device=device, activation=spec.activation))
    cached = CachedEncoder(later, model.checkpoint, store)
    head = cached.head(classes)
    cached.into_precision(cast(Precision, spec.precision))
    return cached, head, notes


def _torch_encoder(
    model: Model,
    images: LabelledImages,
    block: Callable[[int], Block],
    store: BlockStore,
    device: str,
    precision: Literal["auto"] | Precision,
) -> _Opened:
    """Open a checkpoint with torch; choose the activation and precision that are not given."""
    from pargate.models.torch import encoder as openclip

    activation = settle_activation(model.encoder(device=device), model.checkpoint, images, block, store)
    encoder = activation.encoder
    cached = CachedEncoder(encoder, model.checkpoint, store)
    head = cached.head(images.classes)
    if precision != "auto":
        cached.into_precision(precision)
        return cached, head, _Notes(activation.note)
    faster, why = openclip.bf16_is_faster(openclip.resolve(device))
    chosen = Choice(encoder, f"fp32: {why}")
    if faster:
        told = encoder.spec.activation
        chosen = checked_bf16(
            encoder, block(0).pixels, head, why, lambda: model.encoder(device=device, activation=told)
        )
    cached.given = chosen.encoder
    return cached, head, _Notes(activation.note, chosen.note)


def _graph_encoder(
    model: Model,
    images: LabelledImages,
    store: BlockStore,
    device: str,
    precision: Literal["auto"] | Precision,
) -> _Opened | None:
    """Open graphs with ONNX Runtime, in the precision that they were written in; return None for other formats."""
    if model.checkpoint.format != "onnx":
        return None
    encoder = graphs_encoder(model, device)
    if precision != "auto":
        encoder.into_precision(precision)
    note = f"{encoder.spec.precision}: as the graphs were written" + (f"; {encoder.note}" if encoder.note else "")
    cached = CachedEncoder(encoder, model.checkpoint, store)
    return cached, cached.head(images.classes), _Notes("", note)


def graphs_encoder(model: Model, device: str) -> "OnnxEncoder":
    """Open a folder of graphs on `device`, with as many threads as torch would use.

    Raises:
        InputError, OperationalError: as `Model.graph_encoder`.
    """
    return model.graph_encoder(device=device, threads=processor_threads())


def processor_threads() -> int:
    """Return the threads that one operation may use: OMP_NUM_THREADS, else one per processor of this process."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    ours = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(int(said), ours) if said.isdecimal() and int(said) else ours


def _reference(
    reference: Model, images: LabelledImages, store: BlockStore, device: str, cached: CachedEncoder
) -> tuple[CachedEncoder, Vectors]:
    """Open the reference as the model was opened: in the same precision where both have a choice.

    Where its checkpoint does not name the activation, it is that of the model, which is of the same family.
    """
    if reference.checkpoint.format == "onnx":
        other = CachedEncoder(graphs_encoder(reference, device), reference.checkpoint, store)
        return other, other.head(images.classes)
    told = None if reference.checkpoint.activation_known else cached.spec.activation
    precision = cached.spec.precision if cached.checkpoint.format != "onnx" else "fp32"

    def first() -> _Opened:
        other = CachedEncoder(reference.encoder(device=device, activation=told), reference.checkpoint, store)
        head = other.head(images.classes)
        other.into_precision(cast(Precision, precision))  # int8 is that of graphs alone
        return other, head, _Notes()

    return _opened_before(reference, store, device, images.classes, ["reference", precision], list, first)[:2]


@dataclass(frozen=True, slots=True)
class Choice:
    """An encoder and the reason for its settings."""

    encoder: "OpenClipEncoder"
    note: str


def checked_bf16(
    encoder: "OpenClipEncoder", pixels: Pixels, head: Vectors, why: str, again: "Callable[[], OpenClipEncoder]"
) -> Choice:
    """Return the encoder in bf16, or in fp32 where bf16 does not agree with it on the first images.

    `encoder` is converted in place, since two towers would double the memory of a scan.

    Args:
        encoder: runs in fp32.
        pixels: uint8 [n, H, W, 3].
        head: float32 [classes, d].
        why: the reason to try bf16, for the note.
        again: opens the encoder in fp32 once more.
    """
    trial = pixels[:TRIAL]
    if not len(trial):
        return Choice(encoder, "fp32: there is no image to compare bf16 by")
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
    images: LabelledImages,
    block: Callable[[int], Block],
    store: BlockStore,
) -> Choice:
    """Return the encoder with the activation that the weights were trained with.

    Where the checkpoint does not name it, GELU and QuickGELU classify the labelled images, block after block, until
    one is right significantly more often than the other.

    Raises:
        Undecided: the labelled images do not show which is right.
    """
    if checkpoint.activation_known:
        return Choice(encoder, "")
    both = (encoder.with_activation("gelu"), encoder.with_activation("quick_gelu"))
    cached = [CachedEncoder(one, checkpoint, store) for one in both]
    heads = [one.head(images.classes) for one in cached]
    right = np.zeros((2, 0), dtype=bool)
    seen: set[str] = set()
    for number in range(len(images.blocks)):
        if right.shape[1] >= LOOKED_AT:
            break
        views = [BlockViews(block(number), images, one, None, 0) for one in cached]
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
        f"{checkpoint.source} does not say whether it was trained with GELU or QuickGELU, and the images do not show "
        f"it: {_counted(right)}",
        f"name the one it was trained with: --arch {config.with_activation(checkpoint.architecture, 'gelu')} or "
        f"--arch {config.with_activation(checkpoint.architecture, 'quick_gelu')}{more}",
    )


def more_often_right(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> int | None:
    """Return which of two classifiers, 0 or 1, is right more often on the same images; None while that is open.

    This is a sign test at an error of `ERROR`, on the images that only one is right about. It may be repeated as images
    come, since it uses a confidence sequence.
    """
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    share = mean_sequence(np.repeat([1.0, 0.0], [wins, losses]), ERROR / 2, ERROR / 2)
    return 0 if share.low > 0.5 else 1 if share.high < 0.5 else None


def _counted(right: NDArray[np.bool_]) -> str:
    gelu, quick = right.sum(axis=1).tolist()
    return f"of {right.shape[1]} labelled images, GELU is right about {gelu} and QuickGELU about {quick}"
