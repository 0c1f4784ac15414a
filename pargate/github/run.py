"""One model: pargate runs in a process of its own, and what it left behind is read.

The process prints between `::stop-commands::` lines and cannot reach the runner's files. Its exit code is believed only
where the report agrees with it.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

from pargate.errors import ExitCode, InputError, Interrupted, OperationalError
from pargate.github import runner as workflow
from pargate.github.inputs import PREFIX, Asked
from pargate.report import FORMATS

CODES = {"pass": 0, "remediated": 0, "inconclusive": 3, "fail": 1}
"""Verdicts from good to bad, with the exit code that belongs to each."""

BUNDLE = "bundle"

SUMS = "SHA256SUMS"

MOST_BYTES = 256 << 20
"""Bound of a report."""

_GRACE_S = 6
"""Seconds that a child has to write its partial report: GitHub kills everything 10 s after it cancels."""

_TAIL = 1 << 14

_HIDDEN = ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE", "GITHUB_STEP_SUMMARY", "GITHUB_TOKEN")


class Stopped(Interrupted):
    """The runner cancels; `number` is its signal."""

    def __init__(self, number: int) -> None:
        """Carry the signal."""
        super().__init__(
            "the runner cancelled; what was judged until then is in the reports", exit_code=ExitCode(128 + number)
        )
        self.number = number


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one model."""

    model: str
    folder: Path
    """Where its reports are."""
    code: int
    """As pargate ended, before `fail-on`."""
    verdict: str = ""
    """Empty where nothing was judged."""
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
    """Make the signals by which a runner cancels raise `Stopped`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)  # the second comes 7.5 s later, when all is said
    raise Stopped(number)


def judge(model: str, asked: Asked, folder: Path, environ: Mapping[str, str]) -> Judged:
    """Run pargate on `model`; its reports go to `folder`, and none of an earlier run stays there.

    Raises:
        InputError, OperationalError: `folder` cannot be made ready.
        Stopped: the runner cancels; the child had time to write what it had.
    """
    _clear(folder)
    with tempfile.TemporaryDirectory(dir=environ.get("RUNNER_TEMP") or None) as own:
        said, summary = Path(own, "annotations"), Path(own, "summary")
        outputs = {folder / FORMATS[name].file: name for name in asked.formats} | {said: "github", summary: "markdown"}
        command = [sys.executable, "-P", "-m", "pargate", asked.command]
        command += [part for path, name in outputs.items() for part in ("-o", f"{name}={path}")]
        for name in ("policy", "images", "classes", "pairs"):
            if value := getattr(asked, name):
                command += [f"--{name}", value]
        if asked.command == "gate":
            command += ["--out", str(folder / BUNDLE)]
        code, tail = _run([*command, *asked.arguments, "--", model], environ)
        found = Judged(model, folder, code, annotations=_text(said), markdown=_text(summary))
    return _with_report(found, tail)


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
    """The exit code, 128 and more for a signal, and the end of what was printed."""
    hidden = (*_HIDDEN, "PYTHONPATH", "PYTHONHOME")
    env = {
        name: value
        for name, value in environ.items()
        if name not in hidden and not name.startswith((PREFIX, "ACTIONS_"))
    }
    with workflow.quoted():
        # One stream, so that nothing arrives after commands are obeyed again.
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


def _with_report(found: Judged, tail: str) -> Judged:
    path = found.folder / FORMATS["json"].file
    verdict, weights, digest = _read(path)
    if found.code in CODES.values() and CODES.get(verdict) != found.code:
        message = f"pargate ended with {found.code}, and its report says '{verdict}'"
        return replace(found, code=int(ExitCode.BUG), message=message, annotations="", markdown="")
    if found.code not in CODES.values():
        return replace(found, message=_last_words(tail, found.code), annotations="", report=digest)
    sums = found.folder / BUNDLE / SUMS
    bundle = hashlib.sha256(sums.read_bytes()).hexdigest() if sums.is_file() else ""
    return replace(found, verdict=verdict, weights=weights, report=digest, bundle=bundle)


def _read(path: Path) -> tuple[str, str, str]:
    """Verdict, digest of the weights, and digest of a JSON report; empty where there is none that can be read."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return "", "", ""
        content = path.read_bytes()
        document: Any = json.loads(content)
        verdict, weights = document["verdict"]["status"], document["model"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "", "", ""
    known = verdict in CODES and isinstance(weights, str)
    return (verdict, weights, hashlib.sha256(content).hexdigest()) if known else ("", "", "")


def _last_words(tail: str, code: int) -> str:
    """The last message of a child, which may go over several lines; a sentence about the code where it said none."""
    lines = list(_lines(tail))
    starts = [number for number, line in enumerate(lines) if line.startswith("pargate: ")]
    if not starts:
        return f"pargate ended with {code} and said nothing"
    return " ".join(lines[starts[-1] :]).removeprefix("pargate: ")


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip():
            yield line.rstrip() if line.startswith("pargate: ") else line.strip()
