"""The code a process ends with, whatever happens to it: from its first import to the last report."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pargate.cli.options import Output
from pargate.cli.reports import write
from pargate.core.report import ScanReport
from pargate.errors import ExitCode

ROOT = Path(__file__).parents[2]
CLEAN = ROOT / "examples" / "models" / "clean"
POISONED = ROOT / "examples" / "models" / "poisoned"
SAVED = ROOT / "tests" / "golden" / "report_v1.json"

POLICY = (
    "pargate: 1\nname: x\nconfidence: 99%\nrules:\n"
    "  - {id: a, probe: attack, triggers: [badnet], target: unknown, max: {excess: 30pp}}\n"
)

# Stands for a module of the command line, and does something else than to be imported.
INSTEAD = """
import importlib.abc, importlib.machinery, os, signal, sys, time
class PanicException(BaseException): pass
class Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == "pargate.cli.app" else None
    def exec_module(self, module):
        {do}
sys.meta_path.insert(0, Instead())
from pargate.__main__ import main
main()
"""


def ended(*command: str | Path, limits: dict[int, int] | None = None, cwd: Path, **env: str) -> tuple[int, str]:
    """Exit code and stderr of a process under limits."""

    def limit() -> None:
        for name, most in (limits or {}).items():
            resource.setrlimit(name, (most, most))

    done = subprocess.run(
        list(map(str, command)), cwd=cwd, preexec_fn=limit if limits else None, capture_output=True, text=True,
        check=False, timeout=240,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PARGATE_CACHE": "off", **env},
    )  # fmt: skip
    return done.returncode, done.stderr


PARGATE = (sys.executable, "-P", "-m", "pargate")


@pytest.mark.parametrize(
    ("do", "code", "words"),
    [
        ("raise MemoryError", 5, "out of memory"),
        ("raise ImportError('libx.so: failed to map segment from shared object')", 5, "ulimit -v"),
        ("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')", 5, "install pargate again"),
        ("raise BlockingIOError(11, 'Resource temporarily unavailable')", 5, "ulimit -u"),
        ("raise FileNotFoundError(2, 'No usable temporary directory found in [...]')", 5, "--tmpfs /tmp"),
        ("raise PanicException('x')", 70, "a bug in pargate: PanicException: x"),
        ("raise SystemExit(1)", 70, "a bug in pargate: SystemExit: 1"),
        ("raise ZeroDivisionError", 70, "a bug in pargate: ZeroDivisionError"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", 143, "terminated"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(9)", 130, "interrupted"),
        # As OpenBLAS and OpenMP end a process for which there is too little memory, or no thread.
        ("import ctypes; ctypes.CDLL(None).exit(1)", 5, "a library ended the process"),
    ],
)
def test_whatever_an_import_does_the_code_is_of_the_table(do: str, code: int, words: str, tmp_path: Path) -> None:
    found, err = ended(sys.executable, "-c", INSTEAD.format(do=do), cwd=tmp_path, TMPDIR=str(tmp_path))
    assert found == code, err
    assert words in err and "Traceback" not in err
    assert sum(line.startswith("pargate: ") for line in err.splitlines()) == 1


def test_the_action_ends_in_the_same_way(tmp_path: Path) -> None:
    script = INSTEAD.replace("from pargate.__main__ import main\nmain()", "import runpy\nrunpy.run_module({run})")
    script = script.replace('"pargate.cli.app"', '"pargate.github.action"')
    run = "'pargate.github', run_name='__main__'"
    for do, code in (("raise MemoryError", 5), ("raise PanicException", 70), ("module.main = lambda: 3", 3)):
        found, err = ended(sys.executable, "-c", script.format(do=do, run=run), cwd=tmp_path, TMPDIR=str(tmp_path))
        assert found == code, err
        assert "Traceback" not in err


def test_what_runs_at_the_end_of_an_interpreter_changes_no_code(tmp_path: Path) -> None:
    do = "import atexit, ctypes; module.run = lambda _: 3; atexit.register(lambda: ctypes.CDLL(None).exit(1))"
    # A library's end comes before ours: then it is not known whether everything was written.
    assert ended(sys.executable, "-c", INSTEAD.format(do=do), cwd=tmp_path)[0] == 5
    do = "import atexit; module.run = lambda _: 3; atexit.register(lambda: 1 / 0)"
    assert ended(sys.executable, "-c", INSTEAD.format(do=do), cwd=tmp_path)[0] == 3


def test_a_code_comes_out_as_it_was_decided(tmp_path: Path) -> None:
    for code in (*ExitCode, 137):
        do = f"print('said'); module.run = lambda _: {int(code)}"
        assert ended(sys.executable, "-c", INSTEAD.format(do=do), cwd=tmp_path) == (int(code), "")


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are obeyed on Linux alone")


@needs_linux
def test_too_little_memory_is_no_verdict(tmp_path: Path) -> None:
    """OpenBLAS calls exit(1) here; 1 would say that the file could run code."""
    command = [sys.executable, "-P", "-m", "pargate", "inspect", CLEAN]
    for megabytes in (110, 120):
        code, err = ended(*command, limits={resource.RLIMIT_AS: megabytes << 20}, cwd=tmp_path)
        assert code == 5, err
        assert "ulimit -v" in err and "Traceback" not in err


@needs_linux
def test_too_little_memory_for_torch_is_trouble_with_the_machine(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(POLICY)
    limits = {resource.RLIMIT_AS: 600 << 20}
    code, err = ended(*PARGATE, "scan", CLEAN, "-p", "p.yaml", limits=limits, cwd=tmp_path)
    assert code == 5, err
    assert "ulimit -v" in err and "a bug" not in err and "Traceback" not in err


@needs_linux
def test_no_further_process_is_trouble_with_the_machine(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become somebody who may start no process")
    (tmp_path / "p.yaml").write_text(POLICY)
    # Somebody else who may nevertheless read and write what is root's.
    caps = "+dac_override,+dac_read_search"
    nobody = [
        "setpriv",
        "--reuid=54321",
        "--regid=54321",
        "--clear-groups",
        f"--inh-caps={caps}",
        f"--ambient-caps={caps}",
    ]
    if ended(*nobody, "true", cwd=tmp_path)[0] != 0:
        pytest.skip("capabilities cannot be handed on here")
    limits = {resource.RLIMIT_NPROC: 1}
    code, err = ended(*nobody, *PARGATE, "scan", CLEAN, "-p", "p.yaml", limits=limits, cwd=tmp_path)
    assert code == 5, err
    assert "a bug" not in err and "Traceback" not in err


def mounted(script: str, cwd: Path, *arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr of a shell with mounts of its own, in which "$@" are the arguments."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no namespaces for mounts here")
    return ended("unshare", "-m", "sh", "-ec", script, "sh", *arguments, cwd=cwd)


@needs_linux
def test_a_file_that_is_mounted_by_itself_is_overwritten(tmp_path: Path) -> None:
    """As `docker run -v host.json:/report.json` gives it: rename answers EBUSY."""
    for name in ("host.json", "report.json"):
        (tmp_path / name).write_text("old " * 10_000)
    script = 'mount --bind host.json report.json; exec "$@"'
    code, err = mounted(script, tmp_path, *PARGATE, "inspect", CLEAN, "-o", "json=report.json")
    assert code == 0, err
    assert json.loads((tmp_path / "host.json").read_text())["format"] == "safetensors"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host.json", "report.json"]


@needs_linux
def test_a_mounted_file_that_may_only_be_read_is_refused_before_the_work(tmp_path: Path) -> None:
    for name in ("host.json", "report.json"):
        (tmp_path / name).write_text("old")
    script = 'mount --bind host.json report.json; mount -o remount,bind,ro report.json; exec "$@"'
    code, err = mounted(script, tmp_path, *PARGATE, "inspect", CLEAN, "-o", "json=report.json")
    assert code == 2, err
    assert "cannot write report.json: Read-only file system" in err
    assert (tmp_path / "host.json").read_text() == "old"


@needs_linux
def test_a_system_without_a_folder_for_temporary_files_says_what_to_mount(tmp_path: Path) -> None:
    """As `docker run --read-only` gives it."""
    (tmp_path / "p.yaml").write_text(POLICY)
    script = (
        "for d in /tmp /var/tmp /dev/shm; do if test -d $d; then "
        "mount --bind $d $d; mount -o remount,bind,ro $d; fi; done; "
        'cd /proc; unset TMPDIR TORCHINDUCTOR_CACHE_DIR; exec "$@"'
    )
    code, err = mounted(script, tmp_path, *PARGATE, "scan", CLEAN, "-p", tmp_path / "p.yaml")
    assert code == 5, err
    assert "--tmpfs /tmp" in err and "a bug" not in err


# --- reports ---


@pytest.mark.parametrize("name", ["r" * 246 + ".json", "é" * 125 + ".json"])
def test_a_name_as_long_as_the_file_system_takes_is_written(name: str, place: Path, light: Any) -> None:
    assert light("inspect", CLEAN, "-o", f"json={name}").code == 0
    assert json.loads((place / name).read_text())["format"] == "safetensors"
    assert [path.name for path in place.iterdir()] == [name]


NAMES: list[Callable[[Path], str]] = [
    lambda _: "r" * 300 + ".json",
    lambda _: "a/" * 2500 + "r.json",
    lambda place: str(place),
    lambda _: "file/r.json",
    lambda _: "loop",
    lambda _: "nowhere/r.json",
]


@pytest.mark.parametrize("name", NAMES, ids=["long", "longer", "folder", "below-a-file", "loop", "no-folder"])
def test_a_place_that_no_report_can_have_is_refused_before_the_work(
    name: Callable[[Path], str], place: Path, light: Any
) -> None:
    (place / "file").touch()
    (place / "loop").symlink_to("loop")
    for arguments in (
        ["inspect", CLEAN, "-o", f"json={name(place)}"],
        ["scan", CLEAN, "-o", f"html={name(place)}"],
        ["triggers", "--preview", name(place)],
    ):
        done = light(*arguments)
        assert done.code == 2, done.err
        assert done.err.startswith("pargate: cannot write ") and done.err.count("pargate: ") == 1
    assert sorted(path.name for path in place.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize("name", NAMES[:2], ids=["long", "longer"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["scan", "{}", "--dry-run"], ["inspect", "{}"], ["report", "{}"], ["verify", "{}"], ["policy", "check", "{}"],
        ["scan", CLEAN, "--images", "{}", "--dry-run"], ["scan", CLEAN, "--classes", "{}", "--dry-run"],
        ["scan", CLEAN, "--reference", "{}", "--dry-run"], ["scan", CLEAN, "--previous", "{}", "--dry-run"],
        ["gate", CLEAN, "--out", "{}", "--dry-run"], ["audit", "{}", "--out", "o"], ["audit", "verify", "{}"],
        ["triggers", "--preview", "p.png", "--on", "{}"], ["init", "github", "{}"],
    ],
    ids=lambda given: "-".join(map(str, given[:2])).replace(str(CLEAN), given[2] if len(given) > 2 else ""),
)  # fmt: skip
def test_a_path_that_is_too_long_is_bad_input(
    arguments: list[str | Path], name: Callable[[Path], str], place: Path, light: Any
) -> None:
    done = light(*(str(part).format(name(place)) for part in arguments))
    assert done.code in (2, 4), done.err  # 4 where it names a policy
    assert done.err.startswith("pargate: ") and "Traceback" not in done.said
    assert done.code == 2 or arguments[0] == "policy"


class Console:
    """Stands for the one that prints."""

    def to_stdout(self, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wrote(self, output: Output) -> None:
        pass


def saved() -> ScanReport:
    return ScanReport.from_json(SAVED.read_bytes())


def test_a_report_that_cannot_have_its_place_is_written_elsewhere_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pargate.ending.os.dup2", lambda *_: None)  # stdout belongs to the tests
    outputs = [
        Output("json", tmp_path / "gone" / "r.json"), Output("html", tmp_path / "r.html"), Output("markdown", None),
    ]  # fmt: skip
    assert write(outputs, saved(), Console()) is ExitCode.OPERATIONAL  # type: ignore[arg-type]
    assert (tmp_path / "r.html").is_file()
    (kept,) = tmp_path.glob("pargate-*-report.json")
    assert ScanReport.from_json(kept.read_bytes()) == saved()
    (text,) = tmp_path.glob("pargate-*-report.markdown")
    assert text.stat().st_size > 0
    err = capsys.readouterr().err
    assert f"pargate: cannot write {tmp_path / 'gone' / 'r.json'}: No such file or directory\n" in err
    assert f"  → the report is in {kept}\n" in err and f"  → the report is in {text}\n" in err


@pytest.mark.parametrize(
    ("model", "arguments", "code"), [(CLEAN, [], 5), (POISONED, [], 1), (POISONED, ["--exit-zero"], 5)]
)
def test_a_lost_place_turns_no_failure_into_a_pass_and_no_pass_into_silence(
    model: Path, arguments: list[str], code: int, place: Path, start: Any
) -> None:
    """The folder of the report goes while the scan runs."""
    (place / "gone").mkdir()
    (place / "p.yaml").write_text(POLICY.replace("badnet", "{kind: triangles, scale: proportional}"))
    with start("scan", model, "-p", "p.yaml", "-o", "json=gone/r.json", "--cache", "cache", *arguments) as process:
        while process.poll() is None and not list(place.glob("cache/*/*")):
            time.sleep(0.05)
        shutil.rmtree(place / "gone")
        out, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    (kept,) = place.glob("pargate-*-report.json")
    assert "pargate: cannot write gone/r.json" in err and f"the report is in {kept}" in err
    assert (" PASS " if model == CLEAN else " FAIL ") in out


def test_sigterm_at_any_moment_of_the_start_has_its_code(tmp_path: Path) -> None:
    for delay in (0.0, 0.03, 0.06, 0.1, 0.2, 0.4):
        with subprocess.Popen(
            [*PARGATE, "scan", str(CLEAN)], cwd=tmp_path, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PARGATE_CACHE": "off"},
        ) as process:  # fmt: skip
            time.sleep(delay)
            process.terminate()
            _, err = process.communicate(timeout=60)
        # Before our first line the system answers; a shell shows that as 143 too.
        assert process.returncode in (ExitCode.SIGTERM, -signal.SIGTERM), err
        assert "Traceback" not in err


DROPPED = """\
import os, signal, sys, time
from pargate.ending import end_with

class Ending:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.2)

def command():
    Ending()
    time.sleep(20)
    return 0

end_with(lambda: command)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_within_a_destructor_is_not_lost(name: str, code: int) -> None:
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", DROPPED.format(name=name)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code and "Traceback" not in ended.stderr
    assert time.monotonic() - began < 15
