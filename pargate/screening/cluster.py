"""Embedding by the workers of a Ray cluster, a task a shard; this machine alone writes the cache, lists and report.

A worker opens the model once, and reads the images of a shard at their places: every source is listed with the file,
offset and size of each image. So a task holds places and captions, and not the images, which are far more bytes than
vectors. Every machine needs the model and the images at the same paths.

What a worker reads is compared with what this machine reads there: the model by its digest, each image by that of its
bytes. So the embeddings are those of this machine, as long as the workers compute alike, which is compared too.
"""

import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np

from pargate.cluster import SHARED, Cluster, Needs
from pargate.core.environment import versions
from pargate.core.model import Checkpoint, EncoderSpec, Precision, Vectors
from pargate.errors import ExitCode, InputError, OperationalError, PargateError, explain
from pargate.files import readable
from pargate.images.dataset import Listed, check_unchanged
from pargate.images.decode import Locator
from pargate.images.prefetch import Block, Decoder
from pargate.models.open import open_model
from pargate.scanning.choose import processor_threads
from pargate.screening.embed import BLOCK, Embedder, Rows, Seen, Trial, open_embedder, some
from pargate.version import __version__

T = TypeVar("T")

AHEAD = 2
"""Tasks in flight for each that runs: a worker need not wait while a result is written."""


@dataclass(frozen=True)
class Setup:
    """The model, as each worker opens it."""

    folder: str
    """Working folder of the driver."""
    source: str
    arch: str | None
    device: str
    precision: Literal["auto"] | Precision
    digest: str
    """Digest of the checkpoint on the driver."""
    threads: int
    files: Mapping[str, str] = field(compare=False)
    """SHA-256 of each file of the model on the driver, by its absolute path."""
    libraries: Mapping[str, str] = field(compare=False)
    """Versions on the driver."""
    trial: Trial = field(compare=False)


@dataclass(frozen=True)
class Answer:
    """The result of a task, or the error that ended it."""

    host: str
    spec: EncoderSpec | None = None
    note: str = ""
    result: Any = None
    lines: tuple[str, ...] = ()
    """Message of the error; empty if there is none."""
    hint: str = ""
    code: ExitCode = ExitCode.OK


class WorkerEnded(PargateError):
    """An error of a worker."""

    def __init__(self, answer: Answer) -> None:
        """Name the worker; keep the exit code of its error."""
        first, *others = answer.lines
        super().__init__([f"the worker on {answer.host}: {first}", *others], answer.hint)
        self.exit_code = answer.code


# --- on a worker -------------------------------------------------------------------------------------


def work(setup: Setup, function: Callable[..., object], *given: object) -> Answer:
    """Run a function whose first argument is an `Embedder`; an error that is no bug becomes the answer."""
    host = socket.gethostname()
    try:
        embedder = _opened(setup)
        return Answer(host, embedder.spec, embedder.note, function(embedder, *given))
    except Exception as error:
        known = explain(error)
        if known.exit_code is ExitCode.BUG:
            raise
        return Answer(host, lines=known.lines, hint=known.hint, code=known.exit_code)


@lru_cache(maxsize=1)
def _opened(setup: Setup) -> Embedder:
    """Return the open model, which is kept for the next task.

    Raises:
        OperationalError: this machine lacks the model or the folder, or has others, or other libraries.
        PargateError: as `open_model` and `open_embedder`.
    """
    _compare_libraries(setup.libraries)
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    shared = SHARED.format(f"the model {setup.source}")
    try:
        os.chdir(setup.folder)
    except OSError as error:
        raise OperationalError(f"there is no folder {setup.folder}", SHARED.format("it")) from error
    try:
        model = open_model(setup.source, arch=setup.arch)
    except InputError as error:
        raise OperationalError(f"cannot open the model: {error.message}", shared) from error
    if model.checkpoint.digest != setup.digest:
        theirs = model.checkpoint.files
        differing = [path for path, digest in setup.files.items() if theirs.get(path) != digest]
        raise OperationalError(f"has another model: {', '.join(differing) or setup.source} differs", shared)
    decoder = Decoder(model.checkpoint.preprocess)
    return open_embedder(model, setup.device, setup.precision, decoder, lambda: setup.trial)


def _libraries() -> dict[str, str]:
    """Return the versions that decide the vectors, without the builds for a device."""
    return {name: found.partition("+")[0] for name, found in {"pargate": __version__, **versions()}.items()}


def _compare_libraries(theirs: Mapping[str, str]) -> None:
    ours = _libraries()
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise OperationalError(
                f"has {name} {ours.get(name, '(none)')} and not {theirs.get(name, '(none)')}",
                "install the same versions on every machine",
            )


def embed_part(embedder: Embedder, part: Listed) -> tuple[Vectors, list[Block]]:
    """Return the vectors of some pairs, and their blocks without pixels."""
    blocks: list[Block] = []
    whole = [range(part.count)]
    ((_, vectors),) = embedder.embedded(part, whole, lambda b: blocks.append(replace(b, pixels=b.pixels[:0].copy())))
    return vectors, blocks


def _ready(embedder: Embedder) -> None:
    """Do nothing: the answer holds how the towers were opened."""


# --- on the driver -----------------------------------------------------------------------------------


@dataclass
class Workers:
    """The towers of a model on the workers of a cluster."""

    cluster: Cluster
    task: Any
    needs: Needs
    setup: Any
    """The promise of a `Setup`."""
    decoder: Decoder
    """Decodes images on this machine."""
    _first: Answer | None = None
    """Answer of the first worker."""

    @property
    def spec(self) -> EncoderSpec:
        """Everything that can change an embedding."""
        assert self._first is not None and self._first.spec is not None, "a worker has answered"
        return self._first.spec

    @property
    def note(self) -> str:
        """Reason for the precision."""
        return self._first.note if self._first else ""

    def call(self, function: Callable[..., T], *given: object) -> T:
        """Return the result of a function whose first argument is an `Embedder`; a worker runs it."""
        promise = self.task.remote(self.setup, function, *given)
        return cast(T, self._answer(self.cluster.ended([promise], self.needs)).result)

    def embedded(self, pairs: Listed, parts: Sequence[range], seen: Seen) -> Iterator[tuple[range, Vectors]]:
        """Yield the parts as workers finish them, as `Towers`.

        Raises:
            OperationalError: a worker was lost, lacks a file, or reads other bytes or computes otherwise than others.
        """
        waiting, running = iter(parts), dict[Any, range]()
        while True:
            # Counted each time, since machines join and leave.
            while len(running) < AHEAD * max(1, self.cluster.room(self.needs)):
                if (part := next(waiting, None)) is None:
                    break
                running[self.task.remote(self.setup, embed_part, some(pairs, part))] = part
            if not running:
                return
            promise = self.cluster.ended(running, self.needs)
            part, answer = running.pop(promise), self._answer(promise)
            del promise  # frees the result in the cluster
            vectors, blocks = answer.result
            self._compare_images(answer.host, some(pairs, part), blocks)
            for block in blocks:
                seen(block)
            yield part, vectors

    def _answer(self, promise: Any) -> Answer:
        """Return the answer of a task that has ended."""
        answer: Answer = self.cluster.result(promise)
        if answer.lines:
            raise WorkerEnded(answer)
        if self._first is None:
            self._first = answer
        elif answer.spec != self._first.spec:
            here, there = asdict(cast(Any, answer.spec)), asdict(self.spec)
            differing = next(name for name in here if here[name] != there[name])
            raise OperationalError(
                f"the worker on {answer.host} computes otherwise than that on {self._first.host}: "
                f"{differing} {here[differing]}, not {there[differing]}",
                "use machines of one kind, or --device cpu; what was embedded is kept",
            )
        return answer

    def _compare_images(self, host: str, part: Listed, blocks: Sequence[Block]) -> None:
        """Raise if a worker read other images than this machine does.

        Raises:
            InputError: a file changed since it was listed.
            OperationalError: as above.
        """
        rows = np.concatenate([block.rows for block in blocks])
        digests = [digest for block in blocks for digest in block.digests]
        for row, digest in zip(rows, digests, strict=True):
            if _digest(part, row) != digest:
                raise _differs(part, row, host)
        reasons = {key: reason for block in blocks for key, reason in block.unreadable}
        lost = np.setdiff1d(np.arange(part.count), rows)
        groups = [lost[at : at + BLOCK] for at in range(0, len(lost), BLOCK)]
        self.decoder.start(Rows(part), groups)
        for number in range(len(groups)):
            for row in self.decoder.block(number).rows:
                raise _differs(part, row, host, reasons[part.keys[row]])


def _differs(part: Listed, row: int, host: str, unread: str = "") -> PargateError:
    """Return the error for an image that a worker reads otherwise than this machine, or cannot read.

    Raises:
        InputError: a file changed since it was listed, so that the worker is not at fault.
    """
    check_unchanged(part)
    place, image = part.paths[part.file[row]], readable(part.keys[row])
    said = f"reads other bytes in {place} than this machine" if not unread else f"cannot read {place}: {unread}"
    return OperationalError(f"the worker on {host} {said} (image {image})", SHARED.format("the images"))


def _digest(pairs: Listed, number: int) -> str:
    """Return the SHA-256 of the encoded bytes of an image; an empty text if they cannot be read."""
    (place,) = pairs.places([number])
    try:
        return hashlib.sha256(cast(Locator, place).read()).hexdigest()
    except OSError:
        return ""


def open_workers(
    cluster: Cluster,
    checkpoint: Checkpoint,
    arch: str | None,
    device: str,
    precision: Literal["auto"] | Precision,
    decoder: Decoder,
    trial: Trial,
) -> Workers:
    """Return the towers of a model on the workers of a cluster; a first worker has opened it.

    Args:
        cluster: the cluster.
        checkpoint: the model, as this machine found it.
        arch: as of `open_model`.
        device: as of `open_embedder`; `auto` is a GPU if the cluster has some.
        precision: as of `open_embedder`.
        decoder: decodes images on this machine.
        trial: as of `open_embedder`.

    Raises:
        OperationalError: no machine of the cluster has what a task takes, or the first worker was lost.
        WorkerEnded: the first worker cannot open the model.
    """
    threads = processor_threads()
    setup = Setup(
        str(Path.cwd()), checkpoint.source, arch, device, precision, checkpoint.digest, threads,
        dict(checkpoint.files), _libraries(), trial,
    )  # fmt: skip
    needs = cluster.needs(device, threads)
    advice = "set OMP_NUM_THREADS, the processors of a task, to fewer, or choose another --device"
    found = Workers(cluster, cluster.task(work, needs, advice), needs, cluster.ray.put(setup), decoder)
    found.call(_ready)
    return found
