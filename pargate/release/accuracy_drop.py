"""The accuracy that cleaning costs: the original and the cleaned model on the same labelled images."""

import contextlib
import time
from functools import partial
from pathlib import Path

from pargate import events
from pargate.core import zeroshot
from pargate.core.report import AccuracyDrop
from pargate.core.results import PairedCounts
from pargate.files import BlockStore
from pargate.images.prefetch import Decoder
from pargate.judge.release import drop
from pargate.models.model import Model
from pargate.models.open import opened
from pargate.policy.fields import Limit
from pargate.scanning.embed import BlockViews
from pargate.scanning.images import read_images
from pargate.scanning.request import ScanRequest


def measure(
    request: ScanRequest, original: Model, limit: Limit, most: int, emit: events.Listener = events.ignore
) -> AccuracyDrop:
    """Measure whether the accuracy of `request.model` is lower than that of `original` by more than `limit`.

    Images are read until there are `most`, until they end, or until the policy's budget is spent, and never until the
    answers look good: the test is one of fixed size. Without labels the comparison stays open.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `scan`.
    """
    budget, began = request.policy.policy.budget, time.monotonic()
    both = lost = gained = n = 0
    with contextlib.ExitStack() as stack:
        after = stack.enter_context(opened(request.model))
        decoder = stack.enter_context(Decoder(after.checkpoint.preprocess))
        images, _ = read_images(request)
        decoder.start(images.items, images.blocks)
        from pargate.scanning.choose import open_pair

        store = BlockStore(request.settings.cache)
        readable = partial(decoder.readable, source=images.source)
        settings = request.settings
        pair = open_pair(after, original, images, readable, store, device=settings.device, precision=settings.precision)
        assert pair.reference is not None and pair.reference_head is not None  # `original` was given
        emit(events.StageStarted("compare", f"clean accuracy with {Path(original.checkpoint.source).name}'s"))
        seen: set[str] = set()
        for number in range(len(images.blocks)):
            spent = budget.minutes is not None and time.monotonic() > began + 60 * budget.minutes
            if spent or len(seen) >= min(most, most if budget.images is None else budget.images):
                break
            block = decoder.block(number)
            views = BlockViews(block, images, pair.model, pair.reference, settings.seed)
            labels = views.labels
            counts = labels >= 0
            for row, digest in enumerate(block.digests):
                counts[row] &= digest not in seen
                seen.add(digest)
            was = (zeroshot.predict(views.clean(reference=True), pair.reference_head) == labels)[counts]
            now = (zeroshot.predict(views.clean(), pair.head) == labels)[counts]
            n += int(counts.sum())
            both += int((was & now).sum())
            lost += int((was & ~now).sum())
            gained += int((~was & now).sum())
            emit(events.Advanced(number + 1, len(images.blocks), f"{n} images compared"))
    pairs = PairedCounts(baseline="cleaned", target="", n=n, both=both, trigger_only=lost, baseline_only=gained)
    return drop(pairs, limit, request.policy.policy.confidence)
