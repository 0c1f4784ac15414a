"""Gate: from an untrusted checkpoint to a proven bundle, or to a clear refusal.

The stages are: scan; if it fails and the policy allows, clean, and scan again to pick a candidate; certify the
candidate on images of its own, with new stamps and every control; export, prove and scan the graphs; write the bundle.
The images that pick never certify, and the verdict is about the bytes that ship.

The result of each stage is kept in `OUT.unfinished` under the digest of its inputs, so that a killed gate resumes.
The folder is removed once there is a verdict.
"""

import itertools
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pargate import events
from pargate.clean.run import sizes_of
from pargate.core import paired
from pargate.core.model import Checkpoint
from pargate.core.report import ScanReport
from pargate.core.results import Consequence, Outcome, Remark
from pargate.core.splits import least, total
from pargate.errors import InputError, OperationalError, UnsafeCheckpoint
from pargate.files import check_new_folder, readable
from pargate.images.labelled import BLOCK
from pargate.images.opening import check_source, kind_of, open_images
from pargate.images.splits import divide
from pargate.judge.release import shortfall
from pargate.models.model import Model
from pargate.models.open import open_model
from pargate.models.sources import parts
from pargate.policy.print import listed
from pargate.policy.resolve import Resolved
from pargate.policy.resolve import read as read_policy
from pargate.policy.schema import PairsSource
from pargate.release import escalation
from pargate.release.finish import report_of, write
from pargate.release.stages import SPLITS, GateRequest, Run
from pargate.report.text import plural
from pargate.scanning.choose import processor_threads
from pargate.scanning.estimate import cleaning_minutes, minutes
from pargate.scanning.images import least_images
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import checked
from pargate.scanning.signature import check as check_signature
from pargate.scanning.unlearned import REMARK, refuse_same_families, told
from pargate.triggers import build


@dataclass(frozen=True, slots=True)
class Gated:
    """The result of a gate."""

    report: ScanReport
    folder: Path | None
    """Folder of the bundle; None if nothing ships."""
    kept: Path | None = None
    """Folder of the best cleaned model, if it breaks nothing and does not ship."""
    kept_holds: bool = False
    """Whether that model holds every rule on the images that certify."""


def gate(request: GateRequest, emit: events.Listener = events.ignore) -> Gated:
    """Scan, clean, certify, export, prove and bundle, as far as the verdicts of the stages allow.

    Raises:
        InputError, PolicyError, OperationalError: see `errors.py`. Finished stages are kept for the next run.
    """
    fresh = not request.state.exists()
    try:
        run, model = _prepared(request, emit)
        if expected := outlook(run):
            emit(events.Notice(expected))
        if model is not None and (lacking := _lacking(run, model.checkpoint)):
            emit(events.Notice(lacking))
        candidate, exported = run.stages(model)
        report = report_of(run.policy, run.done, run.reports, request.out.name)
        ships = report.verdict.status.passes
        if ships and candidate is not None:
            emit(events.StageStarted("write", str(request.out)))
            write(request, run.policy, report, candidate, exported)
    except InputError:
        if fresh:  # the kept stages depend on the wrong input
            shutil.rmtree(request.state, ignore_errors=True)
        raise
    kept = None if ships else _best(request, run)
    if not request.keep:
        shutil.rmtree(request.state, ignore_errors=True)
    certified = [stage.examined for stage in run.done if stage.name == "certify" and stage.examined is not None]
    holds = any(examined.verdict.status is Outcome.PASS for examined in certified)
    return Gated(report, request.out if ships else None, kept, holds)


def outlook(run: Run) -> str:
    """Return whether the images that certify can decide the accuracy budget, in a sentence; empty without a budget."""
    policy = run.policy.policy
    limit = policy.clean.budget.accuracy_drop
    if policy.clean.when != "fail" or limit is None or not run.images:
        return ""
    own = int((run.images[SPLITS[2]].labels >= 0).sum())
    # More are not compared (`accuracy_drop.measure`), in whole blocks; a measured discordance changes the number.
    most = paired.enough(limit.value, policy.confidence, paired.DISCORDANCE)
    most = most if policy.budget.images is None else min(most, policy.budget.images)
    labelled = min(own, -(-most // BLOCK) * BLOCK)
    if not labelled:
        return f"no image that certifies has a label, so a fall of accuracy of {limit.text} cannot be ruled out"
    if not limit.value:
        return f"with {labelled:,} labelled images to compare, a fall of 0 points is ruled out only if accuracy rises"
    chance = paired.power(labelled, limit.value, policy.confidence, paired.DISCORDANCE)
    needed = paired.needed(limit.value, policy.confidence, paired.DISCORDANCE)
    points = _points(limit.value)
    if chance >= paired.CHANCE:
        of = "" if labelled == own else f", and accuracy is compared on about {labelled:,} of them"
        return (
            f"{own:,} labelled images certify{of}: if accuracy is unchanged, that rules out a fall of {points} with a "
            f"chance of {min(chance, 0.99):.0%}"
        )
    doubt = "can hardly be ruled out unless accuracy rises" if chance < 0.5 else "may stay undecided"
    return (
        f"with {labelled:,} labelled images to compare, a fall of {points} {doubt}: if accuracy is unchanged, it is "
        f"ruled out with a chance of {chance:.0%}. About {needed:,} are needed, {total(needed):,} images in all"
    )


def _best(request: GateRequest, run: Run) -> Path | None:
    """Return where the best cleaned model stays, or None if there is none that breaks nothing."""
    last = run.done[-1]
    certified = last.name == "certify" and last.examined is not None
    if run.best is None or (
        certified and shortfall(run.policy.policy, last, run.reports[-1].examined)[0] is Outcome.FAIL
    ):
        return None
    if request.keep:
        return run.best.folder
    names = (f"{request.out.name}.candidate{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
    place = next(place for name in names if not (place := request.out.with_name(name)).exists())
    return run.best.folder.rename(place)


def plan(request: GateRequest) -> tuple[str, ...]:
    """Return the stages of a gate and their expected minutes, line by line, without loading a model.

    Raises:
        InputError, UnsafeCheckpoint, PolicyError, OperationalError: as `gate`, if found before a model is loaded.
    """
    run, model = _prepared(request, events.ignore, keep=False)
    policy = run.policy.policy
    if model is None:
        return (f"model   {request.scan.source}: refused as unsafe; nothing would be loaded",)
    checkpoint = model.checkpoint
    lines = [
        f"model   {checkpoint.source}: {checkpoint.architecture}, {checkpoint.parameters / 1e6:.1f} M parameters",
        f"policy  {run.policy.source}, {len(policy.rules)} rules",
        f"images  {request.scan.image_source}, in disjoint splits: "
        + ", ".join(f"{len(images.items)} {name}" for name, images in run.images.items()),
    ]
    if expected := outlook(run):
        lines.append(f"budget  {expected}")
    lacking, count = _lacking(run, checkpoint), processor_threads()
    kind = "cuda" if lacking else run.kind()
    compared = request.scan.compared_source is not None
    sizes = sizes_of(checkpoint, run.pairs(), kind) if policy.clean.when == "fail" else None
    took = minutes(checkpoint, policy, kind, count, reference=compared)
    lines.append(f"expected on {'one GPU' if kind == 'cuda' else plural(count, 'core')}, from sizes alone:")
    lines.append(f"  scan the model                      {took.scan:6.1f} min")
    if sizes is not None:
        lines.append("  if it fails, at most these attempts:")
        for attempt in range(1, policy.clean.attempts + 1):
            step = escalation.step(policy.clean, attempt, sizes)
            lines.append(f"    {escalation.method(policy.clean, attempt, sizes)}: {step.name}")
            config = escalation.proposed(policy.clean, attempt, sizes)
            cleaning = cleaning_minutes(checkpoint, kind, count, config.steps * config.batch_size)
            lines.append(f"      clean                           {cleaning:6.1f} min")
            lines.append(f"      scan, to pick                   {took.scan:6.1f} min")
        lines.append(f"    certify the picked candidate      {took.certify:6.1f} min")
    if policy.export.onnx is not None:
        lines.append(f"  export and prove                    {took.export:6.1f} min")
        lines.append(f"  scan the graphs                     {took.certify if policy.export.rescan else 0.0:6.1f} min")
    if lacking:
        lines.append(f"note: {lacking}")
    lines.append(f"out     {request.out}")
    return tuple(lines)


def _lacking(run: Run, checkpoint: Checkpoint) -> str:
    """Return that the device that the policy asks for to clean is missing here, and the ways out; else an empty text.

    A model that passes needs no cleaning, so the gate runs all the same.
    """
    if run.policy.policy.clean.when != "fail" or run.policy.policy.clean.require != "cuda":
        return ""
    try:
        run.kind()
    except OperationalError as error:
        if _late(run.policy):
            return f"{error.message}: {error.hint}"
        clean, count = run.policy.policy.clean, processor_threads()
        sizes = sizes_of(checkpoint, run.pairs(), "cpu")
        steps = [escalation.proposed(clean, attempt, sizes) for attempt in range(1, clean.attempts + 1)]
        took = cleaning_minutes(checkpoint, "cpu", count, sum(step.steps * step.batch_size for step in steps))
        return f"{error.message}: {error.hint} (expected: {span(took)})"
    return ""


def span(minutes: float) -> str:
    """Return a time in the unit that suits it."""
    unit, name = (1440, "day") if minutes >= 1440 else (60, "hour") if minutes >= 60 else (1, "minute")
    return plural(max(1, math.ceil(minutes / unit)), name)


# --- before anything runs ----------------------------------------------------------------------------


def frozen(request: GateRequest) -> Resolved:
    """Return the policy of the bundle: resolved, with the options of the command line and the digests of files.

    Raises:
        InputError: a pack or the image of a trigger cannot be read, or `--pairs` is not valid text.
    """
    given = request.scan.policy
    policy, remarks = given.policy, []
    policy.check_packs(given.folder)
    clean_section = policy.clean
    if request.pairs is not None:
        if request.pairs != readable(request.pairs):
            raise InputError(
                f"--pairs {request.pairs}: the name is not UTF-8", "rename it: the bundle's policy names it"
            )
        seed = clean_section.pairs.seed if clean_section.pairs is not None else 0
        own = clean_section.pairs.source if clean_section.pairs is not None else "not set"
        clean_section = clean_section.model_copy(update={"pairs": PairsSource(source=request.pairs, seed=seed)})
        remarks.append(f"clean.pairs is {request.pairs} on the command line, and {own} in the policy")
    if request.require is not None:
        own = clean_section.require or "not set"
        clean_section = clean_section.model_copy(update={"require": request.require})
        remarks.append(f"clean.require is {request.require} on the command line, and {own} in the policy")
    rules = [
        rule.model_copy(update={"triggers": tuple(_pinned(spec, given.folder) for spec in rule.triggers)})
        for rule in policy.rules
    ]
    policy = policy.model_copy(update={"clean": clean_section, "rules": tuple(rules)})
    once = read_policy(listed(replace(given, policy=policy)), given.source, given.folder)
    said = tuple(Remark(id="policy-override", level=Consequence.NOTE, message=f"{text}.") for text in remarks)
    return replace(given, policy=once.policy, sha256=once.sha256, overrides=(*given.overrides, *said))


def _pinned(spec: Any, folder: Path) -> Any:
    """Return a trigger's description with the digests of its files, which replace the files in the bundle."""
    pin = build(spec, folder)[0].pin
    return {**spec, **pin} if pin else spec


def _prepared(request: GateRequest, emit: events.Listener, *, keep: bool = True) -> "tuple[Run, Model | None]":
    """Refuse every wrong input that shows before a model is loaded; the model is None if it is unsafe."""
    asked = request.scan
    check_new_folder(request.out)
    if not request.state.exists():
        check_new_folder(request.state)
    _refuse_inside(request)
    policy = frozen(request)
    asked = replace(asked, judging=replace(asked.judging, policy=policy))
    if policy.policy.clean.when == "fail" and policy.policy.clean.pairs is None:
        raise InputError(
            f"the policy {policy.policy.name} asks for cleaning, but names no image-text pairs",
            "give image-text pairs with --pairs SOURCE; synthetic: draws them",
        )
    emit(events.StageStarted("inspect", asked.source))
    try:
        model = open_model(asked.source, arch=asked.arch, keep=keep)
    except UnsafeCheckpoint:
        model = None  # the scan reports it
    if model is not None and model.checkpoint.format == "onnx":
        raise InputError(
            f"{asked.source} holds graphs, and a gate ships weights",
            "give the checkpoint that they were made from, or judge the graphs alone with pargate scan",
        )
    if model is not None:
        asked = replace(asked, signature=check_signature(policy, model.checkpoint))
    if model is not None and (said := told(model.checkpoint)):
        refuse_same_families(policy.policy.read(policy.folder), model.checkpoint, asked.settings.seed)
        # The record of the model does not ship, so every report of the bundle says it.
        remark = Remark(id=REMARK, level=Consequence.NOTE, message=f"{said}.")
        policy = replace(policy, overrides=(*policy.overrides, remark))
        asked = replace(asked, judging=replace(asked.judging, policy=policy))
    emit(events.StageStarted("divide", asked.image_source))
    names = SPLITS if policy.policy.clean.when == "fail" else (SPLITS[0], SPLITS[2])
    splits = divide(open_images(asked.image_source, seed=asked.settings.seed, cache=asked.settings.cache), names)
    run = Run(replace(request, scan=asked), policy, splits, emit)
    if model is not None:
        _check_space(request, policy, model.checkpoint)
        check_source(_pairs_source(policy))
        if policy.policy.clean.when == "fail" and not _late(policy):
            run.pairs()
        _refuse_few(run, asked)
        for split in splits:
            run.images[split.name] = checked(run.scan_request(split.name, asked.source), model.checkpoint)[0]
    return run, model


def _pairs_source(policy: Resolved) -> str:
    return policy.policy.clean.pairs.source if policy.policy.clean.pairs is not None else ""


def _late(policy: Resolved) -> bool:
    """Return whether the pairs that clean are fetched or generated, and so opened only when they are needed."""
    kind = kind_of(_pairs_source(policy))
    return kind is not None and (kind.fetched or kind.generated)


def _refuse_inside(request: GateRequest) -> None:
    out = request.out.resolve()
    if any(Path(part).is_dir() and out.is_relative_to(Path(part).resolve()) for part in parts(request.scan.source)):
        raise InputError(
            f"--out {request.out} lies in the model", "name a folder elsewhere: the input is never changed"
        )


def _refuse_few(run: Run, asked: ScanRequest) -> None:
    """Raise if a split is too small for the policy, and say how many images are needed in all."""
    counts = [len(split.keys) for split in run.splits if split.keys is not None]
    wanted = least_images(asked)
    if not counts or min(counts) >= wanted:
        return
    whole = least(wanted, len(counts))
    more = f"give about {whole:,} images in all"
    limit = asked.policy.policy.clean.budget.accuracy_drop
    if len(counts) == len(SPLITS) and limit is not None and limit.value:
        labelled = total(paired.needed(limit.value, asked.policy.policy.confidence, paired.DISCORDANCE))
        if labelled > whole:
            more += f", and {labelled:,} labelled ones to rule out a fall of accuracy of {_points(limit.value)}"
    raise InputError(
        f"{asked.image_source} holds {plural(sum(counts), 'image')}, {min(counts)} in the smallest of {len(counts)} "
        f"splits, and the policy {asked.policy.policy.name} needs at least {wanted} in each",
        f"{more}; or another policy with --policy",
    )


def _points(fall: float) -> str:
    return f"{100 * fall:g} point{'' if fall == 0.01 else 's'}"


def _check_space(request: GateRequest, policy: Resolved, checkpoint: Checkpoint) -> None:
    """Raise if the free disk space is too small for the whole gate."""
    single = 4 * checkpoint.parameters
    need = 2 * checkpoint.size_bytes
    if policy.policy.export.onnx is not None:
        need += 2 * single
    if policy.policy.clean.when == "fail":
        need += policy.policy.clean.attempts * checkpoint.size_bytes + 4 * single  # the optimiser's state
    free = shutil.disk_usage(request.out.absolute().parent).free
    if free < need:
        raise OperationalError(
            f"no space for {request.out}: about {need / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free",
            "free space or choose another place",
        )
