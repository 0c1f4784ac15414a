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


@dataclass(frozen=True, slots=True)
class Child:
    """A running scan."""

    process: "subprocess.Popen[bytes]"
    report: Path
    said: Path


def start(request: ScanRequest, work: Path, name: str, *, cache: Path | None, threads: int) -> Child:
    """Start a scan; its report and its output go to `work`.

    Raises:
        OperationalError: the process cannot be started.
    """
    report, said = work / f"{name}.json", work / f"{name}.txt"
    options = [
        f"--policy={request.policy.source}", f"--now={request.judging.today.isoformat()}",
        f"--seed={request.settings.seed}", f"--device={request.settings.device}", f"--cache={cache or 'off'}",
        f"--output=json={report}", "--quiet", "--no-color",
    ]  # fmt: skip
    for option in ("images", "classes", "reference", "arch"):
        if (value := getattr(request, option)) is not None:
            options.append(f"--{option}={value}")
    command = [sys.executable, "-P", "-m", "pargate", "scan", *options, "--", request.source]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PARGATE_")}
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        with said.open("wb") as stream:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, start_new_session=True
            )
    except OSError as error:
        raise OperationalError(f"cannot start a scan: {error.strerror}", "run fewer at once: --jobs 1") from error
    return Child(process, report, said)


def result(child: Child) -> tuple[ScanReport, bytes]:
    """Return the report of an ended scan, and its bytes.

    Raises:
        ScanEnded: the scan has no verdict.
    """
    code = child.process.returncode
    if code < 0:
        _end(child, signal.SIGTERM)  # the workers of the scan
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
        _end(child, signal.SIGTERM)
    until = time.monotonic() + GRACE_S
    try:
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, until - time.monotonic()))
    finally:  # also after a second signal
        for child in children:
            # Also if the scan itself has ended: one of its workers may ignore SIGTERM.
            _end(child, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        for child in children:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may wait for a disk or a device
                child.process.wait(GRACE_S)


def _end(child: Child, number: signal.Signals) -> None:
    if sys.platform == "win32":
        child.process.terminate()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, number)
