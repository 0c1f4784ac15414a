"""The run of pargate for one model, in its own process.

The process prints between `::stop-commands::` lines and does not get the runner's files. Its exit code counts only if
the report agrees with it.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from pargate import limits
from pargate.core.screen import ScreenReport
from pargate.errors import ExitCode, InputError, Interrupted, OperationalError
from pargate.github import runner as workflow
from pargate.github.inputs import PREFIX, Inputs
from pargate.report import FORMATS

CODES = {"pass": 0, "remediated": 0, "inconclusive": 3, "fail": 1}
"""Verdicts from best to worst, with their exit codes."""

BUNDLE = "bundle"

SCREENED = "screened"
"""Folder of a screening's contact sheet and lists."""

SUMS = "SHA256SUMS"

_GRACE_S = 6
"""Seconds for a child to write its partial report; GitHub kills all processes 10 s after it cancels."""

_TAIL = 1 << 14

_HIDDEN = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY", "GITHUB_TOKEN")


class Stopped(Interrupted):
    """The runner cancels the job; `number` is its signal."""

    def __init__(self, number: int) -> None:
        """Keep the signal."""
        super().__init__(
            "the runner cancelled the job; the reports hold the models judged so far", exit_code=ExitCode(128 + number)
        )
        self.number = number


@dataclass(frozen=True, slots=True)
class ModelRun:
    """The result of one model."""

    model: str
    folder: Path
    """Folder of its reports."""
    code: int
    """Exit code of pargate, before `fail-on`."""
    verdict: str = ""
    """Verdict; empty if nothing was judged."""
    weights: str = ""
    """SHA-256 of the weights."""
    report: str = ""
    """SHA-256 of the JSON report."""
    bundle: str = ""
    """SHA-256 of the checksums of the bundle."""
    message: str = ""
    """Why nothing was judged."""
    annotations: str = ""
    """Workflow commands."""
    markdown: str = ""
    """The report, for the summary."""


def obey_signals() -> None:
    """Make the signals of a cancelling runner raise `Stopped`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)  # the second signal comes 7.5 s later
    raise Stopped(number)


def judge(model: str, given: Inputs, folder: Path, environ: Mapping[str, str]) -> ModelRun:
    """Run pargate on `model`; its reports replace those in `folder`.

    Raises:
        InputError, OperationalError: `folder` cannot be prepared.
        Stopped: the runner cancels the job; the child may have written a partial report.
    """
    _clear(folder)
    with tempfile.TemporaryDirectory(dir=environ.get("RUNNER_TEMP") or None) as own:
        said, summary = Path(own, "annotations"), Path(own, "summary")
        formats = ("json",) if given.command == "screen" else given.formats
        outputs = {folder / FORMATS[name].file: name for name in formats} | {said: "github", summary: "markdown"}
        command = [sys.executable, "-P", "-m", "pargate", given.command]
        command += [part for path, name in outputs.items() for part in ("-o", f"{name}={path}")]
        options = {"policy": given.policy, "images": given.images, "classes": given.classes}
        judged = model
        if given.command == "gate":
            options |= {"pairs": given.pairs, "out": str(folder / BUNDLE)}
        elif given.command == "screen":
            options |= {"model": model, "out": str(folder / SCREENED)}
            judged = given.pairs
        command += [part for name, value in options.items() if value for part in (f"--{name}", value)]
        code, tail = _run([*command, *given.arguments, "--", judged], environ)
        found = ModelRun(model, folder, code, annotations=_text(said), markdown=_text(summary))
    return _with_report(found, tail, _read_screening if given.command == "screen" else _read)


def _clear(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise InputError(f"{folder} is a link", "remove it, or choose another output")
        for form in FORMATS.values():
            if form.file:
                (folder / form.file).unlink(missing_ok=True)
    except OSError as error:
        raise OperationalError(f"cannot write {folder}: {error.strerror}", "choose another output") from error


def _run(command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run a command; return its exit code, 128 and more for a signal, and the end of its output."""
    hidden = (*_HIDDEN, "PYTHONPATH", "PYTHONHOME")
    env = {
        name: value
        for name, value in environ.items()
        if name not in hidden and not name.startswith((PREFIX, "ACTIONS_"))
    }
    with workflow.quoted():
        # One stream, so that no output arrives after `::stop-commands::` ends.
        with subprocess.Popen(
            command, env={**env, "PYTHONSAFEPATH": "1"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            try:
                tail = _passed_on(child.stdout)
                code = child.wait()
            except Stopped as stopped:
                child.send_signal(stopped.number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.communicate(timeout=_GRACE_S)
                child.kill()
                raise
        return (code if code >= 0 else 128 - code), tail


def _passed_on(stream: IO[bytes]) -> str:
    tail = b""
    while chunk := os.read(stream.fileno(), 1 << 16):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        tail = (tail + chunk)[-_TAIL:]
    return tail.decode("utf-8", "backslashreplace")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _with_report(found: ModelRun, tail: str, read: Callable[[bytes], tuple[str, str]]) -> ModelRun:
    verdict, weights, digest = _reported(found.folder / FORMATS["json"].file, read)
    words = _last_words(tail)
    if read is _read_screening and found.code in _UNSCREENED and not digest and words:
        return replace(found, verdict=_UNSCREENED[found.code], message=words, annotations="", markdown="")
    if found.code in CODES.values() and CODES.get(verdict) != found.code:
        message = f"pargate ended with {found.code}, and its report says '{verdict}'"
        return replace(found, code=int(ExitCode.BUG), message=message, annotations="", markdown="")
    if found.code not in CODES.values():
        message = words or f"pargate ended with {found.code} and printed no message"
        return replace(found, message=message, annotations="", report=digest)
    sums = found.folder / BUNDLE / SUMS
    bundle = hashlib.sha256(sums.read_bytes()).hexdigest() if sums.is_file() else ""
    return replace(found, verdict=verdict, weights=weights, report=digest, bundle=bundle)


_UNSCREENED = {1: "fail", 3: "inconclusive"}
"""Verdicts of a screening without a report, by the exit code: it refused the model, or could decide nothing."""


def _read(content: bytes) -> tuple[str, str]:
    """Return the verdict and the digest of the weights of a report on a model."""
    document: Any = json.loads(content)
    return document["verdict"]["status"], document["model"]["sha256"]


def _read_screening(content: bytes) -> tuple[str, str]:
    """Return the same of a screening."""
    report = ScreenReport.model_validate_json(content)
    return "pass" if report.passed else "fail", report.model_sha256


def _reported(path: Path, read: Callable[[bytes], tuple[str, str]]) -> tuple[str, str, str]:
    """Return the verdict, the digest of the weights and the digest of a JSON report; empty if it cannot be read."""
    try:
        if path.stat().st_size > limits.ACTION_BYTES:
            return "", "", ""
        content = path.read_bytes()
        verdict, weights = read(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", "", ""
    known = verdict in CODES and isinstance(weights, str)
    return (verdict, weights, hashlib.sha256(content).hexdigest()) if known else ("", "", "")


def _last_words(tail: str) -> str:
    """Return the last message of a child; empty without one."""
    lines = list(_lines(tail))
    starts = [number for number, line in enumerate(lines) if line.startswith("pargate: ")]
    if not starts:
        return ""
    return " ".join(lines[starts[-1] :]).removeprefix("pargate: ")


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip():
            yield line.rstrip() if line.startswith("pargate: ") else line.strip()
