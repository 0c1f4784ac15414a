"""Controls have a trigger's place and energy, and none of its structure."""

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pargate.core.stamp import Lookup, Mix, Paste, Recompress, Scatter, Stamp, apply, channel_mean, level
from pargate.triggers import TRIGGERS, Trigger, control, parse

SIZE = (48, 64)
FLAT = {"badnet", "stripes-patch", "lattice", "yellow-patch", "four-corners", "blended"}
KINDS = [kind for kind in TRIGGERS if kind != "file"]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3), dtype=np.uint8)
GREY = np.full((6, *SIZE, 3), 128, dtype=np.uint8)


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)]


def one(kind: str, **parameters: Any) -> Trigger:
    (trigger,) = parse({"kind": kind, **parameters})
    return trigger


def pair(trigger: Trigger, count: int = 6, seed: int = 0) -> tuple[Stamp, Stamp]:
    """A trigger's stamp and its control's."""
    stamp = trigger.draw(SIZE, digests(count), seed)
    return stamp, control(trigger, stamp, SIZE, digests(count), seed)


def pastes(trigger: Trigger, count: int = 6) -> tuple[Paste, Paste]:
    stamp, against = pair(trigger, count)
    assert isinstance(stamp, Paste) and isinstance(against, Paste)
    return stamp, against


@pytest.mark.parametrize("kind", KINDS)
def test_patches_and_noise_have_a_flat_control_and_other_patterns_a_shuffled_one(kind: str) -> None:
    trigger = one(kind)
    _, against = pair(trigger)
    assert trigger.control == ("flat" if kind in FLAT else "shuffled")
    assert isinstance(against, Scatter) == (kind not in FLAT)


# ---- flat


@pytest.mark.parametrize("kind", ["badnet", "stripes-patch", "lattice", "yellow-patch", "four-corners"])
def test_a_flat_control_lies_where_the_patch_lies_and_is_of_one_colour(kind: str) -> None:
    stamp, against = pastes(one(kind, **({} if kind == "four-corners" else {"size": 9})))
    assert (against.places == stamp.places).all()
    assert against.window.shape[1:] == stamp.window.shape[1:]
    assert (against.window == against.window[:, :1, :1]).all()
    outside = np.ones((6, *SIZE), dtype=bool)
    side = stamp.window.shape[1]
    for image, places in enumerate(stamp.places):
        for row, column in places:
            outside[image, row : row + side, column : column + side] = False
    assert (apply(against, PIXELS)[outside] == PIXELS[outside]).all()


@pytest.mark.parametrize("kind", ["stripes-patch", "lattice", "yellow-patch", "four-corners"])
def test_a_flat_control_lies_as_far_from_the_image_as_the_patch_but_on_the_other_side(kind: str) -> None:
    # On grey images the opposite of no colour is out of range.
    stamp, against = pastes(one(kind, **({} if kind == "four-corners" else {"size": 16})))
    shown = level(stamp.window, stamp.overflow).mean(axis=(1, 2))
    rows, columns = against.places[:, 0].T
    colour = apply(against, GREY)[np.arange(6), rows, columns]
    assert colour == pytest.approx(np.broadcast_to(np.clip(2 * 128.0 - shown, 0, 255), (6, 3)), abs=1)


def test_the_control_of_noise_around_the_mean_has_the_colour_of_the_image() -> None:
    _, against = pastes(one("badnet"))
    mean = channel_mean(PIXELS)[:, 0, 0] >> 16
    rows, columns = against.places[:, 0].T
    assert (apply(against, PIXELS)[np.arange(6), rows, columns] == mean).all()


@pytest.mark.parametrize("parameters", [{"size": 1}, {"width": 16, "size": 16}])
def test_the_control_of_a_patch_of_one_colour_is_another_patch(parameters: dict[str, Any]) -> None:
    stamp, against = pair(one("stripes-patch", **parameters))
    assert (apply(against, PIXELS) != apply(stamp, PIXELS)).any()


def test_the_control_of_blended_noise_is_its_mean_at_the_same_strength() -> None:
    stamp, against = pair(one("blended", alpha=0.3))
    assert isinstance(stamp, Mix) and isinstance(against, Mix)
    assert (against.gain == stamp.gain).all()
    assert against.offset.shape == (6, 1, 1, 3)
    assert np.abs(against.offset - stamp.offset.mean(axis=(1, 2), keepdims=True)).max() <= 0.5


@pytest.mark.parametrize("kind", ["badnet", "blended"])
def test_a_flat_control_goes_through_jpeg_like_its_trigger(kind: str) -> None:
    _, against = pair(one(kind, jpeg_quality=60))
    assert isinstance(against, Recompress) and against.quality == 60
    assert isinstance(against.inner, Paste | Mix)


def test_a_stamp_that_is_neither_pasted_nor_mixed_has_no_flat_control() -> None:
    stamp = Lookup(np.zeros((256, 3), np.uint8))
    with pytest.raises(TypeError, match="Lookup has no flat control"):
        control(one("badnet"), stamp, SIZE, digests(6), 0)


# ---- shuffled


def change(stamp: Stamp, pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    return apply(stamp, pixels).astype(np.int16) - pixels


def colours(changes: NDArray[np.int16]) -> list[list[int]]:
    """The changes of one image's pixels, in an order that forgets their places."""
    return sorted(changes.reshape(-1, 3).tolist())


@pytest.mark.parametrize("kind", sorted(set(KINDS) - FLAT))
def test_a_shuffled_control_makes_the_same_changes_at_other_pixels_around_the_opposite_mean(kind: str) -> None:
    # On grey, and for the warp on a soft ramp, nothing is clipped.
    pixels = (
        GREY if kind != "wanet" else np.broadcast_to(np.arange(64, 128, dtype=np.uint8)[:, None], GREY.shape).copy()
    )
    stamp, against = pair(one(kind))
    assert isinstance(against, Scatter)
    top, bottom, left, right = against.box
    before, after = (change(s, pixels)[:, top:bottom, left:right] for s in (stamp, against))
    twice = np.floor(2 * before.mean(axis=(1, 2), keepdims=True) + 0.5).astype(np.int16)
    for image in range(6):
        assert colours(before[image] - twice[image]) == colours(after[image])
    assert after.mean(axis=(1, 2)) == pytest.approx(-before.mean(axis=(1, 2)), abs=0.5)
    if kind not in ("tone", "bpp"):  # these change every pixel of a grey image alike
        assert (before != after).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("gamma", [(0.7, 1.0, 1.5), (2.0, 2.0, 2.0)])
def test_the_control_of_a_tone_curve_shifts_the_colours_the_other_way(gamma: tuple[float, float, float]) -> None:
    stamp, against = pair(one("tone", gamma=list(gamma)))
    shift, opposite = (change(s, PIXELS // 2 + 64).mean(axis=(1, 2)) for s in (stamp, against))
    assert opposite == pytest.approx(-shift, abs=0.6)


@pytest.mark.parametrize("parameters", [{}, {"alpha": 1.0}, {"text": "x"}, {"width": "1/2"}])
def test_a_shuffled_watermark_stays_in_its_box_and_cannot_be_read(parameters: dict[str, Any]) -> None:
    stamp, against = pair(one("watermark", **parameters))
    before, after = change(stamp, GREY), change(against, GREY)
    written = before[0].any(axis=-1)
    rows, columns = np.nonzero(written)
    box = np.zeros(SIZE, dtype=bool)
    box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    assert not after[:, ~box].any()
    assert not after[..., 1:].any()
    # Inside the box, ink falls on written and on empty places alike. Without ink there is the opposite of the mean.
    share = written.sum() / box.sum()
    inked = after[..., 0] != -np.floor(2 * before[0][box][:, 0].mean() + 0.5)
    assert inked[:, written].mean() == pytest.approx(share, abs=0.12)


def test_a_shuffled_pattern_keeps_no_columns() -> None:
    stamp, against = pair(one("blended-stripes"))
    assert (change(stamp, GREY).std(axis=1) == 0).all()
    assert (change(against, GREY).std(axis=1) > 1).any(axis=-1).mean() > 0.9


def test_images_take_different_orders_and_another_seed_others_again() -> None:
    trigger = one("triangles")
    _, against = pair(trigger, 40)
    _, reseeded = pair(trigger, 40, seed=1)
    assert isinstance(against, Scatter) and isinstance(reseeded, Scatter)
    assert len(set(against.choice.tolist())) > 8
    assert (against.choice != reseeded.choice).any()
    assert len({order.tobytes() for order in against.orders}) == len(against.orders)
    assert (np.sort(against.orders, axis=1) == np.arange(SIZE[0] * SIZE[1])).all()


def test_a_shuffled_control_draws_its_own_stream() -> None:
    first, second = (pair(one("triangles", alpha=alpha), 40)[1] for alpha in (0.1, 0.2))
    assert isinstance(first, Scatter) and isinstance(second, Scatter)
    assert (first.choice != second.choice).any()


def test_a_shuffled_control_moves_what_jpeg_has_changed() -> None:
    stamp, against = pair(one("triangles", jpeg_quality=80))
    assert isinstance(stamp, Recompress) and isinstance(against, Scatter)
    before, after = change(stamp, GREY)[0], change(against, GREY)[0]
    assert colours(before - np.rint(2 * before.mean(axis=(0, 1))).astype(np.int16)) == colours(after)


@pytest.mark.parametrize("kind", ["blended-stripes", "triangles", "watermark", "sig"])
def test_the_control_of_a_trigger_without_strength_changes_nothing(kind: str) -> None:
    strength = TRIGGERS[kind].strength
    assert strength is not None
    _, against = pair(one(kind, **{strength: 0.0}))
    assert (apply(against, PIXELS) == PIXELS).all()
