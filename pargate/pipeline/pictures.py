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
from pargate.core.results import Status
from pargate.core.stamp import apply
from pargate.pipeline.session import Question, Session
from pargate.pipeline.views import Eyes
from pargate.policy import judge
from pargate.policy.waivers import Context

SHOWN = 3
"""Triggers that are shown, worst first."""

EACH = 2
"""Carriers for each of them."""

SIDE = 128
"""Pixels that a picture has at most on its longer side."""


def examples(session: Session, eyes: Eyes, context: Context) -> tuple[Picture, ...]:
    """Carriers that the triggers moved which break a rule, or come nearest to it where none does."""
    measured = [q for q in session.questions if q.measurement().examples]
    found = {q.comparison.id: q for q in measured}
    findings, _, _ = judge.judge(session.policy, [q.measurement() for q in measured], context=context)
    broken = [f for f in findings if f.measurement and f.status in (Status.BREACH, Status.WAIVED)]
    return tuple(
        picture for finding in broken[:SHOWN] for picture in _of(session, eyes, found[finding.measurement or ""])
    )


def _of(session: Session, eyes: Eyes, question: Question) -> Iterator[Picture]:
    wanted = question.measurement().examples[:EACH]
    names = session.carriers.classes.names
    for number in question.probe.observed:
        views = session.views(number)
        rows = [row for row, digest in enumerate(views.digests) if digest in wanted]
        if not rows:
            continue
        trigger = question.probe.trigger
        size = (views.block.pixels.shape[1], views.block.pixels.shape[2])
        digests = [views.digests[row] for row in rows]
        clean = views.block.pixels[rows]
        stamped = apply(trigger.draw(size, digests, session.seed), clean)
        encoder = eyes.model.encoder
        vectors = encoder.encode_images(encoder.put(np.concatenate([clean, stamped])))
        before, after = np.split(zeroshot.predict(vectors, eyes.head), 2)
        for place, row in enumerate(rows):
            label = int(views.labels[row])
            yield Picture(
                measurement=question.comparison.id,
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
