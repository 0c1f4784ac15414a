"""Scans in their own processes, so that a crash ends one scan alone.

Each process is a `pargate scan` that ignores modules in the working folder (`-P`) and `PARGATE_` variables. It leads
its own process group: the audit passes signals on, and ends the whole group with its decoding workers.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pargate.core.report import ScanReport
from pargate.errors import ExitCode, OperationalError, PargateError
from pargate.scanning.request import ScanRequest

GRACE_S = 2.0
"""Seconds between SIGTERM and SIGKILL. The files that a scan keeps are complete or absent at any moment."""

TAIL = 1 << 16
"""Bytes that are read from the end of a scan's output."""


class ScanEnded(PargateError):
    """A scan ended without a verdict."""

    def __init__(self, message: str, hint: str, exit_code: ExitCode) -> None:
        """Keep the exit code of the scan."""
        super().__init__(message, hint)
        self.exit_code = exit_code


class Child(Protocol):
    """A running scan."""

    @property
    def report(self) -> Path:
        """The file of the report, complete once the scan has ended."""

    @property
    def said(self) -> Path:
        """The file of the progress and the errors."""

    def code(self) -> int | None:
        """Return the exit code, negative for a signal; None while the scan runs."""

    def end(self, number: signal.Signals) -> None:
        """Send a signal to the scan and its workers, which may have ended."""

    def wait(self, seconds: float) -> None:
        """Wait for the end of the scan, so many seconds at most."""


class Starter(Protocol):
    """Starts the scans of an audit."""

    def __call__(self, request: ScanRequest, work: Path, name: str, cache: Path | None, threads: int) -> Child:
        """Start a scan; its report and its output go to `work`, under `name`.

        Raises:
            OperationalError: the scan cannot be started.
        """


@dataclass(frozen=True, slots=True)
class Process:
    """A scan in a process of this machine."""

    process: "subprocess.Popen[bytes]"
    report: Path
    said: Path

    def code(self) -> int | None:
        """Return the exit code, negative for a signal; None while the scan runs."""
        return self.process.poll()

    def end(self, number: signal.Signals) -> None:
        """Send a signal to the process group of the scan, which may have ended."""
        if sys.platform == "win32":
            self.process.terminate()
        else:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def wait(self, seconds: float) -> None:
        """Wait for the end of the scan, so many seconds at most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, seconds))


def arguments(request: ScanRequest, cache: Path | None) -> list[str]:
    """Return the arguments of a scan, all but its `--output`."""
    options = [
        f"--policy={request.policy.source}", f"--now={request.judging.today.isoformat()}",
        f"--seed={request.settings.seed}", f"--device={request.settings.device}", f"--cache={cache or 'off'}",
        "--no-color",
    ]  # fmt: skip
    for option in ("images", "classes", "reference", "arch"):
        if (value := getattr(request, option)) is not None:
            options.append(f"--{option}={value}")
    return [*options, "--", request.source]


def command(given: Sequence[str], report: Path) -> list[str]:
    """Return the command that scans, and writes a report."""
    return [sys.executable, "-P", "-m", "pargate", "scan", f"--output=json={report}", *given]


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a scan."""
    found = {k: v for k, v in os.environ.items() if not k.startswith("PARGATE_")}
    return {"OMP_NUM_THREADS": str(threads)} | found


def start(request: ScanRequest, work: Path, name: str, cache: Path | None, threads: int) -> Process:
    """Start a scan on this machine; its report and its output go to `work`.

    Raises:
        OperationalError: the process cannot be started.
    """
    report, said = work / f"{name}.json", work / f"{name}.txt"
    try:
        with said.open("wb") as stream:
            process = subprocess.Popen(
                command(arguments(request, cache), report), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=stream, env=environment(threads), start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise OperationalError(f"cannot start a scan: {error.strerror}", "run fewer at once: --jobs 1") from error
    return Process(process, report, said)


def result(child: Child) -> tuple[ScanReport, bytes]:
    """Return the report of an ended scan, and its bytes.

    Raises:
        ScanEnded: the scan has no verdict.
    """
    code = child.code()
    assert code is not None, "the scan has ended"
    if code < 0:
        child.end(signal.SIGTERM)  # the workers of the scan
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        raise ScanEnded(
            f"the scan was ended by {name}",
            "if memory ran out, give it more, or use --jobs 1",
            ExitCode.OPERATIONAL,
        )
    if code not in (ExitCode.OK, ExitCode.FAIL, ExitCode.INCONCLUSIVE):
        message, hint = _last_words(child.said)
        known = code in (ExitCode.INPUT, ExitCode.POLICY, ExitCode.OPERATIONAL, ExitCode.BUG)
        raise ScanEnded(
            message or f"the scan ended with {code}", hint, ExitCode(code) if known else ExitCode.OPERATIONAL
        )
    try:
        content = child.report.read_bytes()
        return ScanReport.from_json(content), content
    except (OSError, ValueError) as error:
        message, hint = _last_words(child.said)
        raise ScanEnded(
            f"the scan ended with {code} and left no report: {message or error}", hint, ExitCode.OPERATIONAL
        ) from error


def last_line(child: Child) -> str:
    """Return the last whole line that a running scan said, or an empty text."""
    try:
        with child.said.open("rb") as stream:
            stream.seek(max(0, child.said.stat().st_size - TAIL))
            lines = stream.read().decode("utf-8", "replace").split("\n")[:-1]
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")


def _last_words(path: Path) -> tuple[str, str]:
    """Return the last message of a command, and its hint."""
    try:
        content = path.read_bytes()[-TAIL:].decode("utf-8", "replace")
    except OSError:
        return "", ""
    _, found, words = content.rpartition("pargate: ")
    if not found:
        return content.strip()[-1000:], ""
    message, _, hint = words.strip().partition("\n  → ")
    return message[:2000], hint[:1000]


def stop(children: Sequence[Child]) -> None:
    """End scans with their workers."""
    for child in children:
        child.end(signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    try:
        for child in children:
            child.wait(until - time.monotonic())
    finally:  # also after a second signal
        for child in children:
            # Also if the scan itself has ended: one of its workers may ignore SIGTERM.
            child.end(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        for child in children:
            child.wait(GRACE_S)  # not for ever: it may wait for a disk or a device
