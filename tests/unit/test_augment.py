"""PAR's augmentation: its probabilities and sizes as published, and every draw a function of a key."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pargate.clean.train import augment, cleanclip
from pargate.core.model import Preprocess
from pargate.seeds import Keys, index_keys

RULE = Preprocess((64, 64), (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))


def keys(count: int, seed: int = 0) -> Keys:
    return index_keys(seed, "augmentation 0", np.arange(count))


def grey(count: int, side: int = 64, level: float = 0.9) -> Tensor:
    return torch.full((count, 3, side, side), level)


def test_pixels_become_model_input_by_the_rule() -> None:
    pixels = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = augment.normalised(augment.unit_range(pixels), RULE)
    expected = (pixels.numpy() / 255 - np.array(RULE.mean)) / np.array(RULE.std)
    assert found.dtype == torch.float32 and found.shape == (2, 3, 5, 7)
    np.testing.assert_allclose(found.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)


def drawn(count: int, side: int = 64) -> tuple[Tensor, Tensor]:
    """Augmented pictures that were darker than any erased square, and where each was erased: bool [n, H, W]."""
    rule = Preprocess((side, side), (0.999, 0.998, 0.997), RULE.std)
    found = augment.par(grey(count, side, 0.3), keys(count), rule)
    mean = torch.tensor(rule.mean).view(1, 3, 1, 1)
    return found, (found == mean).all(dim=1)


def test_half_of_the_pictures_get_noise_and_half_a_square_independently() -> None:
    found, erased = drawn(3000, 32)
    squares = erased.flatten(1).any(dim=1)
    outside = torch.where(erased[:, None], torch.tensor(0.3), found)
    noisy = (outside != 0.3).flatten(1).any(dim=1)
    for share, expected in ((noisy, 0.5), (squares, 0.5), (noisy & squares, 0.25)):
        # Five standard deviations of 3,000 draws.
        assert share.double().mean().item() == pytest.approx(
            expected, abs=5 * math.sqrt(expected * (1 - expected) / 3000)
        )


def test_noise_only_brightens_by_half_a_normal_distribution() -> None:
    found = augment.par(grey(400, 32, 0.0), keys(400), Preprocess((32, 32), (0.0, 0.0, 0.0), RULE.std))
    noisy = found[(found != 0).flatten(1).sum(dim=1) > 1000]
    values = noisy.numpy().ravel()
    assert len(noisy) > 150 and values.min() >= 0
    # Erased squares are 0 here as well, a percent at most.
    assert (values == 0).mean() == pytest.approx(0.5, abs=0.01)
    assert values[values > 0].mean() == pytest.approx(0.2 * math.sqrt(2 / math.pi), abs=0.002)


def test_nothing_becomes_brighter_than_white() -> None:
    found = augment.par(grey(64, 32, 0.95), keys(64), RULE)
    assert found.max() == 1.0 and (found == 1.0).sum() > 1000


def test_an_erased_square_has_the_published_area_and_lies_inside() -> None:
    found, erased = drawn(200, 224)
    sides, places = set(), []
    for mask in erased[erased.flatten(1).any(dim=1)].numpy():
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert len(rows) == len(columns) and mask.sum() == len(rows) ** 2, "one square, whole"
        sides.add(len(rows))
        places.append((rows[0], columns[0], rows[-1], columns[-1]))
    # ½ % of 224² is 15.8², 1 % is 22.4².
    assert sides == set(range(16, 23))
    corners = np.array(places)
    assert corners[:, :2].min() < 12 and corners[:, 2:].max() > 211, "anywhere, up to the edge"
    assert abs(np.corrcoef(corners[:, 0], corners[:, 1])[0, 1]) < 0.3
    assert found.shape == (200, 3, 224, 224)


def test_what_is_erased_is_zero_after_normalisation() -> None:
    found = augment.normalised(augment.par(grey(40), keys(40), RULE), RULE)
    zero = (found.abs() < 1e-6).all(dim=1).flatten(1).sum(dim=1)
    assert (zero > 0).any() and set(zero[zero > 0].tolist()) <= {side * side for side in (4, 5, 6)}


def test_the_pictures_given_are_not_changed() -> None:
    pixels = grey(16)
    augment.par(pixels, keys(16), RULE)
    assert torch.equal(pixels, grey(16))


def test_neither_order_nor_company_changes_a_picture() -> None:
    pixels = torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    whole = augment.par(pixels, keys(24), RULE)
    for size in (1, 5, 8):
        parts = [augment.par(pixels[i : i + size], keys(24)[i : i + size], RULE) for i in range(0, 24, size)]
        assert torch.equal(torch.cat(parts), whole)
    order = np.random.default_rng(2).permutation(24)
    assert torch.equal(augment.par(pixels[order], keys(24)[order], RULE), whole[order])


def test_the_process_and_its_random_stream_do_not_matter() -> None:
    pixels = grey(8, 32)
    torch.manual_seed(1)
    one = augment.par(pixels, keys(8), RULE)
    before = torch.get_rng_state()
    two = augment.par(pixels, keys(8), RULE)
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, augment.par(pixels, keys(8, seed=1), RULE))


# ---- the strong one


def noise(count: int, side: int = 24, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_strong_views_follow_from_the_keys_in_any_order_and_company() -> None:
    pixels, others = noise(24), noise(24, seed=2)
    before = torch.get_rng_state()
    whole = augment.strong(pixels, others, keys(24))
    assert torch.equal(torch.get_rng_state(), before) and torch.equal(pixels, noise(24))
    for size in (1, 5, 8):
        parts = [augment.strong(pixels[i : i + size], others[i : i + size], keys(24)[i : i + size])
                 for i in range(0, 24, size)]  # fmt: skip
        assert torch.equal(torch.cat(parts), whole)
    order = np.random.default_rng(2).permutation(24)
    assert torch.equal(augment.strong(pixels[order], others[order], keys(24)[order]), whole[order])
    assert whole.shape == pixels.shape and whole.min() >= 0 and whole.max() <= 1
    assert not torch.equal(augment.strong(pixels, others, keys(24, seed=1)), whole)


def test_half_of_the_strong_views_show_the_other_picture_in_a_rectangle_and_half_all_over() -> None:
    """White pictures and black others: light and colours leave white brighter than black, and black as it is."""
    count, side = 2000, 20
    found = augment.mixed(torch.ones(count, 3, side, side), torch.zeros(count, 3, side, side), keys(count)).amax(dim=1)
    black = found == 0
    cut = black.flatten(1).any(dim=1)
    assert cut.double().mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / count))
    shares = black[cut].double().mean(dim=(1, 2))
    assert shares.min() >= 0.25**2 and shares.max() <= 0.8**2
    for mask in black[cut][:50].numpy():
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask.sum() == len(rows) * len(columns), "a rectangle, whole"
        assert all(6 - 1 <= len(side) <= 16 for side in (rows, columns))


def test_a_crop_shows_part_of_a_picture_in_its_proportions_or_nearly() -> None:
    """A ramp from left to right stays one: steeper, or the other way round, and the same in every row."""
    side, count = 32, 64
    ramp = torch.linspace(0.2, 0.8, side).expand(count, 3, side, side)
    draws = torch.rand(count, 11, generator=torch.Generator().manual_seed(0))
    found = augment._cropped(ramp, draws)
    assert torch.allclose(found, found[:, :, :1].expand_as(found), atol=1e-6)
    slopes = found[:, 0, 0, 20] - found[:, 0, 0, 12]
    whole = ramp[0, 0, 0, 20] - ramp[0, 0, 0, 12]
    shown = slopes.abs() / whole
    assert shown.max() <= 1 + 1e-4 and shown.min() >= math.sqrt(0.3) * math.exp(-0.3) - 1e-4
    assert ((slopes < 0) == (draws[:, 2] >= 0.5)).all()


def test_a_texture_has_the_spectrum_and_the_contrast_that_it_is_said_to_have() -> None:
    count, side = 400, 64
    grey = torch.full((count, 3, side, side), 0.5)
    found = augment.textured(grey, keys(count)) - grey
    changed = found.flatten(1).abs().amax(dim=1) > 0
    assert changed.double().mean().item() == pytest.approx(augment.TEXTURED, abs=5 * math.sqrt(0.25 / count))
    spread = found.square().mean(dim=(1, 2, 3)).sqrt()
    assert 0.8 * augment.CONTRAST < spread.max() <= augment.CONTRAST + 1e-6
    assert (found[changed].std(dim=1).mean(dim=(1, 2)) > 1e-4).double().mean() > 0.9, "not grey"
    faint = found[changed & (spread < 0.12)].mean(dim=1).numpy()  # the others are clipped
    power = (np.abs(np.fft.fft2(faint)) ** 2 / faint.var(axis=(1, 2), keepdims=True)).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side) * side, np.fft.fftfreq(side) * side))
    rings = [(f, np.sqrt(power[(frequency >= f - 0.5) & (frequency < f + 0.5)].mean())) for f in range(2, side // 3)]
    slope = np.polyfit(*np.log(rings).T, 1)[0]
    low, high = augment.ROUGHNESS
    assert low < -slope < high


# ---- CleanCLIP's


def test_auto_augment_follows_from_the_key_alone_and_leaves_the_random_stream() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    whole = cleanclip.auto_augmented(pixels, keys(12))
    assert torch.equal(torch.get_rng_state(), before)
    assert whole.dtype == np.uint8 and whole.shape == pixels.shape
    alone = [cleanclip.auto_augmented(pixels[i : i + 1], keys(12)[i : i + 1]) for i in reversed(range(12))]
    assert np.array_equal(np.concatenate(alone[::-1]), whole)
    assert sum(not np.array_equal(a, b) for a, b in zip(whole, pixels, strict=True)) >= 6


def test_captions_are_reworded_the_same_every_time_with_their_own_words() -> None:
    captions = [f"a {colour} {thing} in front of a wall" for colour in ("red", "blue") for thing in ("fox", "car")]
    found = cleanclip.reworded(captions, 0)
    assert found == cleanclip.reworded(captions, 0) == cleanclip.reworded(captions[::-1], 0)[::-1]
    assert any(cleanclip.reworded(captions, seed) != found for seed in (1, 2))
    for seed in range(20):
        for new, old in zip(cleanclip.reworded(captions, seed), captions, strict=True):
            assert new.split() and set(new.split()) <= set(old.split())


def test_a_caption_of_one_word_stays() -> None:
    assert cleanclip.reworded(["fox", ""], 0) == ["fox", ""]
