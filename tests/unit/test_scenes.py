import hashlib
import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pargate.errors import InputError
from pargate.scenes import render as scenes
from pargate.scenes.painting import Draws
from pargate.scenes.render import COLOURS, LABELS, describe, render
from pargate.scenes.sprites import ALPHA, DISTRACTORS, VARIANTS, atlas
from pargate.seeds import index_keys

# Mean grey level of each quarter of four images, and captions. To rewrite: print what the last tests compare.
GOLDEN = np.array(
    [
        [162.86, 167.45, 152.08, 178.7],
        [241.29, 210.82, 216.48, 223.47],
        [190.94, 183.15, 165.11, 167.62],
        [147.72, 153.08, 98.23, 118.26],
    ]
)
GOLDEN_CAPTIONS = (
    "a photo of a little brown guitar.",
    "one can see a gray key.",
    "a picture of a purple tree against a pink background.",
)
GOLDEN_CAPTIONS_DIGEST = "aa07af641d8e18ee"

# Luminance, and two differences of colour that count more when colours are named.
OPPONENT = np.array([[1 / 6, 1 / 6, 1 / 6], [1, -0.5, -0.5], [0, 1, -1]])


def plan_of(count: int, seed: int) -> scenes._Plan:
    numbers = np.arange(count)
    return scenes._described(seed, numbers, Draws(index_keys(seed, "scene", numbers)))[0]


def central(pixels: NDArray[np.uint8], x: float, y: float, radius: int = 3) -> NDArray[np.float64]:
    """The median colour around a point of one image."""
    size = pixels.shape[0]
    row, column = int(y * size), int(x * size)
    patch = pixels[row - radius : row + radius + 1, column - radius : column + radius + 1]
    return np.median(patch.reshape(-1, 3), axis=0) / 255


def test_the_same_numbers_give_the_same_scenes() -> None:
    first, second = render(range(5), 48, 7), render(range(5), 48, 7)
    assert (first.pixels == second.pixels).all()
    assert (first.labels == second.labels).all()
    assert first.captions == second.captions


def test_another_seed_gives_other_scenes() -> None:
    assert (render(range(8), 32, 0).pixels != render(range(8), 32, 1).pixels).any(axis=(1, 2, 3)).all()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(0, 2**62), min_size=1, max_size=40),
    st.sampled_from([32, 37, 64]),
    st.integers(0, 2**64),
)
def test_neither_order_nor_batch_changes_a_scene(numbers: list[int], size: int, seed: int) -> None:
    together = render(numbers, size, seed)
    alone = render(numbers[-1:], size, seed)
    assert (together.pixels[-1] == alone.pixels[0]).all()
    assert together.captions[-1] == alone.captions[0]
    backwards = render(numbers[::-1], size, seed)
    assert (backwards.pixels[::-1] == together.pixels).all()
    assert (backwards.labels[::-1] == together.labels).all()


def test_chunks_do_not_show() -> None:
    step = scenes._CHUNK_PIXELS // 64**2
    whole = render(range(2 * step + 3), 64, 0)
    parts = [render(range(i, min(i + 5, 2 * step + 3)), 64, 0).pixels for i in range(0, 2 * step + 3, 5)]
    assert (whole.pixels == np.concatenate(parts)).all()


def test_some_images_get_the_numbers_that_they_get_among_all() -> None:
    keys, chosen = index_keys(0, "scene", np.arange(9)), np.array([1, 4, 8])
    draws, everyone = Draws(keys), Draws(keys)
    with draws.only(chosen):
        assert (draws(2, 3) == everyone(2, 3)[chosen]).all()
        assert (draws.several(4) == everyone.several(4)[:, chosen]).all()
    assert (draws() == everyone()).all()


def test_describe_agrees_with_render_at_every_size() -> None:
    told = describe([3, 1, 2], 5)
    for size in (32, 50):
        drawn = render([3, 1, 2], size, 5)
        assert (told.labels == drawn.labels).all()
        assert told.captions == drawn.captions


@pytest.mark.parametrize("size", [32, 33, 64, 224, 512])
def test_every_size_gives_full_range_rgb_bytes(size: int) -> None:
    scene = render([0, 1], size, 0)
    assert scene.pixels.shape == (2, size, size, 3)
    assert scene.pixels.dtype == np.uint8
    assert scene.pixels.flags.c_contiguous
    assert scene.labels.dtype == np.int64


def test_no_scenes_are_an_empty_batch() -> None:
    scene = render([], 40, 0)
    assert scene.pixels.shape == (0, 40, 40, 3)
    assert (len(scene.labels), scene.captions) == (0, ())
    assert describe([], 0).captions == ()


@pytest.mark.parametrize("size", [0, 31, 513])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(InputError, match="cannot be drawn"):
        render([0], size, 0)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="no scene number -1"):
        render([4, -1], 64, 0)
    with pytest.raises(InputError):
        describe([-1], 0)


def test_every_block_of_numbers_shows_every_label_once() -> None:
    blocks = describe(range(20 * len(LABELS)), 11).labels.reshape(20, -1)
    assert (np.sort(blocks, axis=1) == np.arange(len(LABELS))).all()
    assert len({tuple(block) for block in blocks.tolist()}) == 20


def test_captions_name_the_object_and_only_true_colours() -> None:
    count = 3000
    told, plan = describe(range(count), 2), plan_of(count, 2)
    forms = set()
    for i, caption in enumerate(told.captions):
        words = caption.removesuffix(".").split()
        noun = LABELS[told.labels[i]]
        assert words.count(noun) == 1
        assert not {*LABELS} - {noun} & {*words}
        forms.add(" ".join("x" if word in {*LABELS, *COLOURS} else word for word in words))
        if "black and white photo" in caption:
            assert plan.monochrome[i]
            continue
        before = words[words.index(noun) - 1]
        if before in COLOURS:
            assert before == COLOURS[plan.colour[i]]
            assert not plan.monochrome[i]
        for setting in {"background", "sky"} & {*words}:
            assert words[words.index(setting) - 1] == COLOURS[plan.backdrop[i]]
            assert plan.outdoors[i] == (setting == "sky")
        assert sum(word in COLOURS for word in words) <= 2
    assert len(forms) > 60
    assert sum(any(colour in c.split() for colour in COLOURS) for c in told.captions) > count / 2


def test_articles_agree_with_the_word_that_follows() -> None:
    for caption in describe(range(2000), 4).captions:
        for article, word in itertools.pairwise(caption.removesuffix(".").split()):
            if article in ("a", "an"):
                assert (article == "an") == (word[0] in "aeiou"), caption


def test_words_of_size_and_place_are_true() -> None:
    count = 2000
    told, plan = describe(range(count), 9), plan_of(count, 9)
    seen = set()
    for i, caption in enumerate(told.captions):
        words = {*caption.removesuffix(".").split()}
        seen |= words
        assert not words & {"small", "little"} or plan.scale[i] < 0.56
        assert not words & {"big", "large"} or plan.scale[i] > 0.83
        assert "left" not in words or plan.x[i] < 0.42
        assert "right" not in words or plan.x[i] > 0.58
        assert "top" not in words or plan.y[i] < 0.42
        assert "bottom" not in words or plan.y[i] > 0.58
        assert not words & {"middle", "center"} or max(abs(plan.x[i] - 0.5), abs(plan.y[i] - 0.5)) < 0.04
    assert {"small", "little", "big", "large", "left", "right", "top", "bottom", "middle", "center"} <= seen


def named(seen: NDArray[np.float64], palette: NDArray[np.float64]) -> NDArray[np.int64]:
    """The number of the colour word nearest to each row of `seen`."""
    return np.argmin((((palette - seen[:, None]) @ OPPONENT.T) ** 2).sum(axis=2), axis=1)


def test_objects_have_the_colour_their_caption_says() -> None:
    scene, plan = render(range(1200), 64, 3), plan_of(1200, 3)
    solid = [LABELS.index(name) for name in ("heart", "cloud", "apple")]
    chosen = np.flatnonzero(np.isin(scene.labels, solid) & ~plan.monochrome)
    seen = np.stack([central(scene.pixels[i], plan.x[i], plan.y[i]) for i in chosen])
    assert (named(seen, scenes._OBJECT_RGB) == plan.colour[chosen]).mean() > 0.97


def test_backgrounds_have_the_colour_their_caption_says() -> None:
    scene, plan = render(range(1200), 64, 3), plan_of(1200, 3)
    chosen = np.flatnonzero(~plan.monochrome)
    seen = np.median(scene.pixels[chosen, :6].reshape(len(chosen), -1, 3), axis=1) / 255
    assert (named(seen, scenes._BACKGROUND_RGB) == plan.backdrop[chosen]).mean() > 0.97


def test_monochrome_scenes_have_no_colour() -> None:
    scene, plan = render(range(400), 32, 0), plan_of(400, 0)
    spread = np.ptp(scene.pixels.astype(float), axis=3).mean(axis=(1, 2))
    assert plan.monochrome.any()
    assert spread[plan.monochrome].max() < 16  # sensor noise only
    assert np.median(spread[~plan.monochrome]) > 40


@pytest.mark.parametrize("size", [64, 224])
def test_the_amplitude_spectrum_falls_roughly_as_one_over_f(size: int) -> None:
    grey = render(range(48), size, 3).pixels.mean(axis=3) / 255
    edge = np.hanning(size)
    spectrum = np.abs(np.fft.fft2((grey - grey.mean(axis=(1, 2), keepdims=True)) * edge[:, None] * edge))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size) * size, np.fft.fftfreq(size) * size))
    bands = np.arange(2, size // 2)
    amplitude = [spectrum[:, np.abs(frequency - band) < 0.5].mean() for band in bands]
    slope = np.polyfit(np.log(bands), np.log(amplitude), 1)[0]
    assert -1.6 < slope < -0.7


def test_channels_are_correlated_as_in_photographs() -> None:
    pixels = render(range(240), 32, 3).pixels.reshape(-1, 3).astype(float)
    correlation = np.corrcoef(pixels.T)
    assert 0.3 < correlation.min() < 0.9


def test_no_label_is_told_by_its_mean_colour_alone() -> None:
    scene = render(range(40 * len(LABELS)), 32, 6)
    mean = scene.pixels.mean(axis=(1, 2))
    half = len(mean) // 2
    centres = np.stack([mean[:half][scene.labels[:half] == label].mean(axis=0) for label in range(len(LABELS))])
    guess = np.argmin(((mean[half:, None] - centres) ** 2).sum(axis=2), axis=1)
    assert (guess == scene.labels[half:]).mean() < 4 / len(LABELS)


def test_pixels_are_as_recorded_up_to_rounding() -> None:
    pixels = render([0, 1, 2, 1_000_000], 64, 20260101).pixels.astype(float)
    seen = pixels.reshape(4, 2, 32, 2, 32, 3).mean(axis=(2, 4, 5)).reshape(4, 4)
    assert np.abs(seen - GOLDEN).max() < 0.05


def test_captions_are_as_recorded() -> None:
    told = describe(range(2000), 20260101).captions
    assert told[:3] == GOLDEN_CAPTIONS
    assert hashlib.sha256("\n".join(told).encode()).hexdigest()[:16] == GOLDEN_CAPTIONS_DIGEST


def test_sprites_stay_inside_their_border() -> None:
    covered = atlas(96).texels.view(np.uint8).reshape(-1, 96, 96, 8)[..., ALPHA] / 255
    assert len(covered) == len(LABELS) * VARIANTS + DISTRACTORS
    border = np.ones((96, 96), dtype=bool)
    border[4:-4, 4:-4] = False
    for number, coverage in enumerate(covered):
        assert coverage[border].max() == 0, number
        assert 0.05 < coverage.mean() < 0.7, number


def test_the_sprites_are_what_the_tool_draws() -> None:
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "draw_sprites.py"))
    assert tuple(name for name, _ in tool["DRAWINGS"]) == LABELS
    with np.load(Path(scenes.__file__).with_name("sprites.npz")) as kept:
        drawn = tool["draw"]()
        assert set(kept.files) == set(drawn)
        for name in ("shapes", "counts"):
            assert np.array_equal(kept[name], drawn[name])
        assert np.abs(kept["points"] - drawn["points"]).max() < 1e-12  # sines differ in the last bit between systems


def test_drawings_of_different_things_differ() -> None:
    sprites = atlas(48).texels.view(np.uint8).reshape(-1, 48 * 48, 8)
    overlap = np.corrcoef(sprites[: len(LABELS) * VARIANTS, :, 0].astype(float))  # of the outlines
    for a, b in itertools.combinations(range(len(overlap)), 2):
        if a // VARIANTS != b // VARIANTS:
            assert overlap[a, b] < 0.95, (LABELS[a // VARIANTS], LABELS[b // VARIANTS])


def test_labels_are_distinct_nouns_with_usual_colours() -> None:
    assert len({*LABELS}) == len(LABELS) == 24
    assert {*LABELS} == {*scenes._USUAL}
    assert {*scenes._TURN} <= {*LABELS}
    assert "banana" in LABELS
