"""Embeddings of both towers for all pairs of a set, in memory-mapped files that a killed run goes on from.

A file holds the vectors of `SHARD` pairs and is named for everything that decides them: model, arithmetic, pairs, and
the number of the shard. Memory does not grow with the number of pairs.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import EncoderSpec, Pixels, Precision, Vectors
from pargate.errors import InputError, OperationalError
from pargate.events import Advanced, Listener, ignore
from pargate.files import digest_of, write_atomic
from pargate.images.dataset import Item, Listed, check_unchanged
from pargate.images.prefetch import Block, Decoder, check_readable
from pargate.models.model import Model
from pargate.scanning.choose import checked_bf16
from pargate.version import __version__

if TYPE_CHECKING:
    from pargate.models.torch.encoder import OpenClipEncoder

SHARD = 4096
"""Number of pairs in one file: 16 MB at 512 dimensions."""

BLOCK = 256
"""Number of images that are decoded and encoded together."""

TRIAL = 64
"""Number of captions that stand in for classes when bf16 is compared with fp32."""

T = TypeVar("T")


@dataclass(frozen=True)
class Embeddings:
    """The vectors of all pairs; a pair whose image cannot be read has NaN."""

    shards: tuple[Path, ...]
    count: int
    dim: int

    def rows(self, numbers: NDArray[np.integer]) -> tuple[Vectors, Vectors]:
        """Return images, of any norm, and captions, of norm 1, of pairs: float32 [n, d] each."""
        found = np.empty((len(numbers), 2, self.dim), dtype=np.float32)
        for shard in np.unique(numbers // SHARD):
            here = numbers // SHARD == shard
            found[here] = self._mapped(int(shard))[numbers[here] % SHARD]
        return found[:, 0], found[:, 1]

    def parts(self) -> Iterator[tuple[NDArray[np.int64], Vectors, Vectors]]:
        """Yield numbers, images and captions of the pairs, shard by shard."""
        for shard in range(len(self.shards)):
            vectors = np.array(self._mapped(shard))
            first = shard * SHARD
            yield np.arange(first, first + len(vectors), dtype=np.int64), vectors[:, 0], vectors[:, 1]

    def _mapped(self, shard: int) -> Vectors:
        return np.asarray(np.load(self.shards[shard], mmap_mode="r", allow_pickle=False))


@dataclass(frozen=True, slots=True)
class Trial:
    """The first pairs of a set, with which bf16 is compared with fp32."""

    pixels: Pixels
    captions: tuple[str, ...]


def trial_of(pairs: Listed, decoder: Decoder) -> Trial:
    """Return the first pairs of a set.

    Raises:
        InputError: too many of the images cannot be read.
    """
    rows = Rows(pairs)
    decoder.start(rows, [np.arange(min(BLOCK, len(rows)))])
    pixels = decoder.readable(0, pairs.source).pixels
    return Trial(pixels[:TRIAL], tuple(pairs.captions(range(min(TRIAL, len(rows))))))


Seen = Callable[[Block], None]
"""Listener of the images that were embedded; it raises if too many cannot be read."""


class Towers(Protocol):
    """Both towers of an open model, in this process or on workers."""

    @property
    def spec(self) -> EncoderSpec:
        """Everything that can change an embedding."""

    @property
    def note(self) -> str:
        """Reason for the precision, or an empty text."""

    def embedded(self, pairs: Listed, parts: Sequence[range], seen: Seen) -> Iterator[tuple[range, Vectors]]:
        """Yield parts of the pairs, in any order, with the vectors of images and captions: float32 [n, 2, d].

        Args:
            pairs: the pairs.
            parts: numbers of the pairs.
            seen: is called with the images as they are embedded.

        Raises:
            InputError: a vector is not finite.
            OperationalError: memory ran out, or a worker was killed.
        """

    def call(self, function: Callable[..., T], *given: object) -> T:
        """Return the result of a function whose first argument is an `Embedder`."""


@dataclass(frozen=True)
class Embedder:
    """An open model in this process, with the precision that was chosen for it."""

    model: Model
    encoder: "OpenClipEncoder"
    note: str
    decoder: Decoder

    @property
    def spec(self) -> EncoderSpec:
        """Everything that can change an embedding."""
        return self.encoder.spec

    def embedded(self, pairs: Listed, parts: Sequence[range], seen: Seen) -> Iterator[tuple[range, Vectors]]:
        """Yield the parts in their order, as `Towers`."""
        blocks = [np.arange(at, min(at + BLOCK, part.stop)) for part in parts for at in part[::BLOCK]]
        self.decoder.start(Rows(pairs), blocks)
        done = 0
        for part in parts:
            vectors = np.full((len(part), 2, self.spec.dim), np.nan, dtype=np.float32)
            vectors[:, 1] = _told(self.encoder, pairs.captions(part))
            for _ in part[::BLOCK]:
                block = self.decoder.block(done)
                vectors[block.rows - part.start, 0] = self.encoder.image_features(self.encoder.put(block.pixels))
                _check_finite(self, vectors[block.rows - part.start])
                seen(block)
                done += 1
            yield part, vectors

    def call(self, function: Callable[..., T], *given: object) -> T:
        """Return the result of a function whose first argument is this object."""
        return function(self, *given)


def open_embedder(
    model: Model, device: str, precision: Literal["auto"] | Precision, decoder: Decoder, trial: Callable[[], Trial]
) -> Embedder:
    """Open the towers of a model in the precision that a scan would use.

    Args:
        model: the checkpoint.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: that of the image tower; `auto` chooses.
        decoder: decodes images for the model.
        trial: returns pairs that are embedded in both precisions where there is a choice.

    Raises:
        InputError, OperationalError: as `Model.encoder`, or as `trial`.
    """
    from pargate.models.torch.encoder import bf16_is_faster, resolve

    encoder = model.encoder(device=device)
    if precision != "auto":
        return Embedder(model, encoder.into_precision(precision), "", decoder)
    faster, why = bf16_is_faster(resolve(device))
    if not faster:
        return Embedder(model, encoder, f"fp32: {why}", decoder)
    first = trial()
    head = encoder.encode_texts(first.captions)
    activation = encoder.spec.activation
    again = partial(model.encoder, device=device, activation=activation)
    chosen = checked_bf16(encoder, first.pixels, head, why, again)
    return Embedder(model, chosen.encoder, chosen.note, decoder)


class Rows(Sequence[Item]):
    """The images of a dataset, made one by one when they are read."""

    def __init__(self, pairs: Listed) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return self._pairs.count

    def __getitem__(self, number: int) -> Item:  # type: ignore[override]  # no slices are read
        (place,) = self._pairs.places([number])
        return Item(self._pairs.keys[number], place)


def embed(
    towers: Towers,
    model: Model,
    pairs: Listed,
    folder: Path,
    emit: Listener = ignore,
    shard: tuple[int, int] = (1, 1),
) -> Embeddings:
    """Return the embeddings of all pairs; those that `folder` holds already are not computed again.

    Args:
        towers: the open towers of the model.
        model: the checkpoint.
        pairs: the pairs.
        folder: place of the files, which is created.
        emit: listener for progress.
        shard: (i, n): every nth file from the ith on is made, counted from 1.

    Raises:
        InputError: more than one percent of the images cannot be read, or a vector is not finite.
        OperationalError: the disk is full, memory ran out, or a worker was killed.
    """
    spec, count = towers.spec, pairs.count
    facts = {"pargate": __version__, "model": model.checkpoint.digest, "spec": asdict(spec),
             "pairs": pairs.digest, "count": count}  # fmt: skip
    place = folder / digest_of(facts)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot write {place}: {error.strerror}", "choose another --cache") from error
    parts = [range(first, min(first + SHARD, count)) for first in range(0, count, SHARD)]
    shards = tuple(place / f"{number:06d}.npy" for number in range(len(parts)))
    mine = list(zip(parts, shards, strict=True))[shard[0] - 1 :: shard[1]]
    wanted = [part for part, path in mine if not _holds(path, (len(part), 2, spec.dim))]
    total = -(-sum(map(len, wanted)) // BLOCK)
    unreadable: list[tuple[str, str]] = []
    read = 0

    def seen(block: Block) -> None:
        nonlocal read
        unreadable.extend(block.unreadable)
        read += len(block.rows)
        check_readable(pairs.source, count, unreadable, read)
        emit(Advanced(-(-(read + len(unreadable)) // BLOCK), total))

    for part, vectors in towers.embedded(pairs, wanted, seen):
        check_unchanged(some(pairs, part))
        content = io.BytesIO()
        np.save(content, vectors)
        write_atomic(shards[part.start // SHARD], content.getvalue())
    return Embeddings(shards, count, spec.dim)


def some(pairs: Listed, part: range) -> Listed:
    """Return a part of the pairs, with the files that hold its images alone."""
    rows = slice(part.start, part.stop)
    files, file = np.unique(pairs.file[rows], return_inverse=True)
    return replace(
        pairs, keys=pairs.keys[rows], labels=pairs.labels[rows], texts=pairs.texts[rows],
        file=file.astype(np.int32), offset=pairs.offset[rows], size=pairs.size[rows],
        paths=tuple(pairs.paths[number] for number in files), seen=pairs.seen[files], files=(), unpacked=None,
    )  # fmt: skip


def _told(encoder: "OpenClipEncoder", captions: Sequence[str]) -> Vectors:
    """Return the vectors of captions; each text is embedded once."""
    rows = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
    return encoder.encode_texts(list(rows))[[rows[caption] for caption in captions]]


def _check_finite(embedder: Embedder, vectors: Vectors) -> None:
    if not np.isfinite(vectors).all():
        raise InputError(
            f"{embedder.model.checkpoint.source} gives vectors that are not finite",
            "check the weights, or the precision",
        )


def _holds(path: Path, shape: tuple[int, ...]) -> bool:
    """Return whether a file holds a whole array of this shape."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return bool(found.shape == shape and found.dtype == np.float32)
