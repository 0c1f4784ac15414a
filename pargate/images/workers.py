"""Processes that read, decode and draw images at model resolution.

Processes are used, not threads, so that an image that crashes a decoder kills a worker and not the run, and decoding
does not compete with a model for the interpreter.

A dead worker cannot block the run. Each worker has two pipes, its standard input and output, and a thread of this
process that writes one job and reads one answer at a time. Only the worker holds its ends of the pipes: when it dies,
reading and writing fail. Workers share nothing, so none can die with a lock. `result` also polls the processes, and
`close` kills them, since they hold no state.

The workers are plain interpreters, not children of `multiprocessing`: that would need a semaphore (/dev/shm) for its
queues, and would import the caller's main module again, which fails for a script without a guard or from stdin.
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
"""Seconds between two polls of the processes while a result is awaited."""

ENDING_S = 1.0
"""Seconds that a worker may take to end after its output ended."""

CLOSING_S = 5.0
"""Seconds that killed workers may take to end."""

# The path is passed on, so that a worker imports the same modules as its parent.
_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from pargate.images.workers import spawn_main; spawn_main()"


@dataclass(frozen=True, slots=True)
class Scene:
    """An image that the built-in renderer draws."""

    number: int
    """Number of the scene in the renderer, from 0."""
    seed: int
    """Seed of the renderer."""
    extras: tuple[str, ...] = ()
    """Extras that the scene may show, by name."""


Place = Locator | Scene
"""Place of an image: bytes in a file, or a scene to draw."""

Job = Future[list[Decoded]]
"""Images that are being decoded, in the order of the request."""


class Workers:
    """Processes that turn places into images; `close` ends them."""

    def __init__(self, rule: Preprocess, count: int) -> None:
        """Start `count` processes, which resize images by `rule`; with 0, this process does the work.

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
            if isinstance(error, OSError | RuntimeError):  # RuntimeError: no thread can be started
                said = getattr(error, "strerror", None) or error
                raise OperationalError(f"cannot start a process that decodes images: {said}", _LIMITS) from error
            raise

    def submit(self, places: Sequence[Place]) -> Job:
        """Start to read or draw the images at `places`."""
        job = Job()
        if self._processes:
            self._jobs.put((job, list(places)))
        else:
            job.set_result(work(list(places), self._rule))
        return job

    def result(self, job: Job) -> list[Decoded]:
        """Wait for a job and return its images.

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
        """Kill the workers and drop all jobs."""
        for process in self._processes:
            process.kill()
            self._jobs.put(None)
        until = time.monotonic() + CLOSING_S
        for process, thread in zip(self._processes, self._threads, strict=False):
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if not thread.is_alive():  # closing waits for a thread that still reads
                for stream in (process.stdin, process.stdout):
                    assert stream is not None
                    with contextlib.suppress(OSError):  # the worker did not read all of its job
                        stream.close()

    def _serve(self, process: "subprocess.Popen[bytes]") -> None:
        """Send jobs to one worker, one at a time, until there are no more or it is dead."""
        while self._do(process, self._jobs.get()):
            pass

    def _do(self, process: "subprocess.Popen[bytes]", asked: tuple[Job, list[Place]] | None) -> bool:
        """Let a worker do a job; return whether it can do another."""
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
        except BaseException as error:  # such as no memory: the rest of the answer is unread
            process.kill()
            job.set_exception(error)
            return False
        if isinstance(answer, Exception):
            job.set_exception(answer)
        else:
            job.set_result(answer)
        return True


def processors() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2


def _start() -> "subprocess.Popen[bytes]":
    # The UTF-8 mode makes file names mean the same in both.
    command = [sys.executable, "-P", "-X", f"utf8={sys.flags.utf8_mode}", "-c", _PROGRAM, *sys.path]
    # stderr is dropped: decoders print there about broken images, which are reported in another way.
    with _interrupts_blocked():
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C while workers start: they inherit the block, and only this process handles the signal afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _killed(process: "subprocess.Popen[bytes]") -> OperationalError:
    """Return the error for a worker that died or does not answer; kill it."""
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
    """Run a worker: answer the jobs from standard input until it ends, at the latest with the parent."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of libraries must not mix with the answers
    jobs: SimpleQueue[tuple[list[Place], Preprocess]] = SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        pickle.dump(_answer(*jobs.get()), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _answer(places: list[Place], rule: Preprocess) -> list[Decoded] | Exception:
    """Return the images, or the error to raise in the parent."""
    try:
        return work(places, rule)
    except Exception as error:
        error.add_note(f"in a process that decodes images:\n{traceback.format_exc()}")
        return error


def _listen(jobs: "SimpleQueue[tuple[list[Place], Preprocess]]") -> None:
    """Read jobs in a thread of their own, so that the end of the parent is noticed at once."""
    try:
        while True:
            jobs.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(1)


def work(places: list[Place], rule: Preprocess) -> list[Decoded]:
    """Return the images at `places`, in order; runs in a worker."""
    drawn = [place for place in places if isinstance(place, Scene)]
    if not drawn:
        return decode_many([place for place in places if isinstance(place, Locator)], rule)
    return render_scenes([scene.number for scene in drawn], rule, drawn[0].seed, drawn[0].extras)


def render_scenes(numbers: Sequence[int], rule: Preprocess, seed: int, extras: Sequence[str] = ()) -> list[Decoded]:
    """Return scenes at model resolution, with the digests of their pixels."""
    from pargate.scenes import render as scenes

    pixels = scenes.render(np.array(numbers), max(rule.size), seed, extras).pixels
    cut = pixels[:, : rule.size[0], : rule.size[1]]
    return [Decoded(hashlib.sha256(p.tobytes()).hexdigest(), p) for p in cut]
