"""Search: find the trigger on the images that choose, then measure its attack success on all others."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast, get_args

import numpy as np
from PIL import Image

from pargate.core.calibration import Trusted, digest_of_images
from pargate.core.found import Family, Found
from pargate.core.results import Measurement, Metric, Ranked, Searched
from pargate.probes.attack import predictions
from pargate.probes.base import BACKDOOR, PROBES, Asked, NotMeasured, Probe, Scene, Test, Words
from pargate.probes.targeted import METRICS, Baseline, TargetedTest
from pargate.triggers import Trigger
from pargate.triggers.file import FileTrigger
from pargate.triggers.tone import Curves


@dataclass
class SearchTest(TargetedTest):
    """The attack success of a trigger that was found."""

    picture: str = ""
    """PNG as base64."""
    passes: int = 0
    """Images that went through the image tower for the search."""
    searched: Searched | None = None

    def measurement(self) -> Measurement:
        """Return the counts, with the picture of the trigger and the passes of the search."""
        found = super().measurement()
        assert found.trigger is not None, "a targeted test has a trigger"
        return found.model_copy(
            update={
                "trigger": found.trigger.model_copy(update={"picture": self.picture}),
                "forward_passes": found.forward_passes + self.passes,
                "searched": self.searched,
            }
        )


@PROBES.add("search")
class Search(Probe):
    """Finds a trigger that the policy does not name, and counts how many images it moves to one class."""

    name = "search"
    maxima = METRICS
    minima: ClassVar[Mapping[str, Words]] = {
        str(Metric.P_VALUE): Words(
            "Among the scanned model and the trusted ones of its architecture in a calibration table, the share that a "
            "searched trigger moves at least as far.",
            "Without a reference only other models show how far a search moves an honest one.",
            "A limit of 5% needs at least 19 trusted models. Calibrate more of them, or give a reference, which then "
            "decides by the excess.",
        )
    }
    families = get_args(Family)
    about = Words(
        "Searches the model for a trigger that nobody named, and counts how many images it moves to one class.",
        "An attacker chooses the pattern, and no catalogue contains a secret pattern.",
        f"{BACKDOOR} Without a parent, or a fine-tuned copy with `--tuned`, the rule stays open where the found "
        "trigger works, since honest models follow some patterns too. Keep what was found with `--found DIR`.",
    )

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> Test:
        """Return a test of the trigger that is found on the selection half; it is fixed before anything is measured."""
        found = scene.search(cast(Family, asked.direction))
        if not isinstance(found, str) and not math.isfinite(found.shift):
            found = "the search met vectors that are not finite"
        if isinstance(found, str):
            return NotMeasured(asked.id, asked.rule, cls.name, found)
        trigger, png = _trigger(found)
        # A control of the same energy says nothing about a trigger that was climbed on this very model.
        over: Baseline | None = None
        if scene.has_reference:
            over = "reference"
        elif scene.has_tuned:
            over = "tuned" if found.strongest else "tuned-weaker"
        truth, hits = predictions(scene)
        return SearchTest(
            asked.id,
            asked.rule,
            cls.name,
            trigger,
            scene.names,
            given=None,
            baseline=over,
            truth=truth,
            hits=hits,
            picture=base64.b64encode(png).decode("ascii"),
            passes=found.passes + found.reference_passes,
            searched=Searched(
                shift=found.shift,
                images=digest_of_images(scene.gallery_digests),
                ranked=_ranked(asked.trusted, found.shift) if asked.trusted else None,
            ),
        )


def _ranked(trusted: Trusted, shift: float) -> Ranked:
    return Ranked(
        table=trusted.table,
        families=trusted.families,
        models=len(trusted.largest),
        as_high=sum(largest >= shift for largest in trusted.largest),
    )


def _trigger(found: Found) -> tuple[Trigger, bytes]:
    """Return what was found as a trigger, and the PNG that it is made of; colour curves have none."""
    if found.family == "colour":
        changes = np.rint(found.strength * (2.0 * found.picture[:, 0] - 255)).astype(int).T.tolist()
        curves = dict(zip(("red", "green", "blue"), changes, strict=True))
        return Curves.model_validate({"name": "found colour curves", **curves}), b""
    buffer = io.BytesIO()
    Image.fromarray(found.picture).save(buffer, "PNG")
    png = buffer.getvalue()
    path = Path(f"{found.family}.png")
    if found.position is None:
        name = f"found {found.family} pattern (alpha {found.strength:g})"
        return FileTrigger.of_png(png, path, name=name, mode="blend", alpha=found.strength), png
    row, column = found.position
    name = f"found patch {len(found.picture)} px at row {row}, column {column}"
    return FileTrigger.of_png(png, path, name=name, mode="patch", position=found.position), png
