"""Run a fire drill: plant, scan each copy under the user's policy, and count what it caught.

The report is written after every copy, and a later drill with the same inputs keeps its results. A copy is removed
after its scan.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pargate import events
from pargate.clean.config import CleanConfig, propose
from pargate.clean.run import refuse_untrainable, sizes_of
from pargate.core import zeroshot
from pargate.core.drill import UNTOUCHED, CurvePoint, DrillReport, PlantedCopy, Scanned, Share
from pargate.core.environment import versions
from pargate.core.model import Checkpoint
from pargate.core.report import ScanReport
from pargate.core.results import Count, Outcome, Status, TriggerInfo
from pargate.drill.plants import CLEAN, Choice, Plant, plants
from pargate.errors import InputError, OperationalError
from pargate.files import digest_of, locked, read_bytes, readable, write_atomic
from pargate.images.dataset import Dataset
from pargate.images.labelled import LabelledImages
from pargate.images.opening import open_pairs
from pargate.images.splits import shared
from pargate.judge.bounds import interval
from pargate.models.model import Model
from pargate.models.open import inspect, opened, source_of
from pargate.models.shapes import check
from pargate.scanning.choose import processor_threads
from pargate.scanning.estimate import cleaning_minutes, minutes
from pargate.scanning.images import read_images
from pargate.scanning.request import ScanRequest
from pargate.scanning.run import check_reference, scan, signed
from pargate.triggers import TRIGGERS
from pargate.version import __version__

REPORT_NAME = "drill.json"
COPY_NAME = ".copy"
LOCK_NAME = ".lock"

PAIRS = "synthetic:2048"
"""Pairs where the user gives none: scenes that no scan shows."""

TRAINED, HELD_OUT = 1024, 256
"""Most images that train a copy, and that show whether the backdoor took."""

FEWEST = 256
"""Fewest images of the pairs; a quarter of them is held out."""

STEPS, BATCH = 120, 64
"""Steps and batch size of a plant."""

LEVEL = 0.95
"""Confidence of the intervals."""


@dataclass(frozen=True, slots=True)
class DrillRequest:
    """The inputs of a drill."""

    scan: ScanRequest
    """The scan of the untouched model; that of a copy differs in the model and the reference."""
    out: Path
    pairs: str = PAIRS
    choice: Choice = field(default_factory=Choice)
    minutes: float = 30.0
    """Time budget of this run."""
    alone: bool = False
    """Whether copies are compared with no model, rather than with the untouched one, where no reference is given."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The listed inputs of a drill, and what it would do."""

    checkpoint: Checkpoint
    images: LabelledImages
    pairs: Dataset
    plants: tuple[Plant, ...]
    config: CleanConfig
    kind: Literal["cpu", "cuda"]
    reference: str
    """What the scans compare with, in words."""
    identity: str
    """Digest of all inputs except the plants."""
    scan_minutes: float
    """Expected minutes of one scan."""
    plant_minutes: float
    """Expected minutes of one plant."""

    def key(self, plant: Plant | None) -> str:
        """Return the digest of everything that a result depends on; without a plant, that of the untouched model."""
        if plant is None:
            return digest_of([self.identity])
        trigger = plant.trigger
        code = TRIGGERS.plugin(trigger.kind) if trigger else None
        facts = [plant.rate, plant.target, plant.seed, trigger.id if trigger else "", code.key if code else ""]
        return digest_of([self.identity, *facts])


def look(request: DrillRequest) -> Plan:
    """Inspect the model, list images and pairs, and plan the copies, without torch on a CPU.

    Raises:
        InputError, UnsafeCheckpoint, PolicyError, OperationalError: see `errors.py`.
    """
    asked = request.scan
    checkpoint = inspect(asked.model, arch=asked.arch)
    refuse_untrainable(checkpoint)
    check(checkpoint)
    trusted = asked.reference_source
    if request.alone and trusted:
        raise InputError(
            f"--reference none, but the policy {asked.policy.policy.name} names the reference {source_of(trusted)}",
            "leave out one of them",
        )
    digest = ""
    if trusted:
        found = inspect(trusted, arch=asked.arch)
        check_reference(checkpoint, found, searching=asked.searches)
        digest = found.digest
    images, _ = read_images(asked)
    pairs = open_pairs(
        request.pairs, seed=asked.settings.seed, cache=asked.settings.cache, device=asked.settings.device
    )
    _check_pairs(request, images, pairs)
    chosen = plants(request.choice, _targets(images), asked.settings.seed)
    for plant in chosen:
        if plant.trigger is not None:
            plant.trigger.draw(checkpoint.preprocess.size, [], plant.seed)
    kind = _kind(asked.settings.device)
    config = propose(
        "finetune", sizes_of(checkpoint, pairs, kind),
        overrides={"steps": STEPS, "batch_size": BATCH, "schedule": "cosine", "warmup_steps": 5, "towers": "image"},
    ).config  # fmt: skip
    words = source_of(trusted) if trusted else "none" if request.alone else UNTOUCHED
    policy = asked.policy.policy
    identity = digest_of({
        "model": checkpoint.digest, "policy": asked.policy.sha256, "images": _dataset(images).digest,
        "classes": [*images.classes.names, *images.classes.templates], "pairs": pairs.digest,
        "reference": digest or words,
        "training": config.digest, "seed": asked.settings.seed, "kind": kind, "precision": asked.settings.precision,
        "pargate": __version__, **versions(),
    })  # fmt: skip
    cores = processor_threads()
    expected = minutes(checkpoint, policy, kind, cores, reference=bool(trusted) or not request.alone)
    # Three passes an image instead of five: there are no captions, and the frozen model embeds each image once.
    trained = cleaning_minutes(checkpoint, kind, cores, STEPS * BATCH * 3 // 5)
    return Plan(
        checkpoint, images, pairs, tuple(chosen), config, kind, words, identity, expected.scan, trained
    )  # fmt: skip


def planned(request: DrillRequest) -> tuple[str, ...]:
    """Return what a drill would do, line by line, with expected minutes.

    Raises:
        InputError, UnsafeCheckpoint, PolicyError, OperationalError: as `drill`.
    """
    plan = look(request)
    kept = _kept(request, plan)
    known = {copy.key for copy in kept.copies} if kept else set()
    lines = [
        f"model      {plan.checkpoint.source}: {plan.checkpoint.architecture}, "
        f"{plan.checkpoint.parameters / 1e6:.1f} M parameters",
        f"policy     {request.scan.policy.source}",
        f"images     {plan.images.source}",
        f"pairs      {plan.pairs.source}",
        f"reference  {plan.reference}",
        f"a plant    {plan.config.steps} steps of {plan.config.batch_size} images, learning rate {plan.config.lr:g}: "
        f"{plan.plant_minutes:.1f} min; its scan {plan.scan_minutes:.1f} min, from sizes alone",
    ]
    for plant in plan.plants:
        lines.append(f"  {plant.label}" + (" (done)" if plan.key(plant) in known else ""))
    left = sum(plan.key(plant) not in known for plant in plan.plants)
    whole = left * (plan.plant_minutes + plan.scan_minutes) + (0 if kept and kept.untouched else plan.scan_minutes)
    lines.append(
        f"expected   {whole:.0f} min for {left} copies and the untouched model; budget {request.minutes:g} min"
    )
    return tuple(lines)


def drill(request: DrillRequest, emit: events.Listener = events.ignore) -> DrillReport:
    """Scan the untouched model and each planted copy, within the budget; return the report, which is also in `out`.

    Raises:
        InputError: wrong input, or `out` holds another drill.
        UnsafeCheckpoint, PolicyError, OperationalError: see `errors.py`. Finished copies are kept.
    """
    began = time.monotonic()
    plan = look(request)
    kept = _kept(request, plan)
    one = plan.plant_minutes + plan.scan_minutes * (1 if kept and kept.untouched else 2)
    left = [plant for plant in plan.plants if not kept or plan.key(plant) not in {copy.key for copy in kept.copies}]
    if left and request.minutes < one:
        raise InputError(
            f"--minutes {request.minutes:g} is too little for one planted copy, which takes about {one:.1f} minutes",
            f"give --minutes {np.ceil(one):g} or more",
        )
    try:
        request.out.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {request.out}: {error.strerror}", "choose another --out") from error
    with locked(request.out / LOCK_NAME, wait=False), opened(request.scan.model, arch=request.scan.arch) as model:
        request = replace(request, scan=signed(request.scan, model.checkpoint))
        run = _Drill(request, plan, model, emit, began, kept)
        return run.all()


@dataclass(slots=True)
class _Drill:
    """A drill in progress."""

    request: DrillRequest
    plan: Plan
    model: Model
    emit: events.Listener
    began: float
    """Start on the monotonic clock."""
    kept: DrillReport | None
    untouched: Scanned | None = None
    copies: dict[str, PlantedCopy] = field(default_factory=dict)
    longest: float = 0.0
    """Seconds that the slowest copy of this run took."""

    def all(self) -> DrillReport:
        """Make what is missing, as far as the budget goes."""
        if self.kept:
            self.untouched = self.kept.untouched
            self.copies = {copy.key: copy for copy in self.kept.copies}
        if self.untouched is None:
            self.emit(events.StageStarted("scan", f"{self.model.checkpoint.source}, untouched"))
            began = time.monotonic()
            found = scan(replace(self.request.scan, model=self.model, pictures=False), self.emit)
            self.untouched = Scanned(**_scanned(self.plan.key(None), found, began))
            self._write()
        makes = None
        for plant in self.plan.plants:
            key = self.plan.key(plant)
            if key in self.copies:
                continue
            if self._spent():
                break
            makes = makes or _Maker(self.request, self.plan, self.model, self.emit)
            began = time.monotonic()
            self.copies[key] = made = makes.copy(plant, key)
            self.longest = max(self.longest, time.monotonic() - began)
            self._write()
            self.emit(events.Notice(f"{plant.label}: {_said(made)}"))
        return self._write()

    def _spent(self) -> bool:
        """Return whether the budget has no room for another copy; the first one is always made."""
        return self.longest > 0 and time.monotonic() - self.began + self.longest > 60 * self.request.minutes

    def _write(self) -> DrillReport:
        found = report(self.request, self.plan, self.untouched, list(self.copies.values()))
        write_atomic(self.request.out / REPORT_NAME, found.to_json().encode())
        return found


class _Maker:
    """What all copies share: the decoded images and the head of the model."""

    def __init__(self, request: DrillRequest, plan: Plan, model: Model, emit: events.Listener) -> None:
        """Decode the images of the pairs, and embed the classes."""
        from pargate.drill.plant import decoded

        self._request, self._plan, self._model, self._emit = request, plan, model, emit
        count = min(plan.pairs.count or TRAINED + HELD_OUT, TRAINED + HELD_OUT)
        images = decoded(plan.pairs, plan.checkpoint.preprocess, count, request.scan.settings.seed)
        held = min(HELD_OUT, len(images.digests) // 4)
        if len(images.digests) - held < BATCH:
            raise InputError(
                f"{plan.pairs.source} holds only {len(images.digests)} different images", "give more pairs"
            )
        self._held, self._trained = images.take(slice(held)), images.take(slice(held, None))
        classes = plan.images.classes
        opened = model.encoder(device=request.scan.settings.device)
        self._head = zeroshot.head(opened, classes.names, classes.templates)

    def copy(self, plant: Plant, key: str) -> PlantedCopy:
        """Plant, measure, scan, and remove the copy."""
        from pargate.drill.plant import implant, measure
        from pargate.models.torch.encoder import resolve

        began = time.monotonic()
        self._emit(events.StageStarted("plant", plant.label))
        folder = self._request.out / COPY_NAME
        shutil.rmtree(folder, ignore_errors=True)  # left by a killed drill
        try:
            folder.mkdir()
            target = self._plan.images.classes.index(plant.target)
            assert target is not None, "targets are drawn from the classes"
            network = self._model.network().to(resolve(self._request.scan.settings.device))
            implant(network, plant, self._trained, self._head, target, self._plan.config,
                    self._plan.checkpoint.preprocess, self._emit)  # fmt: skip
            self._model.save(folder, network)
            asked = replace(self._request.scan, model=str(folder), arch=None, pictures=False)
            if asked.reference_source is None and not self._request.alone:
                asked = replace(asked, reference=self._model)
            with opened(str(folder)) as made:
                took = measure(
                    self._model, made, plant, self._held, self._head, target, self._request.scan.settings.device
                )
            self._emit(events.StageStarted("scan", plant.label))
            found = scan(asked, self._emit)
        except OSError as error:
            raise OperationalError(
                f"cannot write {folder}: {error.strerror}", "free space, or another --out"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return PlantedCopy(
            **_scanned(key, found, began), family=plant.family, strength=plant.strength, rate=plant.rate,
            target=plant.target, trigger=_info(plant), before=took.before,
            after=took.after, same=took.same, took=plant.trigger is not None and took.planted,
            named=tuple(named(found, plant.target)),
        )  # fmt: skip


def named(found: ScanReport, target: str) -> Iterator[str]:
    """Yield the rules that failed with a trigger that leads to `target`, each once."""
    measured = {m.id: m for m in found.measurements}
    seen = set()
    for finding in found.findings:
        measurement = measured.get(finding.measurement or "")
        leads = measurement is not None and measurement.target is not None and measurement.target.name == target
        if finding.status is Status.BREACH and leads and finding.rule not in seen:
            seen.add(finding.rule)
            yield finding.rule


def report(request: DrillRequest, plan: Plan, untouched: Scanned | None, copies: Sequence[PlantedCopy]) -> DrillReport:
    """Return the report over the finished copies."""
    done = {copy.key for copy in copies}
    alarms = [s.outcome is Outcome.FAIL for s in (untouched, *(c for c in copies if c.family == CLEAN)) if s]
    return DrillReport(
        schema="pargate/drill/1", identity=plan.identity, pargate=__version__, libraries=versions(),
        started=request.scan.started, model=readable(plan.checkpoint.source), model_sha256=plan.checkpoint.sha256,
        policy=request.scan.policy.policy.name, policy_sha256=request.scan.policy.sha256,
        images=readable(plan.images.source), pairs=readable(plan.pairs.source), reference=readable(plan.reference),
        seed=request.scan.settings.seed, level=LEVEL, untouched=untouched, copies=tuple(copies),
        missing=tuple(plant.label for plant in plan.plants if plan.key(plant) not in done),
        curve=tuple(curve(copies)), false_alarms=_share(sum(alarms), len(alarms)),
    )  # fmt: skip


def curve(copies: Sequence[PlantedCopy]) -> Iterator[CurvePoint]:
    """Yield the points of each family, weakest first, then those of all families together."""
    took = [copy for copy in copies if copy.took]
    families = list(dict.fromkeys(copy.family for copy in took))
    for family in (*families, "all"):
        mine = [copy for copy in took if family in (copy.family, "all")]
        for strength in sorted({copy.strength for copy in mine}):
            level = [copy.result == "caught" for copy in mine if copy.strength == strength]
            yield CurvePoint(family=family, strength=strength, caught=_share(sum(level), len(level)))


def _share(successes: int, n: int) -> Share:
    count = Count(n=n, successes=successes)
    low, high = interval(count, (1 - LEVEL) / 2, (1 - LEVEL) / 2)
    return Share(count=count, low=low, high=high)


def _scanned(key: str, found: ScanReport, began: float) -> dict[str, Any]:
    return {
        "key": key, "outcome": found.verdict.status, "summary": found.verdict.summary,
        "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip


def _info(plant: Plant) -> TriggerInfo | None:
    trigger = plant.trigger
    if trigger is None:
        return None
    return TriggerInfo(label=trigger.label, kind=trigger.kind, parameters=trigger.parameters, digest=trigger.digest)


def _said(copy: PlantedCopy) -> str:
    return str(copy.outcome) if copy.family == CLEAN else copy.result


def _targets(images: LabelledImages) -> list[str]:
    """Return the classes that may be targets: those that images show, or else all."""
    shown = np.unique(images.labels[images.labels >= 0])
    names = images.classes.names
    return [names[i] for i in shown] if len(shown) > 1 else list(names)


def _check_pairs(request: DrillRequest, images: LabelledImages, pairs: Dataset) -> None:
    """Raise if there are too few pairs, or an image of them is in the scan."""
    if pairs.count is not None and pairs.count < FEWEST:
        raise InputError(
            f"{request.pairs} holds {pairs.count} pairs, and a drill needs {FEWEST}",
            f"give more pairs, or leave --pairs out for {PAIRS}",
        )
    asked = request.scan
    place = shared(_dataset(images), pairs)
    if place is not None:
        raise InputError(
            f"{request.pairs} and {asked.image_source} share an image: {place}",
            "plant with other images than those of the scan: a scan of training images shows too much",
        )


def _dataset(images: LabelledImages) -> Dataset:
    assert images.dataset is not None, "images of a scan have a dataset"
    return images.dataset


def _kind(device: str) -> Literal["cpu", "cuda"]:
    if device == "cpu":
        return "cpu"
    from pargate.models.torch.encoder import resolve

    return "cuda" if resolve(device).type == "cuda" else "cpu"


def read_drill(path: Path) -> DrillReport:
    """Return a saved report.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        return DrillReport.model_validate_json(read_bytes(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "name the drill.json that a drill wrote") from error
    except ValueError as error:
        raise InputError(f"{path} is not the report of a drill", "name the drill.json that a drill wrote") from error


def _kept(request: DrillRequest, plan: Plan) -> DrillReport | None:
    """Return the report of an earlier run, or None for a new folder.

    Raises:
        InputError: the folder holds something else, or another drill.
    """
    out, path = request.out, request.out / REPORT_NAME
    if not path.exists():
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if [entry for entry in out.iterdir() if entry.name not in (LOCK_NAME, COPY_NAME)]:
                raise InputError(f"{out} holds other files and no drill", "name a new folder with --out")
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file", "name a folder with --out")
        return None
    found = read_drill(path)
    if found.identity != plan.identity:
        raise InputError(
            f"{out} holds another drill: of {readable(found.model)} under the policy {readable(found.policy)}, or with "
            "other images, pairs, reference, seed or versions",
            "give the same ones, or name another --out",
        )
    return found
