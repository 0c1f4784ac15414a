"""Pairs: captioned pictures that a model is cleaned with.

`open_pairs` lists a source; `loader.PairLoader` reads it, batch by batch. Which pairs a step sees is a pure
function of source, seed and step, so that a run which was interrupted sees what it would have seen, and more
devices see the same batches as one.

Deliberately no labels and no classes to predict: cleaning learns from pairs alone.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pargate import seeds
from pargate.errors import InputError, nearest
from pargate.files import files_below, readable
from pargate.images import tables
from pargate.images.captioned import Captioned, from_folder, from_table, from_tars
from pargate.images.sources import BUILTIN_SCENES, expand, is_picture, left_out
from pargate.images.synthetic import SCHEME as SYNTHETIC
from pargate.images.synthetic import open_synthetic
from pargate.images.workers import Place

HUB = "hf:"
DIFFUSERS = "diffusers:"

_SHARDS = (".tar", ".parquet")

Numbers = Sequence[int] | NDArray[np.integer]


def is_generated(source: str) -> bool:
    """Whether a text-to-image model makes the pairs of a source before they can be listed."""
    return source.startswith(DIFFUSERS)


class Pairs(Protocol):
    """A listed source. Pairs are numbered from 0; nothing is decoded yet."""

    @property
    def source(self) -> str:
        """What the user named."""
        ...

    @property
    def digest(self) -> str:
        """Hex SHA-256 of everything that decides captions and pictures."""
        ...

    @property
    def count(self) -> int | None:
        """How many pairs there are, or None where there is no last one."""
        ...

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know about this source."""
        ...

    def captions(self, numbers: Numbers) -> list[str]:
        """The captions of these pairs."""
        ...

    def places(self, numbers: Numbers) -> list[Place]:
        """Where the pictures of these pairs are, small enough to be sent to another process."""
        ...

    def changed(self) -> str | None:
        """A file that is no longer what it was when it was listed."""
        ...


def check_unchanged(pairs: Pairs) -> None:
    """Refuse what was read of pairs whose files were written meanwhile: it is not what their digest stands for.

    Raises:
        InputError: a file has another size, or was changed since it was listed.
    """
    if (path := pairs.changed()) is not None:
        raise InputError(
            f"{readable(path)} was changed while it was in use: what was read is not what was listed",
            "begin anew, and leave the pairs as they are meanwhile",
        )


@dataclass(frozen=True, slots=True)
class ListedPairs:
    """Pairs on disk."""

    source: str
    """What the user named."""
    listed: Captioned
    """Captions and places."""
    notices: tuple[str, ...] = ()
    """What the user should know."""
    unpacked: object = None
    """A folder that must be there as long as these pairs are in use."""

    @property
    def digest(self) -> str:
        """Hex SHA-256 over names and bytes."""
        return self.listed.digest

    @property
    def count(self) -> int:
        """How many."""
        return len(self.listed.captions)

    def changed(self) -> str | None:
        """A file that is no longer what it was when it was listed."""
        return self.listed.changed()

    def captions(self, numbers: Numbers) -> list[str]:
        """The captions of these pairs."""
        return [self.listed.captions[number] for number in numbers]

    def places(self, numbers: Numbers) -> list[Place]:
        """Where their pictures are."""
        return [self.listed.place(int(number)) for number in numbers]


def open_pairs(source: str, *, seed: int, cache: Path | None = None, classes: Sequence[str] | None = None) -> Pairs:
    """List the pairs of a source.

    `source` is a CSV or TSV with the header `image,caption`, a folder of pictures with a `.txt` beside each,
    WebDataset tars or Parquet files (with brace ranges, or a folder of them), `hf:ORG/NAME[@REV]`, `synthetic:`
    or `synthetic:COUNT`. `seed` decides what is drawn, and `classes` which things, where the source is drawn;
    others ignore both. Parquet is unpacked below `cache`, or into a folder that goes with the process.

    Raises:
        InputError: nothing there, an unknown kind of source, or not one caption for each picture.
        OperationalError: the hub cannot be reached, pyarrow is missing, or the disk is full.
    """
    if source.startswith(SYNTHETIC):
        return open_synthetic(source, seed, classes)
    pairs = _opened(source, cache)
    if pairs.count < 2:
        raise InputError(
            f"{source} holds {'one pair' if pairs.count else 'no pairs'}",
            "contrastive learning tells pairs apart: it needs two, and learns from thousands",
        )
    return pairs


def _opened(source: str, cache: Path | None) -> ListedPairs:
    _check_scheme(source)
    try:
        return _listed(source, _fetched(source) if source.startswith(HUB) else _paths(source), cache)
    except OSError as error:  # a folder that may not be read, a name that is too long
        raise InputError(
            f"cannot read {error.filename or f'pairs from {source[:80]}'}: {error.strerror}",
            "check the path and its permissions",
        ) from error


def _fetched(source: str) -> list[Path]:
    from pargate.images.hub import fetch_dataset  # half a second, for those who need it

    return fetch_dataset(source)


def _check_scheme(source: str) -> None:
    """Refuse what is neither a path nor a scheme of ours."""
    if source == BUILTIN_SCENES or source.startswith("builtin:"):
        raise InputError(
            f"{source} are carriers, which judge a model and must not clean it",
            f"write {SYNTHETIC} for pairs from the same renderer that never meet them",
        )
    if is_generated(source):
        raise InputError(f"{source} must be generated first", "`pargate clean` and `pargate synth` do that")
    named = re.match(r"[A-Za-z][A-Za-z0-9_-]+:", source)
    if named and named[0] != HUB and not Path(source).exists():
        near = nearest(named[0].casefold(), [SYNTHETIC, HUB, DIFFUSERS])
        raise InputError(
            f"unknown pair source '{source[:80]}'.{near}",
            f"give a CSV, a folder, WebDataset tars or Parquet files, {HUB}DATASET, {SYNTHETIC}, or {DIFFUSERS}MODEL",
        )


def _paths(source: str) -> list[Path]:
    """Files of a source, or its folder; a folder of shards is its shards."""
    paths = expand(source)
    if len(paths) == 1 and paths[0].is_dir():
        below = files_below(paths[0])
        found = [p for p in below if p.suffix.lower() in _SHARDS]
        suffix = found[0].suffix.lower() if found else ""
        if picture := next((p for p in below if found and is_picture(p)), None):
            raise InputError(
                f"{paths[0]} holds {found[0].name} and {picture.name}: shards, or pictures?",
                f"name what is meant, such as {paths[0]}/{{000..007}}{suffix}, or keep them apart",
            )
        if other := next((p for p in found if p.parent != paths[0] or p.suffix.lower() != suffix), None):
            names = " and ".join(readable(p.relative_to(paths[0]).as_posix()) for p in (found[0], other))
            raise InputError(
                f"{paths[0]} holds {names}: shards of several kinds, or in subfolders",
                f"name what is meant, such as {paths[0]}/{{000..007}}{suffix}, or keep them apart",
            )
        if found:
            return found
    return paths


def _listed(source: str, paths: list[Path], cache: Path | None) -> ListedPairs:
    kinds = {path.suffix.lower() for path in paths}
    if kinds == {".tar"}:
        return _told(source, from_tars(paths))
    if kinds == {".parquet"}:
        from pargate.images.parquet import from_parquet

        return ListedPairs(source, *from_parquet(source, paths, cache))
    if len(paths) > 1:
        raise InputError(
            f"{source} names {len(paths)} pair sources", "only tars and Parquet files can be given as several"
        )
    if paths[0].is_dir():
        return _told(source, from_folder(paths[0]))
    if kinds <= set(tables.SUFFIXES):
        return ListedPairs(source, from_table(paths[0]))
    raise InputError(
        f"cannot read pairs from {source}",
        "give a CSV or TSV with the header image,caption, a folder with a .txt beside each picture, WebDataset .tar "
        f"files, Parquet files, {HUB}DATASET, {SYNTHETIC} or {DIFFUSERS}MODEL",
    )


def _told(source: str, listed: Captioned) -> ListedPairs:
    """Pairs with what to say about the rest of their source."""
    return ListedPairs(source, listed, tuple(f"{source}: {text}" for text in left_out("files", listed.left_out)))


@dataclass(frozen=True, slots=True)
class Split:
    """Which pairs each step sees, and which of them each rank.

    A finite source is shuffled anew for every epoch, and each epoch drops the pairs that do not fill a whole
    batch over all ranks. A source without end is taken in its order.
    """

    count: int | None
    """Pairs of the source."""
    seed: int
    """Of the shuffling."""
    batch: int
    """Pairs a step, on one rank."""
    world: int = 1
    """Ranks."""

    def __post_init__(self) -> None:
        whole = self.batch * self.world
        if self.batch < 1 or whole < 2:
            raise InputError(
                f"a batch of {whole} pairs", "contrastive learning tells pairs apart: it needs at least two"
            )
        if self.count is not None and whole > self.count:
            each = f" on each of {self.world} processes, {whole} in all," if self.world > 1 else ""
            largest = self.count // self.world
            raise InputError(
                f"a batch of {self.batch}{each} is more than the {self.count} pairs of the source",
                f"the largest that works is {largest}" if largest * self.world > 1 else "give more pairs",
            )

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps until every pair was seen, or None without end."""
        return None if self.count is None else self.count // (self.batch * self.world)

    def numbers(self, step: int, rank: int = 0) -> NDArray[np.int64]:
        """Numbers of the pairs that `rank` sees in `step` (from 0): int64 [batch]."""
        whole = self.batch * self.world
        if self.count is None:
            first = step * whole + rank * self.batch
            return np.arange(first, first + self.batch, dtype=np.int64)
        epoch, within = divmod(step, self.count // whole)
        first = within * whole + rank * self.batch
        return _shuffled(self.seed, epoch, self.count)[first : first + self.batch]


@lru_cache(maxsize=2)
def _shuffled(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of one epoch, which must not be changed."""
    order = seeds.permutation(seed, f"pairs of epoch {epoch}", count)
    order.setflags(write=False)
    return order
