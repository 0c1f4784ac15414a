"""Processes that read, decode and draw images, for whoever needs them at model resolution.

Processes, not threads: an image that crashes a decoder kills a worker, not the run, and decoding never
competes with a model for the interpreter. What is asked for, and how far ahead, is the caller's business.

Nothing here can wait for ever on a worker that has died. Each worker has two pipes, its standard input and output, and
a thread of this process that writes one job, reads one answer, and so on. Only the worker holds its ends of the pipes:
once it is dead, reading ends with what had arrived and writing fails, at whatever byte it died. Nothing is shared
between workers, so none can die with a lock. `result` also looks at the processes themselves from time to time, and
`close` kills them, since they hold nothing that could be lost.

The workers are plain interpreters, not children of `multiprocessing`: that would need a semaphore (/dev/shm) for its
queues, and would import the caller's main module again, which a script without a guard or from standard input does
not survive.
"""

import contextlib
import hashlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from pargate.core.model import Preprocess
from pargate.errors import OperationalError
from pargate.images.decode import Decoded, Locator, decode_many

LOOK_S = 0.2
"""Between two looks at the processes while a result is waited for."""

ENDING_S = 1.0
"""Between the end of a worker's output and its own, at most."""

CLOSING_S = 5.0
"""How long workers that were killed may take to be gone."""

# The path is handed over, so that a worker finds what its parent found.
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from pargate.images.workers import spawn_main; spawn_main()"


@dataclass(frozen=True, slots=True)
class Scene:
    """An image that the built-in renderer draws."""

    number: int
    """Its number in the renderer, from 0."""
    seed: int
    """The renderer's seed."""
    extras: tuple[str, ...] = ()
    """What it may show beyond one object."""


Place = Locator | Scene
"""Where an image comes from."""

Job = Future[list[Decoded]]
"""Images on their way, in the order in which they were asked for."""


class Workers:
    """Some processes that turn places into images; `close` ends them."""

    def __init__(self, rule: Preprocess, count: int) -> None:
        """Start `count` processes, which resize images by `rule`; 0 does the work in this one, when asked.

        Raises:
            OperationalError: no process can be started.
        """
        self._rule = rule
        self._jobs: SimpleQueue[tuple[Job, list[Place]] | None] = SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(count):
                self._processes.append(_start())
                self._threads.append(threading.Thread(target=self._serve, args=self._processes[-1:], daemon=True))
                self._threads[-1].start()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError | RuntimeError):  # the second where no thread can be started
                said = getattr(error, "strerror", None) or error
                raise OperationalError(f"cannot start a process that decodes images: {said}", _LIMITS) from error
            raise

    def submit(self, places: Sequence[Place]) -> Job:
        """Begin to read or draw the images at `places`."""
        job = Job()
        if self._processes:
            self._jobs.put((job, list(places)))
        else:
            job.set_result(work(list(places), self._rule))
        return job

    def result(self, job: Job) -> list[Decoded]:
        """What a job found, once it is done.

        Raises:
            OperationalError: a worker was killed, by the system (memory) or by an image.
        """
        while not job.done():
            for process in self._processes:
                if process.poll() is not None:
                    raise _killed(process)
            wait([job], LOOK_S)
        return job.result()

    def close(self) -> None:
        """End the workers, whatever they are at, and drop what was not begun."""
        for process in self._processes:
            process.kill()
            self._jobs.put(None)
        until = time.monotonic() + CLOSING_S
        for process, thread in zip(self._processes, self._threads, strict=False):
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if not thread.is_alive():  # or it would be waited for until it has read
                for stream in (process.stdin, process.stdout):
                    assert stream is not None
                    with contextlib.suppress(OSError):  # a job that was not read to its end
                        stream.close()

    def _serve(self, process: "subprocess.Popen[bytes]") -> None:
        """Hand jobs to one worker, one at a time, until there are no more or it is dead."""
        while self._do(process, self._jobs.get()):
            pass

    def _do(self, process: "subprocess.Popen[bytes]", asked: tuple[Job, list[Place]] | None) -> bool:
        """Let a worker do a job; whether it can do another."""
        if asked is None:
            return False
        job, places = asked
        assert process.stdin is not None and process.stdout is not None
        try:
            pickle.dump((places, self._rule), process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            job.set_exception(_killed(process))
            return False
        except BaseException as error:  # such as no memory: the rest of the answer is still to come
            process.kill()
            job.set_exception(error)
            return False
        if isinstance(answer, Exception):
            job.set_exception(answer)
        else:
            job.set_result(answer)
        return True


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2


def _start() -> "subprocess.Popen[bytes]":
    # File names mean the same in both.
    command = [sys.executable, "-P", "-X", f"utf8={sys.flags.utf8_mode}", "-c", _PROGRAM, *sys.path]
    # What decoders print about broken images is no message of ours: an unreadable image is reported as such.
    with _deaf_to_interrupts():
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


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


def _killed(process: "subprocess.Popen[bytes]") -> OperationalError:
    """What to say of a worker that is dead, or as good as dead."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ENDING_S)
    process.kill()
    code = process.returncode or 0
    if code > 0:
        return OperationalError(f"a process that decodes images ended with code {code}", _LIMITS)
    by = f" by {signal.Signals(-code).name}" if -code in set(signal.Signals) else ""
    return OperationalError(
        f"a process that decodes images was killed{by}",
        "usually the system ran out of memory: free some, or use smaller images; the next run resumes",
    )


_LIMITS = (
    "raise what this job may have of processes (ulimit -u, pids.max of a container), open files (ulimit -n) "
    "and memory (ulimit -v)"
)


def spawn_main() -> None:
    """Do in a worker what its standard input asks for, until that ends: with the parent, at the latest."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print shall not come between the answers
    jobs: SimpleQueue[tuple[list[Place], Preprocess]] = SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        pickle.dump(_answer(*jobs.get()), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _answer(places: list[Place], rule: Preprocess) -> list[Decoded] | Exception:
    """The images, or what is to be raised where they are asked for."""
    try:
        return work(places, rule)
    except Exception as error:
        error.add_note(f"in a process that decodes images:\n{traceback.format_exc()}")
        return error


def _listen(jobs: "SimpleQueue[tuple[list[Place], Preprocess]]") -> None:
    """Take in jobs also while one is worked on, so that the end of the parent is noticed at once."""
    try:
        while True:
            jobs.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(1)


def work(places: list[Place], rule: Preprocess) -> list[Decoded]:
    """The images at `places`, in order; runs in a worker."""
    drawn = [place for place in places if isinstance(place, Scene)]
    if not drawn:
        return decode_many([place for place in places if isinstance(place, Locator)], rule)
    return render_scenes([scene.number for scene in drawn], rule, drawn[0].seed, drawn[0].extras)


def render_scenes(numbers: Sequence[int], rule: Preprocess, seed: int, extras: Sequence[str] = ()) -> list[Decoded]:
    """Scenes at model resolution; their digests are of their pixels."""
    from pargate.scenes import render as scenes

    pixels = scenes.render(np.array(numbers), max(rule.size), seed, extras).pixels
    cut = pixels[:, : rule.size[0], : rule.size[1]]
    return [Decoded(hashlib.sha256(p.tobytes()).hexdigest(), p) for p in cut]
