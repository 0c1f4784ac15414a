"""Example images for a report: without and with a trigger, and the model's prediction for each.

They are encoded again from decoded pixels and never copied from a file, so that they hold no hidden content.
"""

import base64
import io
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pargate.core import zeroshot
from pargate.core.report import Picture
from pargate.core.results import Metric, Status
from pargate.core.stamp import apply
from pargate.errors import OperationalError
from pargate.scanning.embed import ModelPair
from pargate.scanning.loop import Loop, Running

SHOWN = 3
"""Number of triggers that are shown, the strongest first."""

EACH = 2
"""Number of images for each trigger."""

SIDE = 128
"""Largest number of pixels on the longer side of an example."""


def examples(loop: Loop, pair: ModelPair) -> tuple[Picture, ...]:
    """Return images that a trigger moved to its target, for each trigger that breaks a rule.

    The result is empty if the device fails: the report is worth more than its examples.
    """
    broken = [r for r in loop.running if r.status in (Status.BREACH, Status.WAIVED) and r.trigger]
    broken.sort(key=_strength)
    try:
        return tuple(picture for running in broken[:SHOWN] for picture in _clearest(_of(loop, pair, running)))
    except OperationalError:
        return ()


def _strength(running: Running) -> float:
    success = running.measurement().counts.get(str(Metric.ATTACK_SUCCESS))
    return -((success.rate if success else None) or 0.0)


def _clearest(pictures: Iterable[Picture]) -> list[Picture]:
    """Return `EACH` pictures, those first that the model names right without the trigger."""
    right: list[Picture] = []
    others: list[Picture] = []
    for picture in pictures:  # each may cost a forward pass
        (right if picture.label and picture.clean_prediction == picture.label else others).append(picture)
        if len(right) == EACH:
            break
    return [*right, *others][:EACH]


def _of(loop: Loop, pair: ModelPair, running: Running) -> Iterator[Picture]:
    trigger = running.trigger
    assert trigger is not None, "only images with a trigger are shown"
    wanted = running.measurement().examples
    names = loop.images.classes.names
    for number in running.observed:
        views = loop.views(number)
        rows = [row for row, digest in enumerate(views.digests) if digest in wanted]
        if not rows:
            continue
        size = (views.block.pixels.shape[1], views.block.pixels.shape[2])
        digests = [views.digests[row] for row in rows]
        clean = views.block.pixels[rows]
        stamped = apply(trigger.draw(size, digests, loop.seed), clean)
        before = zeroshot.predict(views.clean()[rows], pair.head)
        after = zeroshot.predict(views.stamped(trigger)[rows], pair.head)
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
