"""Processes that read, decode and draw pictures, for whoever needs them at model resolution.

Processes, not threads: a picture that crashes a decoder kills a worker, not the run, and decoding never
competes with a model for the interpreter. What is asked for, and how far ahead, is the caller's business.
"""

import contextlib
import hashlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process

import numpy as np

from pargate.core.model import Preprocess
from pargate.data.images import Decoded, Locator, decode_many
from pargate.errors import OperationalError


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture that the built-in renderer draws."""

    number: int
    """Its number in the renderer, from 0."""
    seed: int
    """The renderer's seed."""
    extras: tuple[str, ...] = ()
    """What it may show beyond one object."""


Place = Locator | Scene
"""Where a picture comes from."""

Job = Future[list[Decoded]]
"""Pictures on their way, in the order in which they were asked for."""


class Workers:
    """Some processes that turn places into pictures; `close` ends them."""

    def __init__(self, rule: Preprocess, count: int) -> None:
        """Start `count` processes, which resize pictures by `rule`; 0 does the work in this one, when asked."""
        self._rule = rule
        self._pool: ProcessPoolExecutor | None = None
        if count:
            # Spawned, because the parent may hold threads of torch, which do not survive a fork.
            self._pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_end_with_parent)
        for _ in range(count):
            # Nothing to decode yet, but a worker's own imports take longer than a block.
            self.submit([])

    def submit(self, places: Sequence[Place]) -> Job:
        """Begin to read or draw the pictures at `places`.

        Raises:
            OperationalError: a worker was killed.
        """
        if self._pool is None:
            done = Job()
            done.set_result(work(list(places), self._rule))
            return done
        try:
            with _deaf_to_interrupts():
                return self._pool.submit(work, list(places), self._rule)
        except BrokenProcessPool as error:
            raise _killed() from error

    def result(self, job: Job) -> list[Decoded]:
        """What a job found, once it is done.

        Raises:
            OperationalError: a worker was killed, by the system (memory) or by a picture.
        """
        try:
            return job.result()
        except BrokenProcessPool as error:
            raise _killed() from error

    def close(self) -> None:
        """Drop what was not begun and end the workers.

        Waits for what each is at: left to themselves they would race the interpreter's own end.
        """
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2


def _end_with_parent() -> None:
    """Runs first in a worker: should the parent be killed, nobody else would end it, and its memory stay taken."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Workers that start meanwhile never see Ctrl-C, which reaches the whole group and is ours to answer.

    A blocked signal is inherited; ours is only delivered a little later.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _killed() -> OperationalError:
    return OperationalError(
        "a process that decodes pictures was killed",
        "usually the system ran out of memory: free some, or use smaller pictures; the next run resumes",
    )


def work(places: list[Place], rule: Preprocess) -> list[Decoded]:
    """The pictures at `places`, in order; runs in a worker."""
    drawn = [place for place in places if isinstance(place, Scene)]
    if not drawn:
        return decode_many([place for place in places if isinstance(place, Locator)], rule)
    return render_scenes([scene.number for scene in drawn], rule, drawn[0].seed, drawn[0].extras)


def render_scenes(numbers: Sequence[int], rule: Preprocess, seed: int, extras: Sequence[str] = ()) -> list[Decoded]:
    """Scenes at model resolution; their digests are of their pixels."""
    from pargate.data import scenes

    pixels = scenes.render(np.array(numbers), max(rule.size), seed, extras).pixels
    cut = pixels[:, : rule.size[0], : rule.size[1]]
    return [Decoded(hashlib.sha256(p.tobytes()).hexdigest(), p) for p in cut]
