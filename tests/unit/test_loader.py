"""Batches are decoded ahead, once, by the model's own rule; what does not decode is replaced and counted."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pargate.core.model import Preprocess
from pargate.errors import InputError, OperationalError
from pargate.images import workers
from pargate.images.dataset import Dataset
from pargate.images.decode import Locator, decode
from pargate.images.opening import open_pairs
from pargate.images.prefetch import BatchOrder, PairBatch, PairLoader
from pargate.images.workers import Place

RULE = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SHARD = Path(__file__).parents[3] / "shared" / "data" / "pairs-64.tar"


def folder(path: Path, count: int, damaged: Sequence[int] = ()) -> Dataset:
    """`count` pairs; the red of picture i is i."""
    path.mkdir(exist_ok=True)
    for number in range(count):
        Image.new("RGB", (40, 32), (number, 0, 0)).save(path / f"{number:04d}.png")
        if number in damaged:
            (path / f"{number:04d}.png").write_bytes(f"not a picture {number}".encode())
        (path / f"{number:04d}.txt").write_text(f"caption {number}")
    return open_pairs(str(path), seed=0)


def loader_of(
    pairs: Any, steps: range, batch: int, *, seed: int = 0, world: int = 1, workers: int = 0, **options: Any
) -> PairLoader:
    return PairLoader(pairs, RULE, BatchOrder(pairs.count, seed, batch, world), steps, workers=workers, **options)


def batches(pairs: Any, steps: int, *, first_step: int = 0, **options: Any) -> list[PairBatch]:
    with loader_of(pairs, range(first_step, steps), **options) as loader:
        return [loader.batch(step) for step in range(first_step, steps)]


def same(some: PairBatch, other: PairBatch) -> bool:
    arrays = np.array_equal(some.numbers, other.numbers) and np.array_equal(some.pixels, other.pixels)
    return arrays and some.captions == other.captions and some.digests == other.digests


def test_a_batch_holds_pictures_with_their_captions(tmp_path: Path) -> None:
    for batch in batches(folder(tmp_path / "p", 20), 3, batch=8):
        assert batch.numbers.dtype == np.int64 and batch.pixels.dtype == np.uint8
        assert batch.pixels.shape == (8, 32, 32, 3)
        assert batch.pixels[:, 5, 5, 0].tolist() == batch.numbers.tolist()
        assert batch.captions == tuple(f"caption {number}" for number in batch.numbers)
        contents = [(tmp_path / "p" / f"{number:04d}.png").read_bytes() for number in batch.numbers]
        assert batch.digests == tuple(hashlib.sha256(content).hexdigest() for content in contents)
        assert batch.pixels[0].tobytes() == decode(contents[0], RULE).pixels.tobytes()  # type: ignore[union-attr]


def test_workers_give_what_this_process_gives_in_any_order(tmp_path: Path) -> None:
    pairs = folder(tmp_path / "p", 150, damaged=[60])
    expected = batches(pairs, 6, batch=70)
    with loader_of(pairs, range(6), 70, workers=2) as loader:
        for step in (0, 1, 5, 2, 2, 0, 3, 4):
            assert same(loader.batch(step), expected[step])
        assert list(loader.unreadable) == [60]


def test_a_run_that_goes_on_sees_what_it_would_have_seen(tmp_path: Path) -> None:
    pairs = folder(tmp_path / "p", 150, damaged=[9])
    whole = batches(pairs, 9, batch=40)
    rest = batches(pairs, 9, batch=40, first_step=5)
    assert all(same(a, b) for a, b in zip(whole[5:], rest, strict=True))


@pytest.mark.parametrize("source", ["folder", "synthetic:", "synthetic:40"])
def test_two_ranks_share_the_batch_of_one(source: str, tmp_path: Path) -> None:
    pairs = folder(tmp_path / "p", 150, damaged=[9]) if source == "folder" else open_pairs(source, seed=0)
    one = batches(pairs, 3, batch=20)
    first, second = (batches(pairs, 3, batch=10, world=2, rank=rank) for rank in (0, 1))
    for joined, a, b in zip(one, first, second, strict=True):
        assert joined.captions == a.captions + b.captions and joined.digests == a.digests + b.digests
        assert np.array_equal(joined.pixels, np.concatenate([a.pixels, b.pixels]))


def test_drawn_pairs_carry_the_digest_of_their_pixels() -> None:
    (batch,) = batches(open_pairs("synthetic:", seed=3), 1, batch=4, seed=9)
    drawn = workers.render_scenes([0, 1, 2, 3], RULE, 3)
    assert batch.digests == tuple(picture.digest for picture in drawn) and batch.numbers.tolist() == [0, 1, 2, 3]
    assert batch.pixels.shape == (4, 32, 32, 3)


# ---- the store


class Watched:
    """Pairs that note which pictures are asked for."""

    def __init__(self, pairs: Dataset) -> None:
        self._pairs = pairs
        self.decoded: list[Place] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pairs, name)

    def places(self, numbers: Sequence[int]) -> list[Place]:
        self.decoded += (found := self._pairs.places(numbers))
        return found


def test_each_picture_is_decoded_once(tmp_path: Path) -> None:
    pairs = Watched(folder(tmp_path / "p", 120, damaged=[7]))
    found = batches(pairs, 40, batch=12)
    assert len(pairs.decoded) == len(set(pairs.decoded)) == 120
    assert {int(number) for batch in found[30:] for number in batch.numbers} == set(range(120)) - {7}


def test_a_store_that_is_full_costs_time_and_nothing_else(tmp_path: Path) -> None:
    pairs = Watched(folder(tmp_path / "p", 30))
    with loader_of(pairs, range(6), 10, store_bytes=12 * 32 * 32 * 3) as loader:
        small = [loader.batch(step) for step in range(6)]
    assert len(pairs.decoded) == 30 + 18
    assert all(same(a, b) for a, b in zip(small, batches(pairs, 6, batch=10), strict=True))


# ---- what does not decode


def test_the_next_readable_pair_takes_the_place_of_one_that_is_not(tmp_path: Path) -> None:
    pairs = folder(tmp_path / "p", 250, damaged=[100, 249])
    with loader_of(pairs, range(2), 250) as loader:
        for step in range(2):
            batch, wanted = loader.batch(step), loader.order.numbers(step)
            assert batch.numbers.tolist() == [{100: 101, 249: 0}.get(number, number) for number in wanted.tolist()]
            assert batch.captions == tuple(f"caption {number}" for number in batch.numbers)
            assert batch.pixels[:, 0, 0, 0].tolist() == batch.numbers.tolist()
        assert sorted(loader.unreadable) == [100, 249] and "cannot identify" in loader.unreadable[100]


def test_of_neighbours_that_do_not_decode_the_next_but_one_counts(tmp_path: Path) -> None:
    pairs = folder(tmp_path / "p", 220, damaged=[100, 101])
    first, second = batches(pairs, 2, batch=220)
    assert sorted(first.numbers.tolist()) == sorted(second.numbers.tolist())
    assert first.numbers.tolist().count(102) == 3


def test_too_many_pictures_that_do_not_decode_end_the_run(tmp_path: Path) -> None:
    pairs = folder(tmp_path / "p", 200, damaged=range(40, 60))
    with pytest.raises(InputError, match="3 of 200 images cannot be decoded") as caught:
        batches(pairs, 1, batch=200)
    assert caught.value.message.count("cannot identify") == 3 and "'caption 4" in caught.value.message
    assert "repair or remove" in caught.value.hint


def test_of_a_small_source_every_picture_must_decode(tmp_path: Path) -> None:
    pairs = folder(tmp_path / "p", 99, damaged=[50])
    with pytest.raises(InputError, match=r"1 of 99 images .*: pair 50 \('caption 50'\): cannot identify"):
        batches(pairs, 3, batch=33)


def test_a_picture_that_is_removed_meanwhile_is_unreadable(tmp_path: Path) -> None:
    pairs = folder(tmp_path / "p", 200)
    (tmp_path / "p" / "0004.png").unlink()
    with loader_of(pairs, range(1), 200) as loader:
        loader.batch(0)
        assert loader.unreadable == {4: "No such file or directory"}


# ---- processes


def test_a_batch_larger_than_the_source_is_refused_before_a_worker_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than the 5 pairs"):
        loader_of(folder(tmp_path / "p", 5), range(1), 6, workers=2)


def test_nothing_is_prepared_beyond_the_last_step(tmp_path: Path) -> None:
    with loader_of(folder(tmp_path / "p", 40), range(1, 2), 10, workers=1) as loader:
        assert list(loader._pending) == [1]
        loader.batch(1)
        assert not loader._pending
        assert loader.batch(3).numbers.shape == (10,)


def test_a_killed_worker_is_an_operational_error(tmp_path: Path) -> None:
    with loader_of(folder(tmp_path / "p", 40), range(9), 4, workers=2) as loader:
        loader.batch(0)
        for worker in loader._workers._processes:
            worker.kill()
        began = time.monotonic()
        with pytest.raises(OperationalError, match="was killed"):
            for step in range(3, 9):
                loader.batch(step)
        assert time.monotonic() - began < 30


@pytest.mark.skipif(not SHARD.exists(), reason=f"no {SHARD}: the real pairs are not part of the repository")
def test_real_pairs_are_loaded() -> None:
    pairs = open_pairs(str(SHARD), seed=0)
    first, second = batches(pairs, 2, batch=64)
    assert not set(first.numbers) & set(second.numbers) and len(set(first.digests)) == 64
    assert all(isinstance(place, Locator) for place in pairs.places([0]))
