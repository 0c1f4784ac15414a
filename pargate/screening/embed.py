"""Embeddings of both towers for all pairs of a set, in memory-mapped files that a killed run goes on from.

A file holds the vectors of `SHARD` pairs and is named for everything that decides them: model, arithmetic, pairs, and
the number of the shard. Memory does not grow with the number of pairs.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pargate.core.model import Precision, Vectors
from pargate.errors import InputError, OperationalError
from pargate.events import Advanced, Listener, ignore
from pargate.files import digest_of, write_atomic
from pargate.images.dataset import Item, Listed, check_unchanged
from pargate.images.prefetch import Decoder, check_readable
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


@dataclass(frozen=True)
class Embedder:
    """An open model with the precision that was chosen for it."""

    model: Model
    encoder: "OpenClipEncoder"
    note: str
    """Reason for the precision."""


def open_embedder(
    model: Model, pairs: Listed, device: str, precision: Literal["auto"] | Precision, decoder: Decoder
) -> Embedder:
    """Open the towers of a model in the precision that a scan would use.

    Args:
        model: the checkpoint.
        pairs: the pairs, the first of which are embedded in both precisions where there is a choice.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: that of the image tower; `auto` chooses.
        decoder: decodes images for the model.

    Raises:
        InputError, OperationalError: as `Model.encoder`, or the images cannot be read.
    """
    from pargate.models.torch.encoder import bf16_is_faster, resolve

    encoder = model.encoder(device=device)
    if precision != "auto":
        return Embedder(model, encoder.into_precision(precision), "")
    faster, why = bf16_is_faster(resolve(device))
    if not faster:
        return Embedder(model, encoder, f"fp32: {why}")
    rows = Rows(pairs)
    decoder.start(rows, [np.arange(min(BLOCK, len(rows)))])
    pixels = decoder.readable(0, pairs.source).pixels
    head = encoder.encode_texts(pairs.captions(range(min(TRIAL, len(rows)))))
    activation = encoder.spec.activation
    chosen = checked_bf16(encoder, pixels, head, why, lambda: model.encoder(device=device, activation=activation))
    return Embedder(model, chosen.encoder, chosen.note)


class Rows(Sequence[Item]):
    """The images of a dataset, made one by one when they are read."""

    def __init__(self, pairs: Listed) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return self._pairs.count

    def __getitem__(self, number: int) -> Item:  # type: ignore[override]  # no slices are read
        (place,) = self._pairs.places([number])
        return Item(self._pairs.keys[number], place)


def embed(embedder: Embedder, pairs: Listed, folder: Path, decoder: Decoder, emit: Listener = ignore) -> Embeddings:
    """Return the embeddings of all pairs; those that `folder` holds already are not computed again.

    Args:
        embedder: the open model.
        pairs: the pairs.
        folder: place of the files, which is created.
        decoder: decodes images for the model.
        emit: listener for progress.

    Raises:
        InputError: more than one percent of the images cannot be read, or a vector is not finite.
        OperationalError: the disk is full, memory ran out, or a worker was killed.
    """
    encoder, count = embedder.encoder, pairs.count
    facts = {"pargate": __version__, "model": embedder.model.checkpoint.digest, "spec": asdict(encoder.spec),
             "pairs": pairs.digest, "count": count}  # fmt: skip
    place = folder / digest_of(facts)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot write {place}: {error.strerror}", "choose another --cache") from error
    sizes = [min(SHARD, count - first) for first in range(0, count, SHARD)]
    shards = tuple(place / f"{number:06d}.npy" for number in range(len(sizes)))
    shapes = [(size, 2, encoder.spec.dim) for size in sizes]
    wanted = [n for n, path in enumerate(shards) if not _holds(path, shapes[n])]
    blocks = [np.arange(a, min(a + BLOCK, n * SHARD + sizes[n])) for n in wanted
              for a in range(n * SHARD, n * SHARD + sizes[n], BLOCK)]  # fmt: skip
    decoder.start(Rows(pairs), blocks)
    done = 0
    unreadable: list[tuple[str, str]] = []
    read = 0
    for number in wanted:
        vectors = np.full(shapes[number], np.nan, dtype=np.float32)
        first = number * SHARD
        vectors[:, 1] = _told(encoder, pairs.captions(range(first, first + sizes[number])))
        for _ in range(0, sizes[number], BLOCK):
            block = decoder.block(done)
            unreadable += block.unreadable
            read += len(block.rows)
            check_readable(pairs.source, count, unreadable, read)
            vectors[block.rows - first, 0] = encoder.image_features(encoder.put(block.pixels))
            _check_finite(embedder, vectors[block.rows - first])
            done += 1
            emit(Advanced(done, len(blocks)))
        files = np.unique(pairs.file[first : first + sizes[number]])
        check_unchanged(replace(pairs, paths=tuple(pairs.paths[f] for f in files), seen=pairs.seen[files]))
        content = io.BytesIO()
        np.save(content, vectors)
        write_atomic(shards[number], content.getvalue())
    return Embeddings(shards, count, encoder.spec.dim)


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
