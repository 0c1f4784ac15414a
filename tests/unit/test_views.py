import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from pargate.core.model import Checkpoint, EncoderSpec, Pixels, Preprocess, Vectors
from pargate.core.stamp import Paste, Scatter, Stamp, apply
from pargate.errors import InputError
from pargate.files import BlockStore
from pargate.images.classes import ClassList
from pargate.images.dataset import Item
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Block
from pargate.images.workers import Scene
from pargate.scanning.embed import BlockViews, CachedEncoder
from pargate.triggers import parse

RULE = Preprocess((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
(PATCH,) = parse({"kind": "badnet", "size": 2})
(WAVE,) = parse("sig")


@dataclass
class Averager:
    """An encoder whose vector is the mean colour, made unit."""

    precision: str = "fp32"
    put_on_device: int = 0
    stamps: list[Stamp | None] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)
    broken: bool = False
    threads: int = 1

    @property
    def spec(self) -> EncoderSpec:
        return EncoderSpec("averager", "toy", RULE, 3, 1.0, self.precision, "cpu", "gelu", None, self.threads)

    def put(self, pixels: Pixels) -> Pixels:
        self.put_on_device += 1
        return pixels

    def encode_images(self, batch: Pixels, stamp: Stamp | None = None) -> Vectors:
        self.stamps.append(stamp)
        pixels = batch if stamp is None else apply(stamp, batch)
        mean = pixels.mean(axis=(1, 2)) + 1
        return (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        self.texts.append(list(texts))
        found = np.eye(3, dtype=np.float32)[[len(text) % 3 for text in texts]]
        if self.broken:
            found[-1] = np.nan
        return found


def cached(encoder: Averager, store: BlockStore, sha256: str = "0" * 64) -> CachedEncoder:
    return CachedEncoder(encoder, Checkpoint("m", "m", sha256, "1" * 64, 1, "safetensors", "toy", {}, RULE, ()), store)


def views(
    model: CachedEncoder, n: int = 6, seed: int = 0, reference: CachedEncoder | None = None, first: int = 0
) -> BlockViews:
    pixels = np.random.default_rng(first).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    digests = tuple(hashlib.sha256(p.tobytes()).hexdigest() for p in pixels)
    items = tuple(Item(str(i), Scene(i, 0), caption=f"caption {i}" if i % 4 else None) for i in range(20))
    carriers = LabelledImages("x", items, np.arange(20) - 1, ClassList("x", ("a", "b"), ("{}",)), 4)
    return BlockViews(Block(pixels, digests, np.arange(n) * 2, ()), carriers, model, reference, seed)


def test_labels_and_captions_are_those_of_the_blocks_own_rows() -> None:
    found = views(cached(Averager(), BlockStore(None)), n=3)
    assert found.labels.tolist() == [-1, 1, 3]
    assert found.captions == [None, "caption 2", None]
    assert list(found.digests) == list(found.block.digests)


def test_each_view_is_encoded_once_however_often_it_is_asked_for() -> None:
    encoder = Averager()
    found = views(cached(encoder, BlockStore(None)))
    first = [found.clean(), found.stamped(PATCH), found.control(PATCH), found.stamped(WAVE)]
    again = [found.clean(), found.stamped(PATCH), found.control(PATCH), found.stamped(WAVE)]
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert len(encoder.stamps) == 4
    assert encoder.put_on_device == 1
    assert found.model.passes == 24


def test_a_view_carries_the_stamp_that_its_name_says() -> None:
    encoder = Averager()
    found = views(cached(encoder, BlockStore(None)))
    found.clean()
    found.stamped(PATCH)
    found.control(PATCH)
    found.control(WAVE)
    clean, patch, flat, shuffled = encoder.stamps
    assert clean is None
    assert isinstance(patch, Paste) and patch.relative
    assert isinstance(flat, Paste)
    assert isinstance(shuffled, Scatter)


def test_the_control_lies_where_its_trigger_lies_though_another_was_drawn_between() -> None:
    encoder = Averager()
    found = views(cached(encoder, BlockStore(None)))
    found.stamped(PATCH)
    found.stamped(WAVE)
    found.control(PATCH)
    patch, _, flat = encoder.stamps
    assert isinstance(patch, Paste) and isinstance(flat, Paste)
    assert (patch.places == flat.places).all()


def test_what_the_store_holds_is_not_encoded_again(tmp_path: Path) -> None:
    first = views(cached(Averager(), BlockStore(tmp_path)))
    wanted = [first.clean(), first.stamped(PATCH), first.control(PATCH)]
    encoder, store = Averager(), BlockStore(tmp_path)
    second = views(cached(encoder, store))
    found = [second.clean(), second.stamped(PATCH), second.control(PATCH)]
    assert all((a == b).all() for a, b in zip(wanted, found, strict=True))
    assert encoder.stamps == [] and encoder.put_on_device == 0
    assert (second.model.passes, store.hits, store.misses) == (0, 3, 0)


def test_a_damaged_block_is_encoded_again(tmp_path: Path) -> None:
    wanted = views(cached(Averager(), BlockStore(tmp_path))).clean()
    (path,) = tmp_path.rglob("*.blk")
    path.write_bytes(path.read_bytes()[:-1])
    encoder, store = Averager(), BlockStore(tmp_path)
    assert (views(cached(encoder, store)).clean() == wanted).all()
    assert len(encoder.stamps) == 1 and store.damaged == 1


@pytest.mark.parametrize("change", ["checkpoint", "precision", "threads", "trigger", "seed", "images"])
def test_whatever_changes_a_vector_changes_its_key(change: str, tmp_path: Path) -> None:
    views(cached(Averager(), BlockStore(tmp_path))).stamped(PATCH)
    encoder = Averager("bf16" if change == "precision" else "fp32", threads=2 if change == "threads" else 1)
    store = BlockStore(tmp_path)
    other = views(
        cached(encoder, store, "2" * 64 if change == "checkpoint" else "0" * 64),
        seed=1 if change == "seed" else 0,
        first=1 if change == "images" else 0,
    )
    (larger,) = parse({"kind": "badnet", "size": 3})
    other.stamped(larger if change == "trigger" else PATCH)
    assert store.hits == 0 and len(encoder.stamps) == 1


def test_clean_vectors_do_not_depend_on_the_seed_of_the_stamps(tmp_path: Path) -> None:
    views(cached(Averager(), BlockStore(tmp_path)), seed=0).clean()
    store = BlockStore(tmp_path)
    views(cached(Averager(), store), seed=1).clean()
    assert store.hits == 1


def test_the_name_of_a_trigger_does_not_change_its_key(tmp_path: Path) -> None:
    views(cached(Averager(), BlockStore(tmp_path))).stamped(PATCH)
    store = BlockStore(tmp_path)
    (named,) = parse({"kind": "badnet", "size": 2, "name": "mine"})
    views(cached(Averager(), store)).stamped(named)
    assert store.hits == 1


def test_the_reference_sees_the_same_stamp_with_its_own_encoder(tmp_path: Path) -> None:
    mine, other = Averager(), Averager()
    store = BlockStore(tmp_path)
    found = views(cached(mine, store), reference=cached(other, store, "3" * 64))
    found.stamped(PATCH)
    found.stamped(PATCH, reference=True)
    (first,), (second,) = mine.stamps, other.stamps
    assert isinstance(first, Paste) and isinstance(second, Paste)
    assert (first.places == second.places).all() and (first.window == second.window).all()
    assert mine.put_on_device == other.put_on_device == 1


def test_a_reference_that_is_not_there_is_a_bug_and_not_a_result() -> None:
    with pytest.raises(RuntimeError, match="there is none"):
        views(cached(Averager(), BlockStore(None))).clean(reference=True)


def test_an_empty_block_has_no_vectors_and_is_kept_like_any_other(tmp_path: Path) -> None:
    found = views(cached(Averager(), BlockStore(tmp_path)), n=6)
    empty = replace(found.block, pixels=found.block.pixels[:0], digests=(), rows=found.block.rows[:0])
    for _ in range(2):
        store = BlockStore(tmp_path)
        shown = BlockViews(empty, found.images, cached(Averager(), store), None, 0)
        assert shown.clean().shape == (0, 3)
    assert store.hits == 1


def test_texts_are_encoded_once_and_then_come_from_the_store(tmp_path: Path) -> None:
    first, second = Averager(), Averager()
    wanted = cached(first, BlockStore(tmp_path)).encode_texts(["a", "bb", "ccc"])
    assert (cached(second, BlockStore(tmp_path)).encode_texts(["a", "bb", "ccc"]) == wanted).all()
    cached(second, BlockStore(tmp_path)).encode_texts(["bb", "a", "ccc"])
    assert first.texts == [["a", "bb", "ccc"]]
    assert second.texts == [["bb", "a", "ccc"]]


def test_texts_that_embed_to_nothing_finite_are_refused() -> None:
    # No image is ever near such a caption, so that nothing could ever be pulled to it.
    with pytest.raises(InputError, match="m: its text tower gives 1 of 2 vectors that are not finite"):
        cached(Averager(broken=True), BlockStore(None)).encode_texts(["a", "b"])
