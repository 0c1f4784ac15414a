"""Blocks come in the set's order from processes of their own, whose death is reported."""

import hashlib
import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pargate.core.model import Preprocess
from pargate.errors import InputError, OperationalError
from pargate.images.dataset import Item
from pargate.images.decode import Locator
from pargate.images.prefetch import Decoder, check_readable
from pargate.images.workers import Scene, render_scenes

RULE = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
BLOCKS = [np.arange(first, first + 3) for first in range(0, 24, 3)]
UNREADABLE = {4: b"not a picture", 9: b"", 10: b"", 11: b""}  # a single one, and a whole block


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    folder: Path = tmp_path_factory.mktemp("carriers")
    found = []
    for number in range(24):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 32), (number * 10, 0, 0)).save(buffer, "PNG")
        path = folder / f"{number}.png"
        path.write_bytes(UNREADABLE.get(number, buffer.getvalue()))
        found.append(Item(path.name, Locator(str(path))))
    return found


@pytest.fixture(scope="module")
def decoder(items: list[Item]) -> Iterator[Decoder]:
    with Decoder(RULE) as decoder:
        decoder.start(items, BLOCKS)
        yield decoder


def test_blocks_hold_their_items_in_order_whatever_order_they_are_asked_in(decoder: Decoder, items: list[Item]) -> None:
    for number in (0, 6, 2, 7):
        block = decoder.block(number)
        assert block.rows.tolist() == BLOCKS[number].tolist()
        assert block.pixels.shape == (3, 32, 32, 3)
        assert block.pixels[:, 0, 0, 0].tolist() == [row * 10 for row in block.rows]
        contents = [places.read() for row in block.rows if isinstance(places := items[row].place, Locator)]
        assert list(block.digests) == [hashlib.sha256(content).hexdigest() for content in contents]


def test_an_unreadable_picture_is_named_and_the_others_stay(decoder: Decoder) -> None:
    block = decoder.block(1)
    assert block.rows.tolist() == [3, 5] and len(block.digests) == 2
    assert block.pixels[:, 0, 0, 0].tolist() == [30, 50]
    ((key, reason),) = block.unreadable
    assert key == "4.png" and "cannot identify" in reason


def test_a_block_without_a_readable_picture_is_empty(decoder: Decoder) -> None:
    block = decoder.block(3)
    assert block.pixels.shape == (0, 32, 32, 3)
    assert [key for key, _ in block.unreadable] == ["9.png", "10.png", "11.png"]


def test_a_second_look_decodes_nothing_again(decoder: Decoder) -> None:
    assert decoder.block(2) is decoder.block(2)


def test_scenes_are_rendered_by_the_workers_as_they_are_here() -> None:
    with Decoder(RULE) as decoder:
        decoder.start([Item("a", Scene(5, 3)), Item("b", Scene(9, 3))], [np.arange(2)])
        block = decoder.block(0)
    assert list(block.digests) == [found.digest for found in render_scenes([5, 9], RULE, 3)]


def test_a_killed_worker_is_an_operational_error_that_says_why(items: list[Item]) -> None:
    with Decoder(RULE) as decoder:
        decoder.start(items, BLOCKS)
        decoder.block(0)
        for worker in decoder._workers._processes:
            worker.kill()
        began = time.monotonic()
        with pytest.raises(OperationalError, match="a process that decodes images was killed") as caught:
            for number in range(3, len(BLOCKS)):
                decoder.block(number)
        assert "memory" in caught.value.hint
        assert time.monotonic() - began < 30


LOST = [(f"{i}.png", f"reason {i}") for i in range(64)]


@pytest.mark.parametrize(
    ("total", "lost", "read", "words"),
    [
        (400, 64, 0, "64 of the 400 images in shelf cannot be read, more than 1%: 0.png: reason 0; 1.png: reason 1"),
        (400, 5, 59, "5 of the 400 images in shelf cannot be read, more than 1%"),
        (100_000, 64, 0, "64 of the first 64 images in shelf cannot be read, more than half"),
        (100_000, 33, 31, "33 of the first 64 images in shelf cannot be read, more than half"),
    ],
)
def test_what_cannot_be_read_ends_a_run_before_the_rest_stands_for_all(
    total: int, lost: int, read: int, words: str
) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        check_readable("shelf", total, LOST[:lost], read)


@pytest.mark.parametrize(("total", "lost", "read"), [(400, 4, 60), (100_000, 32, 32), (1, 0, 0)])
def test_a_few_that_cannot_be_read_are_no_reason_to_stop(total: int, lost: int, read: int) -> None:
    check_readable("shelf", total, LOST[:lost], read)


def test_the_first_block_is_refused_where_little_of_it_can_be_read(items: list[Item]) -> None:
    with Decoder(RULE) as decoder:
        decoder.start(items, [BLOCKS[3], BLOCKS[0]])
        with pytest.raises(InputError, match=r"3 of the 24 images in shelf cannot be read, .*9\.png: .*; 11\.png: "):
            decoder.readable(0, "shelf")
