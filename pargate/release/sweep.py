"""Sweep: a cleaning and a scan for each value of a setting, and the curve of accuracy against attack success.

The sweep chooses no model. A model that the user chooses from the curve needs another scan on other images.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pargate import events
from pargate.clean.request import CleanRequest, left_over
from pargate.clean.run import Inputs, check_made, clean, look, plan
from pargate.core.report import ScanReport
from pargate.errors import InputError
from pargate.files import check_new_folder, write_atomic
from pargate.judge.bounds import interval
from pargate.judge.judging import Judging
from pargate.models.open import inspect
from pargate.policy.resolve import Resolved
from pargate.report.curves import TradePoint, trade_off
from pargate.scanning.request import ScanRequest, ScanSettings
from pargate.scanning.run import scan, signed

RESULT_NAME = "sweep.json"
CHART_NAME = "sweep.svg"


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """The inputs of a sweep: a cleaning, and the values of one of its settings."""

    clean: CleanRequest
    """The cleaning; its `out` gets one folder for each value."""
    name: str
    values: tuple[Any, ...]
    policy: Resolved
    images: str | None = None


@dataclass(frozen=True, slots=True)
class Swept:
    """The result of a sweep: a point for the original model, then one for each value."""

    points: tuple[TradePoint, ...]
    chart: Path


def sweep(request: SweepRequest, emit: events.Listener = events.ignore) -> Swept:
    """Clean and scan for each value; models that an earlier sweep cleaned in the same way are reused.

    Raises:
        InputError, UnsafeCheckpoint, PolicyError, OperationalError: see `errors.py`.
    """
    out = request.clean.out
    _planned(request, look(request.clean, emit))  # refuse a wrong value before the first one is run
    out.mkdir(exist_ok=True)
    scan_request = _scan_request(request)
    if request.policy.policy.signed_by is not None:
        scan_request = signed(scan_request, inspect(request.clean.source, arch=request.clean.arch))
    points = [_point("as it was", scan(scan_request, emit))]
    for value in request.values:
        run = _run(request, value)
        if not run.out.exists():
            clean(run, emit)
        report = scan(replace(scan_request, model=str(run.out), arch=None), emit)
        points.append(_point(f"{request.name} {_shown(value)}", report))
    write_atomic(out / RESULT_NAME, json.dumps([asdict(point) for point in points], indent=1).encode() + b"\n")
    title = f"{request.clean.method} on {Path(request.clean.source).name}, by {request.name}"
    write_atomic(out / CHART_NAME, trade_off(points, title).encode())
    return Swept(tuple(points), out / CHART_NAME)


def planned(request: SweepRequest) -> tuple[str, ...]:
    """Return the runs of a sweep, line by line; refuse what its runs would refuse.

    Raises:
        InputError, UnsafeCheckpoint, OperationalError: as `sweep`.
    """
    return _planned(request, look(request.clean))


def _planned(request: SweepRequest, known: Inputs) -> tuple[str, ...]:
    out = request.clean.out
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file", "name a folder for the sweep")
    if not out.exists():
        check_new_folder(out)
    lines: list[str] = []
    for value in request.values:
        run = _run(request, value)
        if run.out.exists():
            check_made(run, known)
            lines.append(f"out     {run.out}: exists already")
        else:
            lines += plan(run, out, known)
    return tuple(lines)


def _run(request: SweepRequest, value: Any) -> CleanRequest:
    """Return the cleaning for one value; it resumes an interrupted sweep."""
    folder = request.clean.out / f"{request.name}={_shown(value)}"
    overrides = {**request.clean.overrides, request.name: value}
    return replace(request.clean, out=folder, overrides=overrides, resume=left_over(folder).exists())


def _shown(value: int | float) -> str:
    """Return the shortest text that no other value has."""
    if isinstance(value, int):
        return str(value)
    return short if float(short := f"{value:g}") == value else repr(value)


def _scan_request(request: SweepRequest) -> ScanRequest:
    """Return the scan of the model as it was."""
    return ScanRequest(
        request.clean.source,
        Judging(request.policy),
        arch=request.clean.arch,
        images=request.images,
        classes=request.clean.classes,
        settings=ScanSettings(device=request.clean.device, cache=request.clean.cache),
        started=request.clean.started,
        pictures=False,
    )


def _point(label: str, report: ScanReport) -> TradePoint:
    """Return the accuracy, and the largest attack success of any trigger.

    Raises:
        InputError: accuracy or attack success was not measured.
    """
    attacks = [m.counts["attack_success"] for m in report.measurements if "attack_success" in m.counts]
    worst = max((count for count in attacks if count.n), key=lambda count: count.rate or 0.0, default=None)
    seen = next((m.counts.get("accuracy") for m in report.measurements if m.id == "clean"), None)
    if worst is None or worst.rate is None or seen is None or seen.rate is None:
        raise InputError(
            "the sweep's policy measures no attack success, or its images have no labels for accuracy",
            "give a policy with attack rules, and labelled images with --images",
        )
    low, high = interval(worst, 0.025, 0.025)
    return TradePoint(label, seen.rate, worst.rate, low, high)
