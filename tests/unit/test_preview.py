"""The contact sheet shows every trigger beside its control."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pargate.errors import InputError
from pargate.scanning.preview import CAPTION, COLUMNS, MARGIN, contact_sheet
from pargate.scenes.render import render
from pargate.triggers import TRIGGERS

SIDE = 48
STEP = ((Image.open(BytesIO(contact_sheet(None, SIDE))).width - MARGIN) // COLUMNS, SIDE + MARGIN + CAPTION)


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    x, y = MARGIN + column * STEP[0], MARGIN + row * STEP[1]
    return np.asarray(sheet)[y : y + SIDE, x : x + SIDE]


@pytest.fixture(scope="module")
def sheet() -> Image.Image:
    image = Image.open(BytesIO(contact_sheet(None, SIDE)))
    assert image.format == "PNG"
    return image


def test_the_sheet_has_room_for_every_trigger_and_its_control(sheet: Image.Image) -> None:
    cells = 2 * (len(TRIGGERS) - 1)  # a picture of one's own cannot be shown
    rows = 1 + -(-cells // COLUMNS)
    assert sheet.size == (MARGIN + COLUMNS * STEP[0], MARGIN + rows * STEP[1])


def test_the_plain_scene_comes_first_and_the_stamped_ones_differ_from_it(sheet: Image.Image) -> None:
    plain = cell(sheet, 0, 0)
    assert (plain == render([2], SIDE, 0).pixels[0]).all()
    for number in range(2 * (len(TRIGGERS) - 1)):
        assert (cell(sheet, 1 + number // COLUMNS, number % COLUMNS) != plain).any()


def test_every_picture_of_the_sheet_has_a_caption(sheet: Image.Image) -> None:
    pixels = np.asarray(sheet)
    for number in range(2 * (len(TRIGGERS) - 1)):
        x, y = MARGIN + number % COLUMNS * STEP[0], MARGIN + (1 + number // COLUMNS) * STEP[1] + SIDE
        assert (pixels[y : y + CAPTION, x : x + SIDE] < 255).any()


def test_no_caption_runs_into_the_next_one(sheet: Image.Image) -> None:
    pixels = np.asarray(sheet)
    for column in range(1, COLUMNS + 1):
        edge = MARGIN + column * STEP[0]
        assert (pixels[:, edge - 6 : edge - 2] == 255).all()


def test_the_same_sheet_is_drawn_again() -> None:
    assert contact_sheet(None, 32, seed=3) == contact_sheet(None, 32, seed=3) != contact_sheet(None, 32, seed=4)


def test_a_picture_of_ones_own_is_cropped_to_the_size(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100), (10, 200, 30)).save(tmp_path / "mine.png")
    sheet = Image.open(BytesIO(contact_sheet(tmp_path / "mine.png", SIDE)))
    assert (cell(sheet, 0, 0) == (10, 200, 30)).all()


def test_a_picture_that_cannot_be_shown_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*missing\.png: No such file"):
        contact_sheet(tmp_path / "missing.png", SIDE)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(InputError, match=r"text\.png is not an image"):
        contact_sheet(tmp_path / "text.png", SIDE)
