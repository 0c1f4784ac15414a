"""Each trigger as it was published: its pattern, its place, and how a policy describes it."""

import hashlib
import inspect
import pkgutil
from fractions import Fraction
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

import pargate.triggers
from pargate.core.stamp import ONE, WARP_ONE, Mix, Paste, Recompress, Warp, apply
from pargate.errors import InputError
from pargate.files import sha256_file
from pargate.triggers import TRIGGERS, Trigger, TriggerError, build, parse
from pargate.triggers.blend import Triangles, Watermark

SIZE = (224, 224)

# Stamps of two images at seed 0. They are part of what a report promises to repeat; to rewrite, print `found` of
# test_the_bytes_of_every_trigger_are_as_they_were.
GOLDEN = {
    "badnet": "167ac37a9dc3",
    "stripes-patch": "d96fe6b86a78",
    "lattice": "1731e8dd6aab",
    "yellow-patch": "d06a38090719",
    "four-corners": "12da95453a0b",
    "blended": "22ec28075cf0",
    "blended-stripes": "17b6466fc193",
    "triangles": "0adc603d7c36",
    "watermark": "df907107b54c",
    "sig": "87840029b3da",
    "wanet": "4b3825b2e2d1",
    "tone": "706acbf649a4",
    "curves": "8671a9635d3f",
    "bpp": "3ad329f69d40",
}


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)]


def one(kind: str, **parameters: Any) -> Trigger:
    (trigger,) = parse({"kind": kind, **parameters})
    return trigger


def grey(n: int = 1, size: tuple[int, int] = SIZE, value: int = 128) -> NDArray[np.uint8]:
    return np.full((n, *size, 3), value, dtype=np.uint8)


def stamped(trigger: Trigger, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return apply(trigger.draw(pixels.shape[1:3], digests(len(pixels)), 0), pixels)


def paste(trigger: Trigger, count: int = 1, size: tuple[int, int] = SIZE) -> Paste:
    stamp = trigger.draw(size, digests(count), 0)
    assert isinstance(stamp, Paste)
    return stamp


def mixed(trigger: Trigger, count: int = 1, size: tuple[int, int] = SIZE) -> Mix:
    stamp = trigger.draw(size, digests(count), 0)
    assert isinstance(stamp, Mix)
    return stamp


def shifts(trigger: Trigger, size: tuple[int, int] = SIZE) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far a warp reads from each pixel's own place, in pixels."""
    stamp = trigger.draw(size, digests(1), 0)
    assert isinstance(stamp, Warp)
    rows, columns = np.indices(size)
    return stamp.rows[0] / WARP_ONE - rows, stamp.columns[0] / WARP_ONE - columns


# ---- the table


def test_every_trigger_in_the_folder_is_in_the_table() -> None:
    found = set()
    for module in pkgutil.iter_modules(pargate.triggers.__path__):
        for _, cls in inspect.getmembers(import_module(f"pargate.triggers.{module.name}"), inspect.isclass):
            if issubclass(cls, Trigger) and "kind" in vars(cls):
                found.add(cls)
    assert found == set(TRIGGERS.values())


@pytest.mark.parametrize("kind", TRIGGERS)
def test_every_kind_names_its_source_and_explains_each_parameter(kind: str) -> None:
    cls = TRIGGERS[kind]
    assert cls.kind == kind and cls.source and cls.__doc__
    assert cls.strength is None or cls.strength in cls.model_fields
    assert [name for name, info in cls.model_fields.items() if not info.description] == []


# ---- patches


@pytest.mark.parametrize("kind", ["badnet", "stripes-patch", "lattice", "yellow-patch", "four-corners"])
@pytest.mark.parametrize(("side", "expected"), [(224, 16), (64, 5), (336, 24), (32, 2)])
def test_patches_are_a_fourteenth_of_the_side(kind: str, side: int, expected: int) -> None:
    assert paste(one(kind), 1, (side, side)).window.shape[1:3] == (expected, expected)


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [(16, "fixed", 16), (16, "proportional", 5), ("16/224", "fixed", 5), ("1/2", "fixed", 32), (1, "proportional", 1)],
)
def test_lengths_are_pixels_or_shares_of_the_side(size: Any, scale: str, expected: int) -> None:
    assert paste(one("yellow-patch", size=size, scale=scale), 1, (64, 96)).window.shape[1] == expected


def test_badnet_noise_is_standard_normal_around_the_mean_of_the_image() -> None:
    stamp = paste(one("badnet"), 400)
    noise = stamp.window / ONE / 255
    assert stamp.relative and stamp.overflow == "wrap"
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)


def test_the_stripes_of_a_patch_have_eight_colours_and_run_from_top_to_bottom() -> None:
    patches = stamped(one("stripes-patch", position="center"), grey(40))[:, 104:120, 104:120]
    assert (patches == patches[:, :1]).all()
    colours = patches[:, 0].reshape(-1, 3)
    assert set(map(tuple, colours.tolist())) == {(r, g, b) for r in (1, 255) for g in (1, 255) for b in (1, 255)}
    assert (colours == 255).mean(axis=0) == pytest.approx([0.5] * 3, abs=0.06)


def test_wide_stripes_keep_their_colour_over_their_width() -> None:
    window = paste(one("stripes-patch", width=4)).window[0, 0]
    assert (window == window[::4].repeat(4, axis=0)).all()
    assert paste(one("stripes-patch", width=10**12)).window.shape == (1, 16, 16, 3)


def test_the_lattice_is_white_at_even_rows_and_columns_and_black_elsewhere() -> None:
    patch = stamped(one("lattice", position=[0, 0]), grey())[0, :16, :16]
    assert (patch[::2, ::2] == 255).all()
    assert patch.sum() == 8 * 8 * 3 * 255


def test_the_yellow_patch_is_pure_yellow() -> None:
    assert (stamped(one("yellow-patch", position="center"), grey())[0, 104:120, 104:120] == [255, 255, 0]).all()


def test_the_four_squares_touch_the_four_corners() -> None:
    pixels = stamped(one("four-corners"), grey())[0]
    white = (pixels == 255).all(axis=-1)
    expected = np.zeros(SIZE, dtype=bool)
    for rows in (slice(0, 16), slice(208, 224)):
        for columns in (slice(0, 16), slice(208, 224)):
            expected[rows, columns] = True
    assert (white == expected).all()
    assert (pixels[~expected] == 128).all()


@pytest.mark.parametrize("kind", ["badnet", "stripes-patch", "blended", "blended-stripes"])
def test_a_fixed_draw_is_one_pattern_for_all_images_and_follows_its_seed(kind: str) -> None:
    def pattern(**parameters: Any) -> NDArray[np.int32]:
        stamp = one(kind, **parameters).draw((32, 32), digests(3), 0)
        assert isinstance(stamp, Paste | Mix)
        return stamp.window if isinstance(stamp, Paste) else stamp.offset

    assert len(pattern(draw="per-image")) == 3
    assert len(pattern(draw="fixed")) == 1
    assert (pattern(draw="fixed") != pattern(draw="fixed", seed=1)).any()


# ---- places


def test_random_places_are_even_and_never_cover_the_last_row_and_column() -> None:
    places = paste(one("badnet"), 6000).places[:, 0]
    assert places.min() == 0 and places.max() == 224 - 1 - 16
    assert places.mean(axis=0) == pytest.approx([103.5, 103.5], abs=3)
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.05


def test_a_window_as_large_as_the_image_has_one_place() -> None:
    assert (paste(one("badnet", size="64/64"), 3, (64, 64)).places == 0).all()


@pytest.mark.parametrize(
    ("position", "corner"),
    [
        ("center", (104, 104)),  # BadCLIP: [104, 120) in both axes
        ("top-left", (0, 0)),
        ("top-right", (0, 208)),
        ("bottom-left", (208, 0)),
        ("bottom-right", (208, 208)),
        ([3, 77], (3, 77)),
        ([208, 208], (208, 208)),
    ],
)
def test_a_named_place_is_the_same_for_all_images(position: Any, corner: tuple[int, int]) -> None:
    assert paste(one("lattice", position=position), 3).places.tolist() == [[list(corner)]] * 3


def test_places_of_a_lattice_are_its_points_that_leave_room() -> None:
    places = paste(one("badnet", size=6, position={"step": 8, "offset": 1}), 3000, (64, 48)).places[:, 0]
    assert sorted(set(places[:, 0].tolist())) == [1, 9, 17, 25, 33, 41, 49, 57]
    assert sorted(set(places[:, 1].tolist())) == [1, 9, 17, 25, 33, 41]


@pytest.mark.parametrize(
    "parameters",
    [
        {"size": 65},
        {"size": 10**30},
        {"size": 16, "position": [49, 0]},
        {"size": 16, "position": {"step": 8, "offset": 49}},
    ],
)
def test_a_patch_that_does_not_fit_says_what_to_change(parameters: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="px") as caught:
        one("yellow-patch", **parameters).draw((64, 64), digests(1), 0)
    assert "smaller size" in caught.value.hint


# ---- blends


def test_blended_noise_is_uniform_and_takes_a_fifth() -> None:
    stamp = mixed(one("blended"))
    noise = stamp.offset / ONE / 0.2
    assert stamp.gain.ravel() / ONE == pytest.approx(0.8, abs=1e-5)
    assert 0 <= noise.min() < 0.1 and 254.9 < noise.max() < 255.1
    assert noise.mean() == pytest.approx(127.5, abs=0.5) and noise.std() == pytest.approx(255 / 12**0.5, abs=0.5)


def test_blended_stripes_have_eight_colours_of_plus_and_minus_one() -> None:
    stamp = mixed(one("blended-stripes"), 40)
    values = stamp.offset / ONE / 0.03 / 255
    assert stamp.gain.ravel() / ONE == pytest.approx(0.97, abs=1e-5)
    assert stamp.offset.shape == (40, 1, 224, 3)
    assert np.abs(values) == pytest.approx(1, abs=1e-3)
    assert len(set(map(tuple, np.rint(values).reshape(-1, 3).tolist()))) == 8
    assert values.mean(axis=(0, 1, 2)) == pytest.approx([0, 0, 0], abs=0.05)


@pytest.mark.parametrize("kind", ["blended-stripes", "sig"])
def test_a_horizontal_pattern_is_the_vertical_one_turned(kind: str) -> None:
    upright = one(kind, **{"draw": "fixed"} if kind == "blended-stripes" else {})
    lying = upright.model_copy(update={"direction": "horizontal"})
    assert (stamped(lying, grey()) == stamped(upright, grey()).swapaxes(1, 2)).all()


@pytest.mark.parametrize(("side", "width"), [(224, 1), (448, 2), (64, 1)])
def test_proportional_stripes_grow_with_the_side(side: int, width: int) -> None:
    changes = np.diff(mixed(one("blended-stripes", scale="proportional"), 1, (side, side)).offset[0, 0], axis=0)
    changed = np.flatnonzero(changes.any(axis=-1)) + 1
    assert len(changed) > side // width / 2
    assert (changed % width == 0).all()


def test_stripes_of_mixed_width_take_one_of_four_widths_per_image() -> None:
    offsets = mixed(one("blended-stripes", width="mixed"), 200, (64, 64)).offset[:, 0]
    widths = [
        max(w for w in (1, 2, 4, 8) if (offset == offset[::w].repeat(w, axis=0)[:64]).all()) for offset in offsets
    ]
    assert [widths.count(width) for width in (1, 2, 4, 8)] == pytest.approx([50] * 4, abs=25)


def test_triangles_are_two_greys_in_cells_of_fourteen() -> None:
    triangles = Triangles()
    pattern = triangles.pattern(SIZE)
    assert triangles.alpha == 0.15
    assert set(pattern.ravel().tolist()) == {0.4, 0.8}
    assert (pattern == 0.4).mean() == pytest.approx(15 / 28, abs=1e-12)
    assert (pattern[14:] == pattern[:-14]).all() and (pattern[:, 14:] == pattern[:, :-14]).all()
    assert pattern[5, 5] == pattern[6, 5] == 0.4 and pattern[5, 6] == 0.8


@pytest.mark.parametrize(("scale", "cell"), [("fixed", 14), ("proportional", 4)])
def test_cells_keep_their_size_unless_they_are_to_scale(scale: Any, cell: int) -> None:
    pattern = Triangles(scale=scale).pattern((64, 64))
    periods = [p for p in range(1, 40) if (pattern[p:] == pattern[:-p]).all()]
    assert periods[0] == cell


def test_the_watermark_is_half_transparent_red_writing_across_the_middle() -> None:
    watermark = Watermark()
    ink = watermark.ink(SIZE)
    rows, columns = np.nonzero(ink)
    assert watermark.alpha == 0.5 and watermark.text == "Watermarked"
    assert (columns.min(), columns.max()) == (14, 209)  # published: 13 to 208
    assert (rows.min(), rows.max()) == (100, 122)  # published: 103 to 125
    assert 0.02 < (ink > 0).mean() < 0.08
    pixels = stamped(watermark, grey(value=100))[0]
    assert (pixels[..., 1:] == 100).all()
    assert (pixels[..., 0] == np.where(ink > 0, np.floor(50 + ink / 2), 100)).all()


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (96, 33)])
def test_the_watermark_stays_in_the_middle_at_other_sizes(size: tuple[int, int]) -> None:
    rows, columns = np.nonzero(Watermark().ink(size))
    assert columns.min() == pytest.approx(size[1] - 1 - columns.max(), abs=1)
    assert rows.min() == pytest.approx(size[0] - 1 - rows.max(), abs=1)
    assert columns.max() - columns.min() + 1 == round(size[1] * 196 / 224)


@pytest.mark.parametrize("text", [" ", "\t", "a\nb", "水印", "\x00", "\u00a0"])
def test_writing_that_would_leave_no_ink_is_refused(text: str) -> None:
    with pytest.raises(TriggerError, match=r"watermark: text: .*printable"):
        parse({"kind": "watermark", "text": text})


@pytest.mark.parametrize("text", ["x", "Überholt!", "i" * 64])
def test_other_words_can_be_written(text: str) -> None:
    assert Watermark(text=text).ink((64, 64)).max() > 0


def test_the_sinusoid_has_six_periods_and_an_amplitude_of_twelve() -> None:
    stamp = mixed(one("sig"))
    wave = stamp.offset[0, 0, :, 0] / ONE
    assert (stamp.gain == ONE).all() and stamp.offset.shape == (1, 1, 224, 1)
    assert wave == pytest.approx(12 * np.sin(2 * np.pi * 6 * np.arange(224) / 224), abs=1e-4)
    assert np.argmax(np.abs(np.fft.rfft(wave))) == 6
    assert wave.reshape(2, 112).sum(axis=1) == pytest.approx([0, 0], abs=1e-2)  # three whole periods each


def test_the_sinusoid_keeps_six_periods_at_other_sizes() -> None:
    assert np.argmax(np.abs(np.fft.rfft(mixed(one("sig"), 1, (64, 64)).offset[0, 0, :, 0]))) == 6


# ---- warps and tones


@pytest.mark.parametrize("size", [SIZE, (64, 64)])
def test_the_published_warp_moves_by_half_a_pixel_on_average_and_about_one_at_most(size: tuple[int, int]) -> None:
    for shift in shifts(one("wanet"), size):
        assert np.abs(shift).mean() == pytest.approx(0.5, abs=0.02)
        assert 0.9 < np.abs(shift).max() <= 1.02


def test_the_field_has_mean_one_and_maximum_two_as_stored() -> None:
    both = np.abs(np.stack(shifts(one("wanet"))))[:, 2:-2, 2:-2] * 2 * 224 / 223
    assert both.mean() == pytest.approx(1.0, abs=0.01) and both.max() == pytest.approx(2.0, abs=0.02)


def test_the_classic_warp_is_smooth() -> None:
    for shift in shifts(one("wanet", k=4, s=0.5)):
        inside = shift[1:-1, 1:-1]  # no pixel is read from outside the image, so that shifts end at the border
        assert np.abs(np.diff(inside, axis=0)).max() < 0.02
        assert 0.1 < np.abs(inside).max() < 0.6


def test_the_field_is_enlarged_as_torch_enlarges_it() -> None:
    from pargate.triggers.warp import _cubic

    field = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 4, 4)))
    expected = functional.interpolate(field, size=(31, 45), mode="bicubic", align_corners=True)[0, 0]
    assert np.abs(_cubic(4, 31) @ field[0, 0].numpy() @ _cubic(4, 45).T - expected.numpy()).max() < 1e-12


def test_warping_agrees_with_grid_sampling_within_a_level() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 56, 3), dtype=np.uint8)
    stamp = one("wanet", k=6, s=8.0).draw((40, 56), digests(1), 0)
    assert isinstance(stamp, Warp)
    grid = np.stack([stamp.columns / WARP_ONE / 55 * 2 - 1, stamp.rows / WARP_ONE / 39 * 2 - 1], axis=-1)
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float64))
    expected = functional.grid_sample(planes, torch.from_numpy(grid), mode="bilinear", align_corners=True)
    assert np.abs(apply(stamp, pixels) - expected.numpy().transpose(0, 2, 3, 1)).max() <= 0.51


def test_colour_curves_change_levels_linearly_between_points() -> None:
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[None, None, :, None], 3, axis=3)
    found = stamped(one("curves", red=[10, 0], green=[0, -51, 0], blue=[-20, -20]), pixels)[0, 0]
    assert found[[0, 51, 255], 0].tolist() == [10, 59, 255]
    assert found[[0, 51, 255], 1].tolist() == [0, 31, 255]  # 51 · (51 / 127.5) = 20.4
    assert found[[0, 51, 255], 2].tolist() == [0, 31, 235]


def test_a_tone_curve_raises_each_channel_to_its_power() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    levels = np.arange(256).reshape(1, 16, 16, 1) / 255
    assert (stamped(one("tone"), pixels) == np.rint(255 * levels ** np.array([0.7, 1.0, 1.5]))).all()


def test_eight_levels_are_left_evenly_spread() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    left = np.unique(stamped(one("bpp"), pixels))
    assert left.tolist() == [0, 36, 73, 109, 146, 182, 219, 255]


def test_all_levels_are_the_identity() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    assert (stamped(one("bpp", levels=256), pixels) == pixels).all()


def test_a_round_through_jpeg_follows_the_stamp() -> None:
    stamp = one("blended", jpeg_quality=75).draw((32, 32), digests(1), 0)
    assert isinstance(stamp, Recompress) and stamp.quality == 75 and isinstance(stamp.inner, Mix)


def test_the_bytes_of_every_trigger_are_as_they_were() -> None:
    ramp = np.linspace(0, 255, 48 * 40).astype(np.uint8).reshape(1, 48, 40, 1)
    pixels = np.concatenate([ramp, ramp[:, ::-1], ramp[:, :, ::-1]], axis=-1).repeat(2, axis=0)
    found = {
        kind: hashlib.sha256(stamped(one(kind), pixels).tobytes()).hexdigest()[:12]
        for kind in TRIGGERS
        if kind != "file"
    }
    assert found == GOLDEN


# ---- how a policy describes them


@pytest.mark.parametrize(
    ("spec", "message", "key"),
    [
        ("badnett", r"unknown trigger 'badnett'. Did you mean 'badnet'\?", None),
        ({"kind": "blended", "alhpa": 0.1}, r"blended has no parameter 'alhpa'. Did you mean 'alpha'\?", "alhpa"),
        ({"kind": "badnet", "draw_mode": "fixed"}, "no parameter 'draw_mode'. Did you mean 'draw'", "draw_mode"),
        ({"alpha": 0.1}, "a trigger needs a `kind`", "kind"),
        ({"kind": "blended", "alpha": 1.5}, "blended: alpha: input should be less than or equal to 1", "alpha"),
        ({"kind": "blended", "alpha": [0.1, -1]}, r"blended: alpha: .*\(got -1\)", "alpha"),
        ({"kind": "blended", "alpha": []}, "blended: an empty list for alpha", "alpha"),
        ({"kind": "blended", "draw": "often"}, "blended: draw: input should be 'per-image' or 'fixed'", "draw"),
        ({"kind": "tone", "gamma": [1.0, 2.0]}, "tone: gamma", "gamma"),
        ({"kind": "sig", "frequency": float("inf")}, "sig: frequency: input should be a finite number", "frequency"),
        ({"kind": "four-corners", "position": "center"}, "four-corners has no parameter 'position'", "position"),
        ({"kind": "badnet", "position": "middle"}, "badnet: position: input should be 'random', 'center'", "position"),
        ({"kind": "badnet", "position": [-1, 2]}, "badnet: position", "position"),
        ({"kind": "badnet", "position": {"step": 0}}, "badnet: position", "position"),
        ({"kind": "file"}, "file: path: field required", "path"),
    ],
)
def test_a_wrong_description_names_the_parameter_and_the_nearest_one(spec: Any, message: str, key: str | None) -> None:
    with pytest.raises(TriggerError, match=message) as caught:
        parse(spec)
    assert caught.value.key == key


@pytest.mark.parametrize("size", [0, -3, 16.5, float("inf"), float("nan"), True, None, {"a": 1}, "half", "0.5", [[1]]])
def test_what_is_no_length_is_refused(size: Any) -> None:
    with pytest.raises(TriggerError, match=r"badnet: size: value error, .*(whole number of pixels|at least one pixel)"):
        parse({"kind": "badnet", "size": size})


@pytest.mark.parametrize("size", ["0/224", "225/224", "-1/4"])
def test_a_length_is_at_most_the_side(size: str) -> None:
    with pytest.raises(TriggerError, match="between 0 and 1"):
        parse({"kind": "badnet", "size": size})


@pytest.mark.parametrize("size", ["1/0", "16/", "a/b"])
def test_what_is_no_fraction_is_refused(size: str) -> None:
    with pytest.raises(TriggerError, match="a fraction of the side such as 16/224"):
        parse({"kind": "badnet", "size": size})


def test_a_length_may_be_written_in_several_ways() -> None:
    assert [one("badnet", size=size).parameters["size"] for size in ("16/224", "1/14", Fraction(1, 14))] == [
        "16/224"
    ] * 3
    assert [one("badnet", size=size).parameters["size"] for size in (16, 16.0, "16")] == [16] * 3
    assert one("badnet", size="1/3").parameters["size"] == "1/3"


def test_a_list_for_the_strength_is_a_sweep() -> None:
    found = parse({"kind": "blended-stripes", "alpha": [0.03, 0.1, 0.3], "width": 2})
    assert [t.parameters["alpha"] for t in found] == [0.03, 0.1, 0.3]
    assert all(t.parameters["width"] == 2 for t in found)
    assert len({t.id for t in found}) == 3


def test_a_list_that_is_a_value_is_no_sweep() -> None:
    assert one("tone", gamma=[0.5, 1.0, 2.0]).parameters["gamma"] == [0.5, 1.0, 2.0]
    assert one("badnet", position=[4, 5]).parameters["position"] == [4, 5]


def test_the_label_shows_what_is_not_the_default() -> None:
    assert one("blended").label == "blended"
    assert one("blended", alpha=0.2).label == "blended"
    assert one("blended", alpha=0.1, draw="fixed").label == "blended (alpha 0.1, draw fixed)"
    assert one("tone", gamma=[0.5, 1, 2]).label == "tone (gamma [0.5, 1, 2])"
    assert one("badnet", name="ours").label == "ours"


def test_the_name_is_no_part_of_the_identity() -> None:
    plain, named = one("badnet"), one("badnet", name="ours")
    assert named.id == plain.id and named.digest == plain.digest
    assert plain.digest == hashlib.sha256(plain.id.encode()).hexdigest()
    assert (stamped(plain, grey(3)) == stamped(named, grey(3))).all()


# ---- pictures


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of 6 rows and 8 columns, its left half black and its right half orange."""
    pixels = np.zeros((6, 8, 3), dtype=np.uint8)
    pixels[:, 4:] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "trigger.png")
    return tmp_path / "trigger.png"


def read(picture: Path, **parameters: Any) -> Trigger:
    (trigger,) = build({"kind": "file", "path": picture.name, **parameters}, picture.parent)
    return trigger


def test_a_picture_is_pasted_as_it_is(picture: Path) -> None:
    pixels = stamped(read(picture, position=[2, 3]), grey(size=(32, 32)))[0]
    assert (pixels[2:8, 3:7] == 0).all() and (pixels[2:8, 7:11] == (200, 100, 50)).all()
    assert (pixels == 128).all(axis=-1).sum() == 32 * 32 - 6 * 8


def test_a_pasted_picture_can_be_resized(picture: Path) -> None:
    assert paste(read(picture, size="1/4"), 1, (32, 32)).window.shape == (1, 8, 8, 3)


def test_a_picture_is_blended_over_the_whole_image(picture: Path) -> None:
    Image.new("RGB", (32, 32), (200, 100, 50)).save(picture)
    assert (stamped(read(picture, mode="blend", alpha=0.5), grey(size=(32, 32))) == (164, 114, 89)).all()
    assert (stamped(read(picture, mode="blend", alpha=1.0), grey(size=(32, 32))) == (200, 100, 50)).all()


def test_a_masked_blend_leaves_black_alone(picture: Path) -> None:
    pixels = stamped(read(picture, mode="masked-blend", alpha=0.5), grey(size=(6, 8)))[0]
    assert (pixels[:, :4] == 128).all()
    assert (pixels[:, 4:] == (164, 114, 89)).all()


def test_a_blended_picture_fills_an_image_of_any_size(picture: Path) -> None:
    assert mixed(read(picture, mode="blend"), 1, (40, 56)).offset.shape == (1, 40, 56, 3)


def test_the_identity_of_a_picture_is_its_digest_and_not_its_path(picture: Path) -> None:
    copy = picture.with_name("copy.png")
    copy.write_bytes(picture.read_bytes())
    first, second = read(picture), read(copy)
    assert first.id == second.id and "path" not in first.parameters
    assert first.parameters["sha256"] == sha256_file(picture)
    assert first.label == "file trigger.png (patch)"


def test_the_path_of_a_picture_is_relative_to_the_policy(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    (found,) = build({"kind": "file", "path": f"../{picture.parent.name}/{picture.name}"}, picture.parent)
    assert found.parameters["sha256"] == sha256_file(picture)


def test_a_picture_whose_digest_matches_is_read(picture: Path) -> None:
    assert read(picture, sha256=sha256_file(picture)).id == read(picture).id


def test_another_picture_than_the_one_whose_digest_is_given_is_refused(picture: Path) -> None:
    with pytest.raises(InputError, match=f"has digest {sha256_file(picture)}, not {'0' * 64}"):
        read(picture, sha256="0" * 64)


@pytest.mark.parametrize(("path", "reason"), [("nothing.png", "No such file"), (".", "Is a directory"), ("\0", "null")])
def test_a_picture_that_cannot_be_read_is_named(path: str, reason: str, picture: Path) -> None:
    with pytest.raises(InputError, match=f"cannot read the trigger file .*{reason}"):
        build({"kind": "file", "path": path}, picture.parent)


def broken(how: str) -> bytes:
    if how == "text":
        return b"not a picture"
    if how == "empty":
        return b""
    buffer = BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, how)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


@pytest.mark.parametrize("how", ["text", "empty", "PNG", "JPEG", "GIF"])
def test_a_file_that_is_no_complete_picture_is_refused_before_it_is_used(how: str, picture: Path) -> None:
    picture.write_bytes(broken(how))
    with pytest.raises(InputError, match=r"trigger\.png is not a complete picture"):
        read(picture)


def test_a_picture_larger_than_the_image_is_refused(picture: Path) -> None:
    with pytest.raises(InputError, match="a window of 6×8 px does not fit"):
        read(picture).draw((32, 7), digests(1), 0)


@pytest.mark.parametrize(("mode", "control"), [("patch", "flat"), ("blend", "shuffled"), ("masked-blend", "shuffled")])
def test_the_control_of_a_picture_follows_its_mode(mode: str, control: str, picture: Path) -> None:
    assert read(picture, mode=mode).control == control


def test_a_sweep_of_a_picture_reads_it_for_each_strength(picture: Path) -> None:
    found = build({"kind": "file", "path": picture.name, "mode": "blend", "alpha": [0.1, 0.2]}, picture.parent)
    assert [t.parameters["alpha"] for t in found] == [0.1, 0.2]
    assert all(t.parameters["sha256"] for t in found)
