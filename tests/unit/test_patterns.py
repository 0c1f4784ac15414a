"""The patterns that a search climbs."""

import numpy as np
import pytest
import torch

from pargate.models.torch import patterns
from pargate.models.torch.patterns import Pattern

SIZE = (24, 32)


def drawn(pattern: Pattern, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pattern.spread(pattern.draw(count, SIZE, generator), SIZE)


@pytest.mark.parametrize(
    "pattern",
    [patterns.NOISE, patterns.ROWS, patterns.COLUMNS, patterns.tiles(8), patterns.tiles(16, 1), patterns.SMOOTH,
     patterns.WAVE, patterns.FREE],
)  # fmt: skip
def test_a_pattern_makes_pictures_of_the_size_of_an_image(pattern: Pattern) -> None:
    found = drawn(pattern)
    assert found.shape == (3, *SIZE, 3) and 0 <= float(found.min()) < float(found.max()) <= 1
    assert not torch.equal(found[0], found[1])


def test_rows_are_constant_along_a_row_and_columns_along_a_column() -> None:
    rows, columns = drawn(patterns.ROWS), drawn(patterns.COLUMNS)
    assert torch.equal(rows, rows[:, :, :1].expand_as(rows)) and not torch.equal(rows[:, 0], rows[:, 1])
    assert torch.equal(columns, columns[:, :1].expand_as(columns)) and not torch.equal(
        columns[:, :, 0], columns[:, :, 1]
    )


def test_tiles_repeat() -> None:
    found = drawn(patterns.tiles(8))
    assert torch.equal(found[:, :3], found[:, 3:6]) and torch.equal(found[:, :, :4], found[:, :, 4:8])
    grey = drawn(patterns.tiles(16, 1))
    assert torch.equal(grey[..., 0], grey[..., 2])


def test_a_wave_is_a_cosine() -> None:
    side = 2 * patterns.PERIODS + 1
    theta = torch.zeros(1, side, side, 2, 3)
    theta[0, patterns.PERIODS + 2, patterns.PERIODS + 1, 0] = 0.8  # two periods down, one across
    rows, columns = np.arange(24)[:, None] / 24, np.arange(32)[None, :] / 32
    expected = 0.5 + 0.4 * np.cos(2 * np.pi * (2 * rows + columns))
    np.testing.assert_allclose(patterns.WAVE.spread(theta, SIZE)[0, :, :, 1], expected, atol=1e-5)


def test_waves_together_are_no_stronger_than_one() -> None:
    theta = patterns.WAVE.project(torch.full((2, 13, 13, 2, 3), 0.5))
    np.testing.assert_allclose(theta.flatten(1).norm(dim=1), 1.0, rtol=1e-5)
    small = torch.full((1, 13, 13, 2, 3), 1e-3)
    assert torch.equal(patterns.WAVE.project(small), small)


def test_free_pixels_begin_as_each_pattern_in_turn() -> None:
    found = drawn(patterns.free(patterns.ROWS, patterns.COLUMNS), 4)
    for number in (0, 2):
        assert torch.equal(found[number], found[number, :, :1].expand_as(found[number]))
    for number in (1, 3):
        assert torch.equal(found[number], found[number, :1].expand_as(found[number]))


def test_a_patch_is_square() -> None:
    assert drawn(patterns.square(8)).shape == (3, 3, 3, 3)
