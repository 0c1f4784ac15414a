"""Triggers that a scan finds by itself: searched before the first image is measured, written for the next scan."""

import base64
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import yaml

from pargate import events
from pargate.core.calibration import Calibration, Conditions, Trusted, digest_of_images
from pargate.core.found import Family, Found
from pargate.core.model import Vectors
from pargate.core.report import ScanReport
from pargate.core.results import Metric
from pargate.errors import InputError, OperationalError
from pargate.files import check_writable, write_atomic
from pargate.policy.schema import Rule
from pargate.scanning.loop import Loop
from pargate.version import __version__

POLICY = "found.yaml"
"""Name of the policy that measures the found triggers."""

LEAST = 32
"""Images to search on, at least."""


def trusted(loop: Loop, rule: Rule, table: Calibration) -> Trusted:
    """Return the models of a rule's calibration table that the model is ranked among.

    Raises:
        InputError: the table was made by another search, or on other images.
    """
    families = cast(tuple[Family, ...], rule.families)
    digests = [digest for block in loop.selection() for digest in block.digests]
    conditions = Conditions(
        pargate=__version__,
        seed=loop.seed,
        precision=loop.model.spec.precision,
        images=digest_of_images(digests),
    )
    assert rule.calibration is not None, "a rule with a table names it"
    table.check(rule.calibration.path, families, conditions)
    return Trusted(rule.calibration.digest, families, table.largest(loop.model.checkpoint, families))


def search(loop: Loop, family: Family) -> Found | str:
    """Return the trigger of a family that moves the model most on the selection half, or why none is searched.

    Raises:
        InputError: the selection half has fewer than `LEAST` images.
        OperationalError: memory ran out.
    """
    views = loop.selection()
    pixels = np.concatenate([block.block.pixels for block in views])
    if len(pixels) < LEAST:
        raise InputError(
            f"the probe search has {len(pixels)} images of {loop.images.source} to search on, and needs {LEAST}",
            f"give at least {2 * LEAST} different images with --images",
        )
    if loop.deadline is not None and time.monotonic() > loop.deadline:
        return "budget"
    cached = loop.model
    if cached.checkpoint.format == "onnx":
        return "ONNX graphs have no gradients to search along; scan the checkpoint that they were made from"
    digests = [digest for block in views for digest in block.digests]
    asked = {"family": family, "seed": loop.seed, "images": digests}
    key = cached.key(search=asked, reference=loop.reference.key() if loop.reference else None)
    kept = cached.store.load(key)
    if kept is not None:
        return _from_block(family, kept)
    # Only now: torch takes seconds to load.
    from pargate.models.torch import search as ascent
    from pargate.models.torch.encoder import OpenClipEncoder

    encoder = cached.encoder
    if not isinstance(encoder, OpenClipEncoder) or not ascent.differentiable(encoder):
        return "the image tower gives no gradients to search along"
    loop.emit(events.StageStarted("search", family))

    def progress(done: int, total: int) -> None:
        loop.emit(events.Advanced(done, total, f"search for a trigger ({family})", "step"))

    trusted = loop.reference.encoder if loop.reference else None
    other = trusted if isinstance(trusted, OpenClipEncoder) else None
    found = ascent.search(encoder, pixels, family, loop.seed, other, progress)
    cached.passes += found.passes
    if loop.reference:
        loop.reference.passes += found.reference_passes
    kept = _as_block(found)
    cached.store.save(key, kept)
    return _from_block(family, kept)


def _as_block(found: Found) -> Vectors:
    """Return what was found as a block of the cache: float32 [n, 1]."""
    row, column = found.position or (-1, -1)
    facts = [
        found.strength, row, column, found.shift, found.held_out, found.passes, found.strongest,
        found.reference_passes, *found.picture.shape[:2],
    ]  # fmt: skip
    return np.concatenate([np.array(facts), found.picture.ravel()]).astype(np.float32)[:, None]


def _from_block(family: Family, block: Vectors) -> Found:
    """Return the trigger of a block."""
    strength, row, column, shift, held_out, passes, strongest, reference_passes, height, width = block[:10, 0].tolist()
    return Found(
        family=family,
        picture=block[10:, 0].astype(np.uint8).reshape(int(height), int(width), 3),
        strength=round(strength, 6),  # as written, without the tail of float32
        position=None if row < 0 else (int(row), int(column)),
        shift=shift,
        held_out=int(held_out),
        passes=int(passes),
        strongest=bool(strongest),
        reference_passes=int(reference_passes),
    )


def make_folder(folder: Path) -> None:
    """Make the folder for found triggers before anything is measured, if it is not there.

    Raises:
        InputError: it cannot be made, or not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        full = any(folder.iterdir())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not a valid name"
        raise InputError(f"cannot make the folder {folder}: {reason}", "choose another one with --found") from error
    if full:  # triggers of another scan would be taken for those of this one
        raise InputError(f"the folder {folder} is not empty", "choose a new one with --found")
    check_writable(folder / POLICY)


def write_found(report: ScanReport, folder: Path) -> int:
    """Write every trigger that a scan found as a PNG, and a policy that measures them; return how many.

    Raises:
        OperationalError: the folder cannot be written.
    """
    triggers: list[dict[str, Any]] = []
    try:
        for measurement in report.measurements:
            trigger = measurement.trigger
            if trigger is None or measurement.probe != "search":
                continue
            found: dict[str, Any] = {"kind": trigger.kind, "name": trigger.label}
            if trigger.picture:
                found["path"] = f"{len(triggers) + 1}-{measurement.id.rsplit('/', 1)[-1]}.png"
                write_atomic(folder / found["path"], base64.b64decode(trigger.picture))
            triggers.append({**found, **trigger.recipe})
        rule = {"id": "found", "probe": "attack", "triggers": triggers, "max": {str(Metric.EXCESS): "30pp"}}
        policy = {"pargate": 1, "name": "found", "rules": [rule]}
        note = f"# Triggers that pargate found in {' '.join(report.model.source.split())}.\n"
        if triggers:
            text = note + yaml.safe_dump(policy, sort_keys=False, allow_unicode=True)
            write_atomic(folder / POLICY, text.encode())
    except OSError as error:
        raise OperationalError(
            f"cannot write the found triggers to {folder}: {error.strerror}", "choose another folder with --found"
        ) from error
    return len(triggers)
