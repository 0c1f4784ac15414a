"""Functions as tasks of a Ray cluster; needs the extra `pargate[ray]`.

Ray repeats a task whose worker died. A task writes no file that the caller reads: what it made is its result.
"""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pargate.errors import OperationalError

RETRIES = 2
"""Times that a task is repeated whose worker died."""

ANSWER_S = 10
"""Seconds that a cluster has to answer."""

GONE_S = 60
"""Seconds that a cluster may be without a machine for a task, such as until one is replaced."""

LOOK_S = 0.05
"""Seconds between two looks at what has ended. Ray's own wait turns every signal into Ctrl-C."""

SHARED = "every machine needs {} at the same path, such as on a shared file system"
"""Hint for a file that a worker lacks."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What one task takes of a machine."""

    processors: int
    graphics: int
    """Number of GPUs."""

    def times(self, has: dict[str, float]) -> int:
        """Return how many such tasks fit on a machine with these resources."""
        fit = int(has.get("CPU", 0) // self.processors)
        return min(fit, int(has.get("GPU", 0) // self.graphics)) if self.graphics else fit


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that answers."""

    ray: Any
    """The module."""

    def needs(self, device: str, threads: int) -> Needs:
        """Return what a task on `device` takes: a GPU for `cuda`, or for `auto` where the cluster has some."""
        has = self.ray.cluster_resources().get("GPU", 0) > 0
        return Needs(threads, 1 if device.startswith("cuda") or (device == "auto" and has) else 0)

    def room(self, needs: Needs) -> int:
        """Return how many tasks the machines of the cluster can run at a time."""
        return sum(needs.times(node["Resources"]) for node in self.ray.nodes() if node["Alive"])

    def task(self, function: Callable[..., Any], needs: Needs, advice: str) -> Any:
        """Return `function` as a task: its `remote` starts it and returns the promise of its result.

        Raises:
            OperationalError: no machine of the cluster has what the task needs; `advice` is the hint.
        """
        if not self.room(needs):
            raise OperationalError(
                "no machine of the Ray cluster has what a task takes "
                f"(CPU: {needs.processors}, GPU: {needs.graphics})", advice
            )  # fmt: skip
        # Without `max_calls`, a worker with a GPU may end after each task, and the next one opens the model again.
        return self.ray.remote(max_calls=0)(function).options(
            num_cpus=needs.processors, num_gpus=needs.graphics, max_retries=RETRIES, retry_exceptions=False
        )

    def ended(self, promises: Collection[Any], needs: Needs) -> Any:
        """Wait until one of some tasks has ended, and return its promise.

        Raises:
            OperationalError: for `GONE_S`, the cluster has had no machine that can run the tasks.
        """
        could = looked = time.monotonic()
        while not (found := self.ray.wait(list(promises), num_returns=1, timeout=0)[0]):
            time.sleep(LOOK_S)
            if (now := time.monotonic()) - looked < ANSWER_S:
                continue
            looked, could = now, now if self.room(needs) else could
            if now - could > GONE_S:
                raise OperationalError(
                    "no machine of the Ray cluster is left that can run a task", "start some, and run this again"
                )
        return found[0]

    def result(self, promise: Any) -> Any:
        """Return the result of a task that has ended.

        Raises:
            OperationalError: the worker died, and so did those that repeated the task; or it cannot load pargate.
        """
        try:
            return self.ray.get(promise)
        except self.ray.exceptions.RayTaskError as error:
            found = re.search("No module named '[^']*'", str(error))
            if found is None:
                raise
            hint = "install pargate with the same extras on every machine"
            raise OperationalError(f"a worker cannot load pargate: {found[0]}", hint) from error
        except self.ray.exceptions.RayError as error:
            raise OperationalError(
                f"a worker was lost: {type(error).__name__}",
                "if memory ran out, give the workers more, or run fewer at once; the next run resumes",
            ) from error


def _reach(address: str) -> None:
    """Raise if nothing listens at an address of the form `HOST:PORT`, which Ray itself would try for minutes.

    Raises:
        OSError: as above.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=ANSWER_S).close()


@contextlib.contextmanager
def connected(address: str | None, processors: int) -> Iterator[Cluster]:
    """Connect to a cluster, or start a local one with so many processors; it, or the connection, ends with the context.

    Raises:
        OperationalError: Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise OperationalError("Ray is not installed", "pip install 'pargate[ray]', or leave --executor out") from error
    address = address or os.environ.get("RAY_ADDRESS") or None
    try:
        with _own_handlers():
            if address is None:  # without `local`, one that somebody else started on this machine
                given: dict[str, Any] = {"address": "local", "num_cpus": processors, "include_dashboard": False}
            else:
                _reach(address)
                given = {"address": address}
            ray.init(log_to_driver=False, configure_logging=False, **given)
    except Exception as error:  # Ray raises several kinds
        raise OperationalError(
            f"the Ray cluster {address or 'on this machine'} does not answer: {type(error).__name__}",
            "check the address, such as 10.0.0.1:6379 or auto, and that the cluster runs",
        ) from error
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one that exits with 15."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
