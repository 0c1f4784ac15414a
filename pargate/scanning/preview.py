"""A contact sheet: every trigger on one image, with the control that it is measured against."""

import hashlib
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pargate.core.model import Preprocess
from pargate.core.stamp import apply
from pargate.errors import InputError
from pargate.images.decode import Locator, decode
from pargate.triggers import TRIGGERS, Trigger, control, parse

MARGIN = 8
CAPTION = 18
COLUMNS = 4


def contact_sheet(image: Path | None, size: int, seed: int = 0, shown: Sequence[Trigger] | None = None) -> bytes:
    """Return a PNG that shows each trigger and its control on one image, at `size` pixels a side.

    Without `shown`, the triggers are all kinds with their published parameters, if these suffice.

    Raises:
        InputError: the image cannot be read, or is too small for a trigger.
    """
    pixels = _base(image, size, seed)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    cells: list[tuple[str, NDArray[np.uint8]]] = [("no trigger", pixels)]
    if shown is None:
        given = [kind for kind, cls in TRIGGERS.items() if not any(f.is_required() for f in cls.model_fields.values())]
        shown = [parse(kind)[0].model_copy(update={"name": kind}) for kind in given]
    for trigger in shown:
        stamp = trigger.draw((size, size), [digest], seed)
        cells.append((trigger.label, apply(stamp, pixels[None])[0]))
        against = control(trigger, stamp, (size, size), [digest], seed)
        cells.append((f"its {trigger.control} control", apply(against, pixels[None])[0]))
    return _sheet(cells, size)


def _base(image: Path | None, size: int, seed: int) -> NDArray[np.uint8]:
    if image is None:
        from pargate.scenes.render import render

        return np.asarray(render([2], size, seed).pixels[0])
    try:
        content = Locator(str(image)).read()
    except OSError as error:
        raise InputError(f"cannot read {image}: {error.strerror}", "check --on") from error
    decoded = decode(content, Preprocess((size, size), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    if decoded.pixels is None:
        raise InputError(f"{image} is not an image: {decoded.problem}", "give a PNG or JPEG")
    return decoded.pixels


def _sheet(cells: list[tuple[str, NDArray[np.uint8]]], size: int) -> bytes:
    # The image without a trigger has a row of its own, so that each trigger and its control stay side by side.
    rows = 1 + -(-(len(cells) - 1) // COLUMNS)
    font = ImageFont.load_default(size=12)
    # A name may be wider than a small image, and must not run into the next one.
    widest = max(math.ceil(font.getlength(name)) for name, _ in cells)
    step_x, step_y = max(size, widest) + MARGIN, size + MARGIN + CAPTION
    page = Image.new("RGB", (COLUMNS * step_x + MARGIN, rows * step_y + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, pixels) in enumerate(cells):
        place = number if number == 0 else number - 1 + COLUMNS
        x, y = MARGIN + place % COLUMNS * step_x, MARGIN + place // COLUMNS * step_y
        page.paste(Image.fromarray(pixels), (x, y))
        draw.text((x, y + size + 2), name, fill="black", font=font)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()
