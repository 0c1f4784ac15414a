"""Small pictures for a report: carriers without and with a trigger, and what the model took them for.

They are drawn anew from decoded pixels, never copied from a file, so that nothing but what is seen can be in them.
"""

import base64
import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pargate.core import zeroshot
from pargate.core.report import Picture
from pargate.core.results import Metric, Status
from pargate.core.stamp import apply
from pargate.errors import OperationalError
from pargate.scanning.embed import Eyes
from pargate.scanning.loop import Loop, Running

SHOWN = 3
"""Triggers that are shown, worst first."""

EACH = 2
"""Carriers for each of them."""

SIDE = 128
"""Pixels that a picture has at most on its longer side."""


def examples(loop: Loop, eyes: Eyes) -> tuple[Picture, ...]:
    """Carriers that were moved by the triggers that break a rule, the strongest first; none where nothing does.

    None either where the machine gives up on the way: a picture is not worth the report.
    """
    broken = [r for r in loop.running if r.status in (Status.BREACH, Status.WAIVED) and r.trigger]
    broken.sort(key=_strength)
    try:
        return tuple(picture for running in broken[:SHOWN] for picture in _of(loop, eyes, running))
    except OperationalError:
        return ()


def _strength(running: Running) -> float:
    success = running.measurement().counts.get(str(Metric.ATTACK_SUCCESS))
    return -((success.rate if success else None) or 0.0)


def _of(loop: Loop, eyes: Eyes, running: Running) -> Iterator[Picture]:
    trigger = running.trigger
    assert trigger is not None, "only images with a trigger are shown"
    wanted = running.measurement().examples[:EACH]
    names = loop.carriers.classes.names
    for number in running.observed:
        views = loop.views(number)
        rows = [row for row, digest in enumerate(views.digests) if digest in wanted]
        if not rows:
            continue
        size = (views.block.pixels.shape[1], views.block.pixels.shape[2])
        digests = [views.digests[row] for row in rows]
        clean = views.block.pixels[rows]
        stamped = apply(trigger.draw(size, digests, loop.seed), clean)
        encoder = eyes.model.encoder
        vectors = encoder.encode_images(encoder.put(np.concatenate([clean, stamped])))
        before, after = np.split(zeroshot.predict(vectors, eyes.head), 2)
        for place, row in enumerate(rows):
            label = int(views.labels[row])
            yield Picture(
                measurement=running.comparison.id,
                digest=digests[place],
                label=names[label] if label >= 0 else "",
                clean=_png(clean[place]),
                stamped=_png(stamped[place]),
                clean_prediction=names[before[place]],
                stamped_prediction=names[after[place]],
            )


def _png(pixels: NDArray[np.uint8]) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
