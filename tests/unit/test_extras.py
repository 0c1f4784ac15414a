"""Extras add objects and signs that captions tell truly, and leave every other scene as it was."""

import re

import numpy as np
import pytest

from pargate.core.model import Preprocess
from pargate.errors import InputError
from pargate.images.opening import open_pairs
from pargate.images.prefetch import BatchOrder, PairLoader
from pargate.scenes import extras
from pargate.scenes.extras import EXTRAS, WORDS, plural
from pargate.scenes.render import LABELS, describe, render

N = 600
PLAIN = describe(range(N), 0)
FULL = describe(range(N), 0, EXTRAS)


def several(caption: str) -> bool:
    return re.search(r"\b(two|three)\b", caption) is not None


def test_scenes_without_an_extra_are_the_same_scenes() -> None:
    same = [i for i in range(64) if PLAIN.captions[i] == FULL.captions[i]]
    assert 15 < len(same) < 50 and np.array_equal(PLAIN.labels, FULL.labels)
    plain, full = render(range(64), 64, 0), render(range(64), 64, 0, EXTRAS)
    changed = [i for i in range(64) if not np.array_equal(plain.pixels[i], full.pixels[i])]
    assert changed == [i for i in range(64) if i not in same]
    assert full.captions == FULL.captions[:64]


def test_a_third_shows_several_and_a_quarter_of_the_others_a_sign() -> None:
    many = [caption for caption in FULL.captions if several(caption)]
    signs = [caption for caption in FULL.captions if "sign that says" in caption]
    assert 0.27 < len(many) / N < 0.40 and 0.18 < len(signs) / (N - len(many)) < 0.32
    assert not any(several(caption) for caption in signs)


@pytest.mark.parametrize(("wanted", "other"), [("counts", "sign that says"), ("lettering", "two")])
def test_extras_are_wanted_one_by_one(wanted: str, other: str) -> None:
    captions = describe(range(N), 0, [wanted]).captions
    assert not any(other in caption for caption in captions) and captions != PLAIN.captions


def test_captions_of_several_are_sentences() -> None:
    for label, caption in zip(FULL.labels, FULL.captions, strict=True):
        if several(caption):
            assert re.search(rf"\b(two|three) (\w+ )?{plural(LABELS[label])}\b", caption)
            assert not re.search(r"\b(there|this) is\b|\b(small|big|large|little)\b|\bon the (left|right)\b", caption)
        if sign := re.search(r'"(\w+)"', caption):
            assert sign[1] in WORDS


def test_a_scene_with_extras_does_not_depend_on_its_batch() -> None:
    whole = render(range(40), 64, 5, EXTRAS)
    for number in (3, 17, 39):
        alone = render([number], 64, 5, EXTRAS)
        assert np.array_equal(alone.pixels[0], whole.pixels[number]) and alone.captions[0] == whole.captions[number]


@pytest.mark.parametrize("size", [32, 64, 224])
def test_every_word_fits_and_can_be_read(size: int) -> None:
    for word in WORDS:
        sign = extras._sign(word, max(1, round(size / 64)))
        assert sign.shape[0] <= size / 3 and sign.shape[1] <= size
        assert 0.1 < sign.mean() < 0.6
    assert min(np.abs(extras._INKS[:, 0] - extras._INKS[:, 1]).mean(axis=1)) > 0.4


def test_letters_are_all_there_and_all_different() -> None:
    assert {*"".join(WORDS)} <= {*extras._GLYPHS}
    assert len({*extras._GLYPHS.values()}) == len(extras._GLYPHS)
    assert not {*WORDS} & {*LABELS, *map(plural, LABELS)}


def test_several_objects_do_not_touch() -> None:
    for count, places in extras._PLACES.items():
        apart = min(np.abs(a - b).max() for i, a in enumerate(places) for b in places[:i])
        assert apart > extras._SCALES[count][1] - 0.02


def test_more_objects_cover_more_of_the_picture() -> None:
    counts = describe(range(300), 0, ["counts"])
    many = [i for i, caption in enumerate(counts.captions) if "three" in caption][:20]
    plain, full = render(many, 64, 0), render(many, 64, 0, ["counts"])
    assert all(not np.array_equal(a, b) for a, b in zip(plain.pixels, full.pixels, strict=True))


def test_an_unknown_extra_is_refused() -> None:
    with pytest.raises(InputError, match="scenes have no hats"):
        render([0], 64, 0, ["hats"])
    with pytest.raises(InputError, match=r"scenes have no 'count'\. Did you mean 'counts'\?"):
        open_pairs("synthetic:+count", seed=0)


def test_pairs_with_extras_are_drawn_by_the_loader() -> None:
    plain, both = open_pairs("synthetic:", seed=0), open_pairs("synthetic:50+lettering+counts", seed=0)
    assert both.count == 50 and both.digest != plain.digest
    assert open_pairs("synthetic:50+counts+lettering", seed=0).digest == both.digest
    rule = Preprocess((64, 64), (0.0,) * 3, (1.0,) * 3)  # type: ignore[arg-type]
    with PairLoader(both, rule, BatchOrder(both.count, 0, 50), range(1), workers=0) as loader:
        batch = loader.batch(0)
    drawn = render(batch.numbers, 64, 0, EXTRAS)
    assert batch.captions == drawn.captions and np.array_equal(batch.pixels, drawn.pixels)


def test_classes_are_spelled_alike_in_either_number() -> None:
    captions = open_pairs("synthetic:+counts", seed=0, classes=["Leaf", "CAR", "fish"]).captions(range(300))
    assert any("Leaves" in c for c in captions) and any("CARS" in c for c in captions)
    assert all(re.search(r"\b(Leaf|Leaves|CARS?|fish)\b", c) for c in captions)
