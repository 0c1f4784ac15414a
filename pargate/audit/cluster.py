"""Scans as tasks of a Ray cluster; needs the extra `pargate[ray]`.

A task runs `pargate scan` in a process of its worker, in the folder of the audit, and returns the exit code, the report
and the output. The models and images must be there on every machine, such as on a shared file system. Ray repeats a
task whose worker died. Pages and ledger are written by the audit itself.
"""

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pargate.audit.processes import Starter, arguments, command, environment
from pargate.errors import ExitCode, OperationalError
from pargate.files import write_atomic
from pargate.scanning.request import ScanRequest

RETRIES = 2
"""Times that a task is repeated whose worker died."""

ANSWER_S = 10
"""Seconds that a cluster has to answer."""

Ended = tuple[int, bytes, bytes]
"""Exit code, report and output of a scan."""


def run(given: list[str], folder: str, threads: int) -> Ended:
    """Scan in a process of this worker."""
    with tempfile.TemporaryDirectory(prefix="pargate-") as place:
        report = Path(place) / "report.json"
        try:
            with subprocess.Popen(
                command(given, report), cwd=folder, env=environment(threads), preexec_fn=_end_with_the_worker,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            ) as process:  # fmt: skip
                try:
                    said, _ = process.communicate()
                except BaseException:  # such as a cancelled task
                    process.terminate()
                    raise
        except FileNotFoundError as error:
            hint = "run the audit in a folder that every machine has, such as on a shared file system"
            return ExitCode.OPERATIONAL, b"", f"pargate: a worker has no {error.filename}\n  → {hint}".encode()
        return process.returncode, report.read_bytes() if report.exists() else b"", said


def _end_with_the_worker() -> None:
    """Ask the system to end this process when the worker dies: Ray then repeats the task elsewhere."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@dataclass(slots=True)
class Task:
    """A scan that a worker runs."""

    ray: Any
    """The module."""
    reference: Any
    """The promise of the result."""
    report: Path
    said: Path
    _code: int | None = field(default=None, init=False)

    def code(self) -> int | None:
        """Return the exit code, negative for a signal; None while the task runs."""
        if self._code is None and self.ray.wait([self.reference], timeout=0)[0]:
            try:
                self._code, report, said = self.ray.get(self.reference)
            except self.ray.exceptions.RayError as error:
                hint = "if memory ran out, give the workers more, or run fewer scans at once with --jobs"
                said = f"pargate: the worker of the scan was lost: {type(error).__name__}\n  → {hint}".encode()
                self._code, report = ExitCode.OPERATIONAL, b""
            write_atomic(self.said, said)
            write_atomic(self.report, report)
        return self._code

    def end(self, number: signal.Signals) -> None:
        """Cancel the task; the worker then ends the scan."""
        self.ray.cancel(self.reference, force=False)

    def wait(self, seconds: float) -> None:
        """Wait for the end of the task, so many seconds at most."""
        self.ray.wait([self.reference], timeout=max(0.0, seconds))


def _reach(address: str) -> None:
    """Raise if nothing listens at an address of the form `HOST:PORT`, which Ray itself would try for minutes.

    Raises:
        OSError: as above.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.rpartition("/")[2], int(port)), timeout=ANSWER_S).close()


@contextlib.contextmanager
def opened(address: str | None, processors: int) -> Iterator[Starter]:
    """Connect to a cluster, or start a local one; yield what starts a scan there.

    Raises:
        OperationalError: Ray is not installed, or the cluster does not answer.
    """
    try:
        import ray
    except ImportError as error:
        raise OperationalError("Ray is not installed", "pip install 'pargate[ray]', or leave --executor out") from error
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    try:
        if address is None:
            ray.init(num_cpus=processors, **quiet)
        else:
            _reach(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # Ray raises several kinds
        raise OperationalError(
            f"the Ray cluster {address or 'on this machine'} does not answer: {type(error).__name__}",
            "check the address, such as 10.0.0.1:6379 or auto, and that the cluster runs",
        ) from error
    devices = ray.cluster_resources().get("GPU", 0) > 0
    task = ray.remote(run)

    def start(request: ScanRequest, work: Path, name: str, cache: Path | None, threads: int) -> Task:
        device = request.settings.device
        graphics = 1 if device.startswith("cuda") or (device == "auto" and devices) else 0
        options = task.options(num_cpus=threads, num_gpus=graphics, max_retries=RETRIES, retry_exceptions=False)
        reference = options.remote(["--quiet", *arguments(request, cache)], str(Path.cwd()), threads)
        return Task(ray, reference, work / f"{name}.json", work / f"{name}.txt")

    try:
        yield start
    finally:
        ray.shutdown()
