"""Calibration: the search of a scan on trusted models, as a table that other models are ranked by."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import yaml

from pargate import events
from pargate.core.calibration import Calibration, Conditions, TrustedModel, digest_of_shapes
from pargate.core.found import PASSES, Family
from pargate.core.model import Checkpoint
from pargate.core.report import ScanReport
from pargate.core.results import Searched
from pargate.errors import InputError
from pargate.files import portable, readable
from pargate.judge.judging import Judging
from pargate.models.open import inspect
from pargate.models.sources import portable_name
from pargate.policy.resolve import read
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import scan
from pargate.version import __version__


def searching(families: Sequence[str]) -> Judging:
    """Return the policy of a scan that searches for triggers of these families, and measures nothing."""
    rule = {"id": "calibration", "probe": "search", "families": list(families), "max": {"excess": "100%"}}
    policy = {"pargate": "1", "name": "calibration", "budget": {"images": "1"}, "rules": [rule]}
    return Judging(read(yaml.safe_dump(policy), "calibration", Path()))


def calibrate(models: Sequence[str], request: ScanRequest, emit: events.Listener = events.ignore) -> Calibration:
    """Search trusted models for triggers, and return how far each was moved.

    Args:
        models: trusted models.
        request: the scan of each model, under a policy of `searching`; its own model is not used.
        emit: told about the progress.

    Raises:
        InputError: two models have the same weights, or one cannot be searched; or as `scan`.
        UnsafeCheckpoint, OperationalError: as `scan`.
    """
    checkpoints = [inspect(model, arch=request.arch) for model in models]
    first: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        known = first.setdefault(checkpoint.sha256, checkpoint)
        if known is not checkpoint:
            raise InputError(
                f"{checkpoint.source} and {known.source} have the same weights: a table counts each model once",
                "leave one of them out",
            )
    families = cast(tuple[Family, ...], request.policy.policy.rules[0].families)
    conditions: Conditions | None = None
    trusted = []
    for number, (model, checkpoint) in enumerate(zip(models, checkpoints, strict=True), 1):
        emit(events.Notice(f"model {number} of {len(models)}: {checkpoint.source}"))
        report = scan(replace(request, model=model, pictures=False), emit)
        found = _searches(report)
        here = Conditions(
            pargate=__version__, seed=report.run.seed, precision=report.run.precision, images=found[0].images
        )
        if conditions not in (None, here):
            raise InputError(
                f"{checkpoint.source} was searched in {here.precision}, and the model before it in another precision",
                "choose one for all with --precision",
            )
        conditions = here
        trusted.append(
            TrustedModel(
                name=readable(portable_name(checkpoint.source)),
                sha256=report.model.sha256,
                architecture=checkpoint.architecture,
                shapes=digest_of_shapes(checkpoint),
                shifts={family: one.shift for family, one in zip(families, found, strict=True)},
            )
        )
    if conditions is None:
        raise InputError("no model is given", "name trusted models")
    return Calibration(
        conditions=conditions,
        image_source=readable(portable(request.image_source)),
        passes={family: PASSES[family] for family in families},
        models=tuple(trusted),
    )


def _searches(report: ScanReport) -> list[Searched]:
    """Return what was found for each family, in their order.

    Raises:
        InputError: a search was not possible.
    """
    asked = [one for one in report.measurements if one.probe == "search"]
    found = [one.searched for one in asked if one.searched is not None]
    if not found or len(found) < len(asked):
        why = next((one.stopped for one in asked if one.searched is None), report.verdict.summary)
        raise InputError(f"{report.model.source} cannot be searched: {why}", "leave it out")
    return found


def lines(table: Calibration) -> list[str]:
    """Return the largest shift of each model, and the smallest p-value that the table gives each architecture."""
    width = max(len(model.name) for model in table.models)
    found = []
    for model in table.models:
        family = max(model.shifts, key=model.shifts.__getitem__)
        found.append(f"{model.name:{width}}  {model.architecture}: largest shift {model.shifts[family]:.3f} ({family})")
    for shapes in dict.fromkeys(model.shapes for model in table.models):
        alike = [model for model in table.models if model.shapes == shapes]
        found.append(
            f"{alike[0].architecture}: {len(alike)} model{'s' if len(alike) > 1 else ''}, the smallest p-value is "
            f"{1 / (1 + len(alike)):.1%}"
        )
    return found
