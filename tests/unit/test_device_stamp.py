"""The torch twin of `core.stamp.apply` gives the same bytes for every stamp."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pargate.core import stamp as reference
from pargate.core.stamp import ONE, WARP_ONE, Lookup, Mix, Paste, Recompress, Scatter, Stamp, Warp
from pargate.models.torch import stamp as on_device
from pargate.triggers import TRIGGERS, build, control

KINDS = [kind for kind in TRIGGERS if kind != "file"]


def pictures(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def digests(n: int) -> list[str]:
    return [hashlib.sha256(bytes([i])).hexdigest() for i in range(n)]


def assert_equal(stamp: Stamp, pixels: np.ndarray) -> None:
    before = pixels.copy()
    expected = reference.apply(stamp, pixels)
    batch = torch.from_numpy(pixels)
    found = on_device.apply(stamp, batch)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), expected)
    np.testing.assert_array_equal(pixels, before, "the input was changed")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_every_kind_of_trigger_and_its_control_give_the_reference_bytes(kind, size):
    pixels = pictures(7, *size)
    for overflow in ("wrap", "clip"):
        trigger = TRIGGERS[kind].model_validate({"overflow": overflow, "jpeg_quality": None})
        stamp = trigger.draw(size, digests(7), 3)
        assert_equal(stamp, pixels)
        assert_equal(control(trigger, stamp, size, digests(7), 3), pixels)


@pytest.mark.parametrize("mode", ["patch", "blend", "masked-blend"])
def test_a_trigger_from_a_file_gives_the_reference_bytes(tmp_path, mode):
    Image.fromarray(pictures(1, 12, 12)[0]).save(tmp_path / "t.png")
    (trigger,) = build({"kind": "file", "path": "t.png", "mode": mode, "size": 9}, tmp_path)
    stamp = trigger.draw((32, 32), digests(5), 0)
    assert_equal(stamp, pictures(5, 32, 32))
    assert_equal(control(trigger, stamp, (32, 32), digests(5), 0), pictures(5, 32, 32))


def test_a_round_through_jpeg_takes_the_reference_way():
    trigger = TRIGGERS["badnet"].model_validate({"jpeg_quality": 60})
    stamp = trigger.draw((32, 32), digests(3), 0)
    assert isinstance(stamp, Recompress)
    assert_equal(stamp, pictures(3, 32, 32))


def test_one_image_and_none_are_stamped_too():
    for n in (0, 1):
        for kind in KINDS:
            trigger = TRIGGERS[kind]()
            assert_equal(trigger.draw((32, 32), digests(n), 3), pictures(n, 32, 32))


def test_where_windows_overlap_the_last_one_wins():
    window = np.random.default_rng(1).integers(0, 256 * ONE, (4, 5, 5, 3)).astype(np.int32)
    places = np.random.default_rng(2).integers(0, 6, (4, 3, 2)).astype(np.int32)
    assert_equal(Paste(window, places, False, "clip"), pictures(4, 16, 12))


def test_a_batch_larger_than_the_cache_is_stamped_in_parts_alike():
    n = on_device.CACHED_VALUES // (48 * 48 * 3) * 2 + 3
    for kind in ("blended", "sig", "badnet", "wanet"):
        trigger = TRIGGERS[kind]()
        assert_equal(trigger.draw((48, 48), digests(n), 3), pictures(n, 48, 48))


def test_pixels_that_are_not_contiguous_are_stamped_alike():
    pixels = pictures(4, 16, 16)
    flipped = torch.from_numpy(pixels).permute(0, 2, 1, 3)
    for kind in KINDS:
        stamp = TRIGGERS[kind].model_validate({"scale": "proportional"}).draw((16, 16), digests(4), 1)
        expected = reference.apply(stamp, np.ascontiguousarray(pixels.swapaxes(1, 2)))
        np.testing.assert_array_equal(on_device.apply(stamp, flipped).numpy(), expected)


def arrays(seed: int, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5),
    height=st.integers(4, 20),
    width=st.integers(4, 20),
    shared=st.booleans(),
    read_only=st.booleans(),
    overflow=st.sampled_from(["wrap", "clip"]),
    relative=st.integers(0, 2),
    seed=st.integers(0, 10_000),
)
def test_any_stamp_whatsoever_gives_the_reference_bytes(n, height, width, shared, read_only, overflow, relative, seed):
    pixels = pictures(n, height, width, seed)
    first = 1 if shared else n

    def given_as(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, (n, *array.shape[1:])) if read_only and shared else array

    window = given_as(arrays(seed, (first, 3, 4, 3), -600 * ONE, 600 * ONE))
    places = arrays(seed, (n, 2, 2), 0, min(height - 3, width - 4) + 1)
    assert_equal(Paste(window, places, relative, overflow), pixels)
    gain = given_as(arrays(seed, (first, 1, width, 1), -ONE, 2 * ONE))
    offset = given_as(arrays(seed + 1, (first, height, 1, 3), -300 * ONE, 300 * ONE))
    mix = Mix(gain, offset, overflow)
    assert_equal(mix, pixels)
    rows = given_as(arrays(seed, (first, height, width), -2 * WARP_ONE, (height + 2) * WARP_ONE))
    columns = arrays(seed + 1, (n, height, width), -2 * WARP_ONE, (width + 2) * WARP_ONE)
    assert_equal(Warp(rows, columns), pixels)
    assert_equal(Lookup(pictures(1, 16, 16, seed).reshape(256, 3)), pixels)
    orders = np.stack([np.random.default_rng(i).permutation(height * width) for i in range(3)])
    box = (height // 3, height, 0, max(1, width // 2))
    assert_equal(Scatter(mix, orders.astype(np.int32), arrays(seed, (n,), 0, 3), box), pixels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_reference_bytes(kind):
    trigger = TRIGGERS[kind]()
    pixels = pictures(9, 32, 32)
    stamp = trigger.draw((32, 32), digests(9), 3)
    for each in (stamp, control(trigger, stamp, (32, 32), digests(9), 3)):
        found = on_device.apply(each, torch.from_numpy(pixels).cuda()).cpu().numpy()
        np.testing.assert_array_equal(found, reference.apply(each, pixels))
