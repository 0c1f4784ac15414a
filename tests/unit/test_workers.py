"""Workers die at every moment, and whoever waits for them hears of it and never hangs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deadly
import numpy as np
import psutil
import pytest
from PIL import Image

from pargate.core.model import Preprocess
from pargate.errors import OperationalError
from pargate.images import workers as module
from pargate.images.decode import Locator
from pargate.images.workers import Scene, Workers

RULE = Preprocess((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
AT_ONCE_S = 15.0
"""A bound for the slowest machine: what waited for ever before ends in less than a second."""


@pytest.fixture
def pool() -> Iterator[Workers]:
    made = Workers(RULE, 1)
    yield made
    gone(made)


def gone(pool: Workers) -> None:
    """Close the workers, in little time; none of them is left."""
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < AT_ONCE_S
    assert all(worker.returncode is not None for worker in pool._processes)
    assert not any(thread.is_alive() for thread in pool._threads)


def until(what: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := what()):
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)
    return found


def begun(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


def refused(pool: Workers, *jobs: module.Job) -> OperationalError:
    began = time.monotonic()
    with pytest.raises(OperationalError) as caught:
        for job in jobs:
            pool.result(job)
    assert time.monotonic() - began < AT_ONCE_S
    return caught.value


# ---- results


@pytest.fixture
def red(tmp_path: Path) -> Locator:
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 32), (200, 0, 0)).save(path)
    return Locator(str(path))


def test_results_are_those_of_one_process_in_the_order_of_requests(red: Locator) -> None:
    # By turns much and little work, so that workers overtake each other.
    asked = [[Scene(n, 1) for n in range(i, i + 20)] if i % 2 else [red] * (i + 1) for i in range(8)]
    told = []
    for count in (0, 3):
        pool = Workers(RULE, count)
        jobs = [pool.submit(places) for places in asked]
        told.append([pool.result(job) for job in jobs])
        gone(pool)
    for one, other in zip(*told, strict=True):
        assert [d.digest for d in one] == [d.digest for d in other]
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))


def test_answers_far_larger_than_a_pipe_arrive(red: Locator) -> None:
    pool = Workers(Preprocess((1024, 1024), (0.0,) * 3, (1.0,) * 3), 1)
    jobs = [pool.submit([red] * 8) for _ in range(2)]
    for job in jobs:
        for found in pool.result(job):
            assert (
                found.pixels is not None
                and found.pixels.shape == (1024, 1024, 3)
                and (found.pixels[..., 0] == 200).all()
            )
    gone(pool)


def test_a_worker_without_memory_says_so_and_works_on(pool: Workers) -> None:
    with pytest.raises(MemoryError, match="no room") as caught:
        pool.result(pool.submit([deadly.Full("")]))
    assert "deadly.py" in caught.value.__notes__[0]
    assert len(pool.result(pool.submit([Scene(0, 0)]))) == 1


# ---- dying


def test_a_worker_that_is_killed_while_it_starts(pool: Workers) -> None:
    job = pool.submit([Scene(0, 0)])
    pool._processes[0].kill()
    error = refused(pool, job)
    assert error.message == "a process that decodes images was killed by SIGKILL" and "memory" in error.hint


def test_a_worker_that_is_killed_before_anything_was_asked(pool: Workers) -> None:
    pool._processes[0].kill()
    pool._processes[0].wait()
    assert "was killed" in refused(pool, pool.submit([Scene(0, 0)])).message


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_while_it_is_idle(number: signal.Signals, pool: Workers) -> None:
    pool.result(pool.submit([Scene(0, 0)]))
    pool._processes[0].send_signal(number)
    pool._processes[0].wait()
    assert f"was killed by {number.name}" in refused(pool, pool.submit([Scene(0, 0)])).message


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_killed_while_it_decodes(number: signal.Signals, pool: Workers, tmp_path: Path) -> None:
    job = pool.submit([deadly.Slow(str(tmp_path / "begun"))])
    until(lambda: begun(tmp_path / "begun"))
    pool._processes[0].send_signal(number)
    assert f"was killed by {number.name}" in refused(pool, job).message


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (deadly.Killed, "was killed by SIGKILL"),
        (deadly.Crashing, "was killed by SIGSEGV"),
        (deadly.Leaving, "ended with code 3"),
        (deadly.HalfTold, "a process that decodes images was killed"),
    ],
)
def test_a_worker_that_dies_of_a_picture(place: type[Locator], said: str, pool: Workers) -> None:
    assert said in refused(pool, pool.submit([place("")])).message


def test_a_worker_that_is_killed_in_the_middle_of_its_answer(pool: Workers, tmp_path: Path) -> None:
    job = pool.submit([deadly.HalfToldAndStopped(str(tmp_path / "begun"))])
    until(lambda: begun(tmp_path / "begun"))
    worker = psutil.Process(pool._processes[0].pid)
    until(lambda: worker.status() == psutil.STATUS_STOPPED)
    assert not job.done()
    worker.kill()
    assert "was killed by SIGKILL" in refused(pool, job).message


def test_one_dead_worker_of_several_is_enough_also_if_another_is_waited_for(tmp_path: Path) -> None:
    pool = Workers(RULE, 2)
    job = pool.submit([deadly.Slow(str(tmp_path / "begun"))])
    until(lambda: begun(tmp_path / "begun"))
    busy = int((tmp_path / "begun").read_text())
    (other,) = (worker for worker in pool._processes if worker.pid != busy)
    other.kill()
    assert "was killed" in refused(pool, job).message
    gone(pool)


def test_jobs_that_nobody_is_left_to_do_are_refused_as_well(pool: Workers) -> None:
    jobs = [pool.submit([deadly.Killed("")]) for _ in range(4)]
    for job in reversed(jobs):
        assert "was killed" in refused(pool, job).message


# ---- closing


def test_workers_that_have_only_begun_to_start_are_ended() -> None:
    gone(Workers(RULE, 2))


@pytest.mark.parametrize("place", [deadly.Slow, deadly.HalfToldAndStopped])
def test_workers_are_ended_whatever_they_are_at(place: type[Locator], tmp_path: Path) -> None:
    pool = Workers(RULE, 1)
    pool.submit([place(str(tmp_path / "begun"))])
    pool.submit([Scene(0, 0)])
    until(lambda: begun(tmp_path / "begun"))
    gone(pool)
    gone(pool)  # twice is once


def test_a_worker_that_dies_while_it_is_ended_is_ended(tmp_path: Path) -> None:
    pool = Workers(RULE, 2)
    jobs = [pool.submit([deadly.Killed("")]) for _ in range(2)]
    gone(pool)
    assert all(job.exception() for job in jobs)


ORPHANS = """
import sys
from deadly import Slow
from pargate.core.model import Preprocess
from pargate.images.workers import Workers
workers = Workers(Preprocess((32, 32), (0.0,) * 3, (1.0,) * 3), 2)
workers.result(workers.submit([]))
jobs = [workers.submit([Slow(path)]) for path in sys.argv[1:]]
print(*[worker.pid for worker in workers._processes], flush=True)
workers.result(jobs[0])
"""


def test_workers_end_when_their_parent_is_killed_the_busy_one_too(tmp_path: Path) -> None:
    with python(ORPHANS, tmp_path / "begun") as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(word)) for word in parent.stdout.readline().split()]
        until(lambda: begun(tmp_path / "begun"))
        parent.kill()
    assert not psutil.wait_procs(children, timeout=AT_ONCE_S)[1]


def test_no_worker_hears_ctrl_c(pool: Workers) -> None:
    pool.result(pool.submit([]))
    pool._processes[0].send_signal(signal.SIGINT)
    assert len(pool.result(pool.submit([Scene(0, 0)]))) == 1


# ---- starting


SCRIPT = """
import sys
from pargate.core.model import Preprocess
from pargate.images.workers import Scene, Workers
workers = Workers(Preprocess((32, 32), (0.0,) * 3, (1.0,) * 3), 2)
print(len(workers.result(workers.submit([Scene(0, 0), Scene(1, 0)]))))
workers.close()
"""

# multiprocessing cannot make a semaphore where /dev/shm is read-only, or where the system has none.
NO_SEMAPHORES = """
import sys
sys.modules["_multiprocessing"] = None
"""


def python(program: str, *arguments: object) -> "subprocess.Popen[str]":
    """A process that runs a program from standard input, where no worker could import it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-", *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(program)
    process.stdin.close()
    process.stdin = None
    return process


@pytest.mark.parametrize("program", [SCRIPT, NO_SEMAPHORES + SCRIPT], ids=["stdin", "no semaphores"])
def test_a_program_without_a_file_has_workers(program: str) -> None:
    with python(program) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "2\n", "")


def test_a_script_without_a_guard_has_workers_and_runs_once(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


NO_MORE = """
import os, resource
from pargate.core.model import Preprocess
from pargate.images.workers import Workers
from pargate.errors import OperationalError
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
if os.getuid() == 0:  # whom no such limit holds
    os.setuid(12345)
try:
    Workers(Preprocess((32, 32), (0.0,) * 3, (1.0,) * 3), 1)
except OperationalError as error:
    print(error.message, error.hint)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_where_no_process_may_start_the_limits_are_named() -> None:
    with python(NO_MORE) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("cannot start a process that decodes images: ") and "ulimit -u" in out


def test_a_thread_that_cannot_start_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start, count = module._start, threading.active_count()
    monkeypatch.setattr(module, "_start", lambda: started.append(start()) or started[-1])
    begin, begun = threading.Thread.start, []

    def second_fails(thread: threading.Thread) -> None:
        begun.append(thread)
        if len(begun) == 2:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    with pytest.raises(OperationalError, match="cannot start a process that decodes images: can't start new thread"):
        Workers(RULE, 3)
    assert len(started) == 2 and all(worker.returncode is not None for worker in started)
    assert threading.active_count() == count
