"""What a scan in a process of its own leaves behind, whatever ended it."""

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from pargate import events
from pargate.audit import cluster
from pargate.audit.inventory import load
from pargate.audit.processes import Process, ScanEnded, last_line, result, stop
from pargate.audit.run import AuditRequest, audit
from pargate.cli.audit import _listener
from pargate.cli.console import Console
from pargate.errors import ExitCode, OperationalError

REPORTS = Path(__file__).parents[1] / "golden" / "reports"


def child(folder: Path, program: str) -> Process:
    said = folder / "said"
    with said.open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-c", program], stderr=stream, start_new_session=True)
    return Process(process, folder / "report.json", said)


def ended(folder: Path, program: str) -> ScanEnded:
    found = child(folder, program)
    found.process.wait()
    with pytest.raises(ScanEnded) as error:
        result(found)
    return error.value


def test_a_scan_that_was_killed_says_by_what(tmp_path: Path) -> None:
    error = ended(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert error.exit_code == ExitCode.OPERATIONAL and "SIGKILL" in error.message and "memory" in error.hint


@pytest.mark.parametrize(("code", "kept"), [(2, 2), (4, 4), (5, 5), (70, 70), (99, 5), (130, 5)])
def test_a_scan_that_could_not_judge_hands_on_its_message_and_code(code: int, kept: int, tmp_path: Path) -> None:
    said = "a warning of some library\\npargate: no such file: x\\n  \\u2192 check it\\n"
    error = ended(
        tmp_path, f"import sys; sys.stderr.reconfigure(encoding='utf-8'); sys.stderr.write('{said}'); sys.exit({code})"
    )
    assert (error.exit_code, error.message, error.hint) == (kept, "no such file: x", "check it")


@pytest.mark.parametrize(
    ("said", "line"),
    [("", ""), ("block 1 of", ""), ("opening\nblock 1 of 9\nblock 2", "block 1 of 9"), ("é\n\n", "é")],
)
def test_the_last_whole_line_of_a_running_scan_tells_how_far_it_is(said: str, line: str, tmp_path: Path) -> None:
    found = child(tmp_path, "")
    found.process.wait()
    assert last_line(Process(found.process, found.report, tmp_path / "none")) == ""
    found.said.write_text(said, encoding="utf-8")
    assert last_line(found) == line


@pytest.mark.parametrize("content", [None, "", "{}", "[1]"])
def test_a_scan_without_a_readable_report_is_no_verdict_whatever_its_code(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    assert ended(tmp_path, "").exit_code == ExitCode.OPERATIONAL


def test_a_verdict_comes_with_the_bytes_of_its_report(tmp_path: Path) -> None:
    content = (REPORTS / "failing.json").read_bytes()
    (tmp_path / "report.json").write_bytes(content)
    found = child(tmp_path, "import sys; sys.exit(1)")
    found.process.wait()
    report, same = result(found)
    assert same == content and report.verdict.status == "fail"


def test_scans_that_are_stopped_end_with_all_that_they_started(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    program = (
        "import subprocess, sys, pathlib, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {deaf!r}])\n"
        f"pathlib.Path({str(started)!r}).write_text(str(p.pid))\n"
        "time.sleep(60)\n"
    )
    found = child(tmp_path, program)
    until = time.monotonic() + 30
    while not (started.exists() and started.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    stop([found])
    assert found.process.returncode == -signal.SIGTERM
    # What is killed is gone a moment later.
    until = time.monotonic() + 30
    while (left := state(int(started.read_text()))) is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert left is None


def state(pid: int) -> str | None:
    """What a process does, or nothing where it has ended, also if it waits for somebody to ask how."""
    try:
        found = psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return None
    return None if found == psutil.STATUS_ZOMBIE else found


def test_a_ray_address_where_nothing_listens_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))  # which is not asked
    with (
        pytest.raises(OperationalError, match=r"the Ray cluster 127\.0\.0\.1:1 does not answer: ConnectionRefused"),
        cluster.opened("127.0.0.1:1", 1),
    ):
        pass


def test_a_worker_without_the_model_says_so(tmp_path: Path) -> None:
    code, report, said = cluster.run(["models/away"], str(tmp_path), 1)
    assert (code, report) == (ExitCode.INPUT, b"")
    assert b"models/away" in said and b"Traceback" not in said


def test_an_audit_tells_what_its_running_scan_said_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[2]
    (tmp_path / "inventory.yaml").write_text(
        f"inventory: 1\ndefaults: {{owner: a@example.org, policy: '{root}/examples/policy.yaml'}}\n"
        f"models: [{{name: toy, model: '{root}/examples/models/clean'}}]\n"
    )
    started = datetime(2026, 1, 31, tzinfo=UTC)
    request = AuditRequest(
        load(tmp_path / "inventory.yaml"), tmp_path, tmp_path, started, started.date(), lambda: started
    )
    program = "import sys, time; print('block 3 of 9', file=sys.stderr, flush=True); time.sleep(2); sys.exit(5)"
    monkeypatch.setattr("pargate.audit.processes.start", lambda *given: child(tmp_path, program))
    told: list[events.Event] = []
    console = Console(quiet=True, verbose=False, color=False)
    audit(request, _listener(console, told.append))
    assert told[0] == events.StageStarted("audit")
    assert events.Advanced(0, 1, "toy: block 3 of 9", "model") in told
