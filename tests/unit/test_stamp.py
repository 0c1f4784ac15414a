"""The reference that stamps pixels, held to values worked out by hand."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pargate.core.stamp import (
    ONE,
    WARP_ONE,
    Lookup,
    Mix,
    Overflow,
    Paste,
    Recompress,
    Scatter,
    Stamp,
    Warp,
    apply,
    channel_mean,
    digest,
    level,
)

RANDOM = np.random.default_rng(0).integers(0, 256, (3, 8, 10, 3), dtype=np.uint8)


def fixed(levels: object) -> NDArray[np.int32]:
    return np.asarray(np.rint(np.asarray(levels, dtype=np.float64) * ONE), dtype=np.int32)


def filled(colour: tuple[int, int, int], height: int = 4, width: int = 4, n: int = 1) -> NDArray[np.uint8]:
    return np.full((n, height, width, 3), colour, dtype=np.uint8)


def mix(gain: float, offset: object, overflow: Overflow = "clip") -> Mix:
    return Mix(fixed([[[[gain]]]]), fixed(offset), overflow)


def still(height: int, width: int) -> Warp:
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return Warp((rows * WARP_ONE)[None].astype(np.int32), (columns * WARP_ONE)[None].astype(np.int32))


STAMPS: list[Stamp] = [
    Paste(fixed(np.zeros((1, 2, 2, 3))), np.zeros((3, 1, 2), np.int32), False, "clip"),
    mix(0.5, [[[[10.0]]]]),
    still(8, 10),
    Lookup(np.repeat(np.arange(256, dtype=np.uint8)[::-1, None], 3, axis=1)),
    Recompress(mix(1.0, [[[[0.0]]]]), 75),
    Scatter(mix(1.0, [[[[5.0]]]]), np.arange(80, dtype=np.int32)[None], np.zeros(3, np.int32), (0, 8, 0, 10)),
]


@pytest.mark.parametrize(
    ("value", "wrapped", "clipped"),
    [
        (-255.0, 1, 0),  # a stripe of −1: the 8-bit cast of the published code makes it 1
        (255.0, 255, 255),
        (256.0, 0, 255),
        (-0.5, 0, 0),  # truncation is toward zero, so this is 0 and not −1
        (-1.5, 255, 0),
        (10.99, 10, 10),
        (300.7, 44, 255),
        (-600.2, 168, 0),
    ],
)
def test_levels_are_truncated_toward_zero_then_wrapped_or_clipped(value: float, wrapped: int, clipped: int) -> None:
    assert level(fixed([value]), "wrap").tolist() == [wrapped]
    assert level(fixed([value]), "clip").tolist() == [clipped]


@pytest.mark.parametrize("stamp", STAMPS, ids=lambda stamp: type(stamp).__name__)
def test_stamping_leaves_its_input_as_it_was(stamp: Stamp) -> None:
    pixels = RANDOM.copy()
    stamped = apply(stamp, pixels)
    assert (pixels == RANDOM).all()
    assert stamped.shape == pixels.shape and stamped.dtype == np.uint8
    assert not np.shares_memory(stamped, pixels)


def test_a_window_is_pasted_at_each_of_its_places() -> None:
    window = fixed(np.arange(12).reshape(1, 2, 2, 3) + 100)
    stamp = Paste(window, np.array([[[0, 0], [2, 1]], [[1, 2], [1, 2]]], np.int32), False, "clip")
    stamped = apply(stamp, filled((7, 7, 7), n=2))
    expected = filled((7, 7, 7), n=2)
    for image, row, column in ((0, 0, 0), (0, 2, 1), (1, 1, 2)):
        expected[image, row : row + 2, column : column + 2] = np.arange(12).reshape(2, 2, 3) + 100
    assert (stamped == expected).all()


def test_where_windows_overlap_the_last_one_wins() -> None:
    window = fixed([[[[1, 1, 1], [2, 2, 2]]]])
    stamped = apply(Paste(window, np.array([[[0, 1], [0, 0]]], np.int32), False, "clip"), filled((9, 9, 9), 1, 3))
    assert stamped[0, 0, :, 0].tolist() == [1, 2, 2]


def test_a_relative_window_is_added_to_the_mean_of_its_own_image() -> None:
    pixels = np.concatenate([filled((10, 20, 30)), filled((240, 250, 0))])
    stamp = Paste(fixed([[[[10.0, 10.0, -5.0]]]]), np.zeros((2, 1, 2), np.int32), True, "wrap")
    assert apply(stamp, pixels)[:, 0, 0].tolist() == [[20, 30, 25], [250, 4, 251]]
    twice = Paste(fixed([[[[-10.0, -10.0, -5.0]]]]), stamp.places, 2, "clip")
    assert apply(twice, pixels)[:, 0, 0].tolist() == [[10, 30, 55], [255, 255, 0]]


def test_the_mean_colour_is_exact_up_to_a_fixed_point_step() -> None:
    assert (channel_mean(RANDOM) / ONE)[:, 0, 0] == pytest.approx(RANDOM.mean(axis=(1, 2)), abs=1 / ONE)


def test_mixing_nothing_in_is_the_identity() -> None:
    assert (apply(mix(1.0, [[[[0.0]]]]), RANDOM) == RANDOM).all()


def test_a_mix_is_gain_times_pixel_plus_offset() -> None:
    pixels = filled((100, 200, 250))
    assert apply(mix(0.5, [[[[10.0, 20.0, 30.0]]]]), pixels)[0, 0, 0].tolist() == [60, 120, 155]
    assert apply(mix(1.0, [[[[-101.0, 60.0, 6.0]]]], "clip"), pixels)[0, 0, 0].tolist() == [0, 255, 255]
    assert apply(mix(1.0, [[[[-101.0, 60.0, 6.0]]]], "wrap"), pixels)[0, 0, 0].tolist() == [255, 4, 0]


def test_a_warp_that_moves_nothing_is_the_identity() -> None:
    assert (apply(still(8, 10), RANDOM) == RANDOM).all()


def test_a_warp_reads_between_pixels_bilinearly() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[0, :, :, 0] = [[0, 100], [200, 40]]
    half = np.full((1, 2, 2), WARP_ONE // 2, np.int32)
    top = np.zeros((1, 2, 2), np.int32)
    assert (apply(Warp(half, half), pixels)[..., 0] == 85).all()
    assert (apply(Warp(top, half), pixels)[..., 0] == 50).all()
    assert (apply(Warp(top, half // 2), pixels)[..., 0] == 25).all()


def test_a_warp_repeats_the_border_outside_the_image() -> None:
    before, after = np.full((1, 8, 10), -1000, np.int32), np.full((1, 8, 10), 99 * WARP_ONE, np.int32)
    assert (apply(Warp(before, after), RANDOM) == RANDOM[:, :1, -1:]).all()


def test_a_lookup_maps_each_channel_by_its_own_column() -> None:
    table = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 9)], axis=1).astype(np.uint8)
    assert apply(Lookup(table), filled((10, 10, 10)))[0, 0, 0].tolist() == [10, 245, 9]


def test_recompressing_is_a_round_through_a_jpeg_file() -> None:
    darker = mix(0.5, [[[[0.0]]]])
    expected = []
    for image in apply(darker, RANDOM):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=60)
        expected.append(np.asarray(Image.open(buffer)))
    assert (apply(Recompress(darker, 60), RANDOM) == np.stack(expected)).all()


def test_recompressing_leaves_a_grey_image_grey() -> None:
    stamped = apply(Recompress(mix(1.0, [[[[0.0]]]]), 95), filled((90, 90, 90), 16, 16))
    assert (stamped == 90).all()


def test_scattering_moves_the_change_turns_its_mean_round_and_keeps_its_energy() -> None:
    pixels = filled((128, 128, 128), 8, 8, n=3)
    change = np.random.default_rng(1).integers(-30, 31, (1, 8, 8, 3)) + np.array([20, 0, -25])
    inner = mix(1.0, change)
    orders = np.stack([np.random.default_rng(seed).permutation(64) for seed in (2, 3)]).astype(np.int32)
    stamp = Scatter(inner, orders, np.array([0, 1, 0], np.int32), (0, 8, 0, 8))
    moved = apply(stamp, pixels).astype(int) - 128
    opposite = np.rint(2 * change.mean(axis=(0, 1, 2))).astype(int)
    assert (moved.reshape(3, 64, 3) == change.reshape(64, 3)[orders[[0, 1, 0]]] - opposite).all()
    assert (moved**2).sum(axis=(1, 2, 3)) == pytest.approx((change**2).sum(), rel=0.03)
    assert moved.mean(axis=(1, 2)) == pytest.approx(-np.broadcast_to(change.mean(axis=(0, 1, 2)), (3, 3)), abs=0.5)


def test_scattering_changes_nothing_outside_its_box() -> None:
    pixels = filled((100, 100, 100), 2, 4)
    inner = mix(1.0, [[[[8.0], [8.0], [0.0], [0.0]], [[8.0], [8.0], [0.0], [0.0]]]])
    stamp = Scatter(inner, np.arange(8, dtype=np.int32)[None], np.zeros(1, np.int32), (0, 2, 0, 2))
    assert apply(stamp, pixels)[0, :, :, 0].tolist() == [[92, 92, 100, 100]] * 2


def test_scattered_changes_stay_within_the_range_of_pixels() -> None:
    pixels = np.concatenate([filled((0, 0, 0), 1, 1), filled((255, 255, 255), 1, 1)], axis=2)
    swap = np.array([[1, 0]], np.int32)
    inverted = Lookup(np.repeat(np.arange(256, dtype=np.uint8)[::-1, None], 3, axis=1))
    assert apply(Scatter(inverted, swap, np.zeros(1, np.int32), (0, 1, 0, 2)), pixels)[0, 0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("stamp", STAMPS, ids=lambda stamp: type(stamp).__name__)
def test_an_empty_batch_stays_empty(stamp: Stamp) -> None:
    match stamp:
        case Paste(window, places, relative, overflow):
            stamp = Paste(window, places[:0], relative, overflow)
        case Scatter(inner, orders, choice, box):
            stamp = Scatter(inner, orders, choice[:0], box)
    assert apply(stamp, RANDOM[:0]).shape == (0, 8, 10, 3)


def test_digests_tell_stamps_apart_by_kind_values_shape_and_settings() -> None:
    places = np.zeros((1, 1, 2), np.int32)
    window = fixed(np.zeros((1, 1, 4, 3)))
    different: list[Stamp] = [
        *STAMPS,
        Paste(window, places, False, "clip"),
        Paste(window.reshape(1, 2, 2, 3), places, False, "clip"),
        Paste(window, places + 1, False, "clip"),
        Paste(window, places, True, "clip"),
        Paste(window, places, False, "wrap"),
        Recompress(STAMPS[1], 75),
        Recompress(STAMPS[1], 76),
    ]
    assert len({digest(stamp) for stamp in different}) == len(different)
    assert digest(mix(0.5, [[[[10.0]]]])) == digest(STAMPS[1])
