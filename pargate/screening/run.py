"""Screen a training set: embed its pairs, score them, and write the suspects for a person to judge."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from pargate import events
from pargate.clean.run import refuse_untrainable
from pargate.cluster import Cluster, connected
from pargate.core.choices import Executor
from pargate.core.environment import versions
from pargate.core.model import Precision
from pargate.core.results import Count
from pargate.core.screen import JudgedBy, Marks, ScreenReport, Suspect, SuspectGroup, refused
from pargate.errors import InputError, Undecided
from pargate.files import locked, read_bytes, readable, write_atomic
from pargate.images.dataset import Listed
from pargate.images.opening import open_pairs
from pargate.images.prefetch import Decoder
from pargate.images.shards import encode
from pargate.images.workers import processors
from pargate.judge.bounds import interval
from pargate.models.model import Model
from pargate.models.open import opened
from pargate.report.text import plain
from pargate.screening.cluster import open_workers
from pargate.screening.detectors import K
from pargate.screening.embed import Embeddings, Rows, Towers, embed, open_embedder, trial_of
from pargate.screening.found import Direction, directions, images_of
from pargate.screening.groups import Group, grouped, phrases
from pargate.screening.lists import write_left
from pargate.screening.neighbours import check_installed
from pargate.screening.scores import FEWEST, Sampling, Scored, recognised, score
from pargate.triggers import Trigger
from pargate.version import __version__

REPORT_NAME = "screen.json"
LOCK_NAME = ".lock"

CAPTION = 300
"""Most characters of a caption in the report."""

ERROR = 0.01
"""Largest probability of taking a model for one that recognises the pairs if it does not."""


@dataclass(frozen=True, slots=True)
class ScreenRequest:
    """The inputs of a screening."""

    pairs: str
    model: str
    out: Path
    arch: str | None = None
    trusted: str | None = None
    """Source of pairs that are known to be honest."""
    by: Sampling = field(default_factory=Sampling)
    largest: float | None = None
    """Largest accepted share of suspects and unreadable pairs."""
    judged_by: JudgedBy | None = None
    """The rule that sets `largest` and the rate of false positives; None if the user does."""
    found: tuple[tuple[Trigger, str], ...] = ()
    """Recovered triggers, each with the name of its target or an empty text."""
    shown: int = 200
    """Most suspects on the contact sheet."""
    device: str = "auto"
    precision: Literal["auto"] | Precision = "auto"
    cache: Path | None = None
    executor: Executor = Executor.LOCAL
    """Where the towers run."""
    ray_address: str | None = None
    """Address of a Ray cluster; None for a local one."""


@dataclass(frozen=True, slots=True)
class Screened:
    """The report of a screening, and pictures of the first suspects."""

    report: ScreenReport
    pictures: dict[str, bytes]
    """JPEG of suspects at the model's resolution, by key."""


def screen(request: ScreenRequest, emit: events.Listener = events.ignore) -> Screened:
    """Screen the pairs; write the report and the lists of what is left into `out`.

    Raises:
        InputError: wrong input, or too few pairs.
        Undecided: the model does not recognise the pairs, so its scores would mean nothing.
        UnsafeCheckpoint, OperationalError: see `errors.py`. Finished embeddings are kept in the cache.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    check_installed()
    _check_settings(request)
    _check_out(request.out)
    with contextlib.ExitStack() as stack:
        pairs, trusted, model, decoder, towers = stack.enter_context(_inputs(request, emit))
        folder = request.cache / "screen" if request.cache else Path(stack.enter_context(_temporary()))
        _make(request.out)
        stack.enter_context(locked(request.out / LOCK_NAME, wait=False))
        emit(events.StageStarted("embed", f"{pairs.count} pairs"))
        embeddings = embed(towers, model, pairs, folder, emit)
        honest = embed(towers, model, trusted, folder, emit) if trusted else None
        seen = _recognised(model, embeddings, request)
        emit(events.StageStarted("score", f"{request.by.rounds} batches"))
        known: tuple[Direction, ...] = ()
        if request.found:
            shown = images_of(trusted or pairs, decoder, request.by.seed)
            known = towers.call(directions, shown, request.found, request.by.seed)
        scored = score(embeddings, honest, request.by, emit, known)
        unreadable = _unreadable(embeddings, pairs, decoder)
        suspects, groups = _suspects(scored, embeddings, pairs)
        report = ScreenReport(
            schema="pargate/screen/1", pargate=__version__, libraries=versions(), started=started, pairs=pairs.source,
            pairs_sha256=pairs.digest, count=pairs.count, unreadable=unreadable, model=model.checkpoint.source,
            model_sha256=model.checkpoint.sha256, precision=towers.note or towers.spec.precision, recognised=seen,
            trusted=trusted.source if trusted else None, trusted_sha256=trusted.digest if trusted else None,
            calibration=scored.population, neighbours=K, batch=scored.batch,
            rounds=request.by.rounds, recall=scored.recall, seed=request.by.seed, false_positives=request.by.rate,
            largest=request.largest, judged_by=request.judged_by,
            found=tuple(one.label for one in known), suspects=suspects, groups=groups,
        )  # fmt: skip
        pictures = _pictures(report, pairs, decoder, request.shown)
        write_atomic(request.out / REPORT_NAME, report.to_json().encode())
        write_left(report, pairs, request.out)
    return Screened(report, pictures)


def fill(request: ScreenRequest, shard: tuple[int, int], emit: events.Listener = events.ignore) -> list[Path]:
    """Embed a part of the pairs into the cache, where a screening finds it.

    Args:
        request: the screening; `out` is not used.
        shard: (i, n): every nth file from the ith on, counted from 1.
        emit: listener for progress.

    Returns:
        The files of the part, of the pairs and then of the trusted ones.

    Raises:
        InputError: wrong input, or there is no cache.
        UnsafeCheckpoint, OperationalError: see `errors.py`. Finished embeddings are kept in the cache.
    """
    if request.cache is None:
        raise InputError("a shard is embedded into the cache, and --cache is off", "give --cache DIR")
    with _inputs(request, emit) as (pairs, trusted, model, _, towers):
        emit(events.StageStarted("embed", f"{pairs.count} pairs"))
        sets = [pairs, *([trusted] if trusted else [])]
        found = [embed(towers, model, one, request.cache / "screen", emit, shard) for one in sets]
    return [path for one in found for path in one.shards[shard[0] - 1 :: shard[1]]]


_Inputs = tuple[Listed, Listed | None, Model, Decoder, Towers]


@contextlib.contextmanager
def _inputs(request: ScreenRequest, emit: events.Listener) -> Iterator[_Inputs]:
    """Yield the pairs, the trusted ones, the open model, what decodes images for it, and its towers."""
    with contextlib.ExitStack() as stack:
        cluster = None
        if request.executor is Executor.RAY:
            cluster = stack.enter_context(connected(request.ray_address, processors()))
        emit(events.StageStarted("pairs", request.pairs))
        pairs = _listed(request.pairs, request)
        trusted = _listed(request.trusted, request) if request.trusted else None
        if trusted is not None and trusted.digest == pairs.digest:
            raise InputError("the trusted pairs are the pairs that are screened", "give others, known to be honest")
        emit(events.StageStarted("open", request.model))
        model = stack.enter_context(opened(request.model, arch=request.arch))
        refuse_untrainable(model.checkpoint)
        decoder = stack.enter_context(Decoder(model.checkpoint.preprocess))
        yield pairs, trusted, model, decoder, _towers(request, cluster, model, pairs, decoder)


def review(request: ScreenRequest, marks: Path) -> ScreenReport:
    """Take the marks of a person into the report in `out`, and write the lists of what is left again.

    A suspect that is not marked as fine stays left out. So do all pairs with the words of a group that is left out.

    Raises:
        InputError: `out` holds no screening, or the marks or pairs are not those of it.
    """
    path = request.out / REPORT_NAME
    try:
        report = ScreenReport.model_validate_json(read_bytes(path))
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", "screen the pairs first, with the same --out"
        ) from error
    except ValidationError as error:
        raise InputError(f"{path} is no report of a screening", "screen the pairs again") from error
    if report.judged_by != request.judged_by:
        by = f"the policy {report.judged_by.policy}" if report.judged_by else "no policy"
        raise InputError(
            f"{path} was judged by {by} as it was then", "give the same --policy, or screen the pairs again"
        )
    given = read_marks(marks)
    if given.pairs_sha256 != report.pairs_sha256:
        raise InputError(f"{marks} is a review of other pairs than {path}", "save the marks on its contact sheet")
    if strange := set(given.marks) - {suspect.key for suspect in report.suspects}:
        raise InputError(
            f"{marks} marks {readable(min(strange))}, which is no suspect of {path}", "save the marks again"
        )
    if unknown := set(given.words) - {group.name for group in report.groups if group.shares == "words"}:
        raise InputError(
            f"{marks} names '{plain(min(unknown), 80)}', no words of a group of {path}", "save the marks again"
        )
    pairs = _listed(request.pairs, request)
    if pairs.digest != report.pairs_sha256:
        raise InputError(f"{request.pairs} is not the set that {path} is about", "name that set, or screen this one")
    words = set(given.words)
    having = tuple(key for key, text in zip(pairs.keys, pairs.texts, strict=True) if words & phrases(text))
    update = {"reviewed": given.marks, "words": given.words, "with_words": having, "largest": request.largest}
    report = report.model_copy(update=update)
    with locked(request.out / LOCK_NAME, wait=False):
        write_atomic(path, report.to_json().encode())
        write_left(report, pairs, request.out)
    return report


def read_marks(path: Path) -> Marks:
    """Return the marks that a contact sheet saved.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        return Marks.model_validate_json(read_bytes(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except ValidationError as error:
        raise InputError(f"{path} holds no marks of a review", "save them on the contact sheet") from error


def _check_settings(request: ScreenRequest) -> None:
    if request.largest is None:
        return
    if request.trusted is None:
        raise InputError(
            "a limit on the suspects needs --trusted" + (", or `trusted` in the rule" if request.judged_by else ""),
            "give honest pairs like these: without them, the worst share of any set is listed, poisoned or not",
        )
    if said := refused(request.largest, request.by.rate):
        raise InputError(f"--max-suspects {said}", "give a smaller --false-positives, and enough trusted pairs for it")


def _check_out(out: Path) -> None:
    """Raise if `out` is a file, or a folder of something else."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file", "name a folder with --out")
    if out.is_dir() and not (out / REPORT_NAME).exists() and {p.name for p in out.iterdir()} - {LOCK_NAME}:
        raise InputError(f"{out} holds other files and no screening", "name a new folder with --out")


def _make(out: Path) -> None:
    try:
        out.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}", "choose another --out") from error


def _temporary() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="pargate-")


def _listed(source: str, request: ScreenRequest) -> Listed:
    found = open_pairs(source, seed=request.by.seed, cache=request.cache, device=request.device)
    if not isinstance(found, Listed):
        raise InputError(f"{source} is drawn by pargate itself", "give the pairs that a model is trained on")
    if found.count < FEWEST:
        raise InputError(
            f"{source} holds {found.count} pairs, and a screening needs {FEWEST}",
            "give more: each is compared with the others",
        )
    return found


def _towers(request: ScreenRequest, cluster: Cluster | None, model: Model, pairs: Listed, decoder: Decoder) -> Towers:
    """Return the towers of the model, on workers if there is a cluster."""
    trial = partial(trial_of, pairs, decoder)
    if cluster is None:
        return open_embedder(model, request.device, request.precision, decoder, trial)
    model.release()
    return open_workers(cluster, model.checkpoint, request.arch, request.device, request.precision, decoder, trial())


def _recognised(model: Model, embeddings: Embeddings, request: ScreenRequest) -> Count:
    """Return how often an image is nearer to its own caption than to another; raise if that is no more than chance."""
    seen = recognised(embeddings, request.by.seed)
    if seen.n < FEWEST:
        raise InputError(f"the captions of {request.pairs} are all the same", "give captions that describe the images")
    if interval(seen, ERROR, ERROR).low <= 0.5:
        raise Undecided(
            f"{model.checkpoint.source} does not recognise the pairs of {request.pairs}: of {seen.n} images, "
            f"{seen.successes} are nearer to their own caption than to another",
            "give the model that was trained on them, or a trusted one of the same domain",
        )
    return seen


def _unreadable(embeddings: Embeddings, pairs: Listed, decoder: Decoder) -> tuple[tuple[str, str], ...]:
    """Return key and reason of the pairs that have no image embedding; their images are decoded once more."""
    rows = [numbers[np.isnan(images[:, 0])] for numbers, images, _ in embeddings.parts()]
    lost = np.concatenate(rows)
    if not len(lost):
        return ()
    decoder.start(Rows(pairs), [lost])
    told = dict(decoder.block(0).unreadable)
    keys = [pairs.keys[row] for row in lost]
    return tuple((key, told.get(key, "could not be read before")) for key in keys)


def _suspects(
    scored: Scored, embeddings: Embeddings, pairs: Listed
) -> tuple[tuple[Suspect, ...], tuple[SuspectGroup, ...]]:
    numbers = scored.numbers[: scored.suspects]
    captions = pairs.captions(numbers)
    places = np.argsort(numbers)
    images = np.empty((len(numbers), embeddings.dim), dtype=np.float32)
    images[places], _ = embeddings.rows(numbers[places])
    found: list[Group] = grouped(captions, images, pairs.texts)
    group = {at: index for index, one in enumerate(found) for at in one.members}
    suspects = tuple(
        Suspect(
            number=int(number), key=pairs.keys[number], caption=plain(caption, CAPTION),
            score=round(float(scored.combined[at]), 6),
            ranks={name: round(float(rank[at]), 6) for name, rank in scored.ranks.items()}, group=group.get(at),
        )
        for at, (number, caption) in enumerate(zip(numbers, captions, strict=True))
    )  # fmt: skip
    return suspects, tuple(
        SuspectGroup(shares=one.shares, name=plain(one.name, 100), size=len(one.members), captions=one.captions)
        for one in found
    )


def _pictures(report: ScreenReport, pairs: Listed, decoder: Decoder, most: int) -> dict[str, bytes]:
    """Return the pictures of the first suspects, by key."""
    shown = np.array([suspect.number for suspect in report.suspects[:most]], dtype=np.int64)
    blocks = [shown[at : at + 64] for at in range(0, len(shown), 64)]
    decoder.start(Rows(pairs), blocks)

    def made() -> Iterator[tuple[str, bytes]]:
        for number in range(len(blocks)):
            block = decoder.block(number)
            for row, pixels in zip(block.rows, block.pixels, strict=True):
                yield pairs.keys[row], encode(pixels, ".jpg")

    return dict(made())
