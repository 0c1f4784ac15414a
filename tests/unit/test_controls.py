"""Controls have a trigger's place and energy, and none of its structure."""

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pargate.core.stamp import Lookup, Mix, Paste, Recompress, Scatter, Stamp, apply, channel_mean, level
from pargate.triggers import TABLE, Trigger, control, parse

SIZE = (48, 64)
FLAT = {"badnet", "stripes-patch", "lattice", "yellow-patch", "four-corners", "blended"}
KINDS = [kind for kind in TABLE if kind != "file"]
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


@pytest.mark.parametrize("kind", ["stripes-patch", "lattice"])
def test_a_flat_control_has_the_mean_colour_that_the_patch_shows(kind: str) -> None:
    stamp, against = pastes(one(kind, size=16))
    shown = level(stamp.window, stamp.overflow).mean(axis=(1, 2))
    assert np.abs(level(against.window, against.overflow)[:, 0, 0] - shown).max() < 1


@pytest.mark.parametrize("kind", ["badnet", "yellow-patch", "four-corners"])
def test_noise_around_the_mean_and_patches_of_one_colour_take_the_colour_of_the_image(kind: str) -> None:
    _, against = pastes(one(kind))
    mean = channel_mean(PIXELS)[:, 0, 0] >> 16
    rows, columns = against.places[:, 0].T
    assert (apply(against, PIXELS)[np.arange(6), rows, columns] == mean).all()


@pytest.mark.parametrize("parameters", [{"size": 1}, {"width": 16, "size": 16}])
def test_stripes_as_wide_as_their_patch_are_of_one_colour_too(parameters: dict[str, Any]) -> None:
    stamp, against = pastes(one("stripes-patch", **parameters))
    assert against.relative
    assert (apply(against, PIXELS) != apply(stamp, PIXELS)).any()


@pytest.mark.parametrize("parameters", [{"size": 1}, {"size": 2}, {"size": 3, "width": 2}, {"size": 5}])
def test_a_patch_that_is_of_one_colour_by_chance_does_not_change_the_controls_of_other_images(
    parameters: dict[str, Any],
) -> None:
    trigger = one("stripes-patch", **parameters)
    names = digests(40)
    pixels = np.full((40, *SIZE, 3), 100, dtype=np.uint8)
    together = apply(control(trigger, trigger.draw(SIZE, names, 0), SIZE, names, 0), pixels)
    for i, name in enumerate(names):
        alone = control(trigger, trigger.draw(SIZE, [name], 0), SIZE, [name], 0)
        assert (apply(alone, pixels[:1])[0] == together[i]).all()


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
def test_a_shuffled_control_makes_the_same_changes_at_other_pixels(kind: str) -> None:
    # On grey, and for the warp on a soft ramp, nothing is clipped.
    pixels = (
        GREY if kind != "wanet" else np.broadcast_to(np.arange(64, 128, dtype=np.uint8)[:, None], GREY.shape).copy()
    )
    stamp, against = pair(one(kind))
    before, after = change(stamp, pixels), change(against, pixels)
    assert (before.astype(int) ** 2).sum() == (after.astype(int) ** 2).sum()
    for image in range(6):
        assert colours(before[image]) == colours(after[image])
    if kind not in ("tone", "bpp"):  # these change every pixel of a grey image alike
        assert (before != after).any(axis=(1, 2, 3)).all()


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
    # Inside the box, ink falls on written and on empty places alike.
    share = written.sum() / box.sum()
    assert (after[..., 0] != 0)[:, written].mean() == pytest.approx(share, abs=0.12)


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
    assert colours(change(stamp, GREY)[0]) == colours(change(against, GREY)[0])


@pytest.mark.parametrize("kind", ["blended-stripes", "triangles", "watermark", "sig"])
def test_the_control_of_a_trigger_without_strength_changes_nothing(kind: str) -> None:
    strength = TABLE[kind].strength
    assert strength is not None
    _, against = pair(one(kind, **{strength: 0.0}))
    assert (apply(against, PIXELS) == PIXELS).all()
