"""Scans as tasks of a Ray cluster; needs the extra `pargate[ray]`.

A task runs `pargate scan` in a process of its worker, in the folder of the audit, and returns the exit code, the report
and the output. The models and images must be there on every machine, such as on a shared file system. Ray repeats a
task whose worker died. Pages and ledger are written by the audit itself.
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pargate.audit.processes import Starter, arguments, command, environment
from pargate.cluster import SHARED, Cluster, connected
from pargate.errors import ExitCode, explain
from pargate.files import write_atomic
from pargate.scanning.request import ScanRequest

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
            hint = SHARED.format("the folder of the audit")
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

    cluster: Cluster
    promise: Any
    """That of the result."""
    report: Path
    said: Path
    _code: int | None = field(default=None, init=False)

    def code(self) -> int | None:
        """Return the exit code, negative for a signal; None while the task runs."""
        if self._code is None and self.cluster.ray.wait([self.promise], timeout=0)[0]:
            try:
                self._code, report, said = self.cluster.result(self.promise)
            except Exception as error:
                found = explain(error)
                self._code, report = found.exit_code, b""
                said = f"pargate: {found.message}\n  → {found.hint}".encode()
            write_atomic(self.said, said)
            write_atomic(self.report, report)
        return self._code

    def end(self, number: signal.Signals) -> None:
        """Cancel the task; the worker then ends the scan."""
        self.cluster.ray.cancel(self.promise, force=False)

    def wait(self, seconds: float) -> None:
        """Wait for the end of the task, so many seconds at most."""
        self.cluster.ray.wait([self.promise], timeout=max(0.0, seconds))


@contextlib.contextmanager
def opened(address: str | None, processors: int) -> Iterator[Starter]:
    """Connect to a cluster, or start a local one; yield what starts a scan there.

    Raises:
        OperationalError: Ray is not installed, or the cluster does not answer.
    """
    with connected(address, processors) as cluster:

        def start(request: ScanRequest, work: Path, name: str, cache: Path | None, threads: int) -> Task:
            advice = "raise --jobs, so that a scan takes fewer, or choose another --device"
            task = cluster.task(run, cluster.needs(request.settings.device, threads), advice)
            promise = task.remote(["--quiet", *arguments(request, cache)], str(Path.cwd()), threads)
            return Task(cluster, promise, work / f"{name}.json", work / f"{name}.txt")

        yield start
