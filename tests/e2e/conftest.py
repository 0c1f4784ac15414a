"""The real command, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"

# Starts processes without torch: importing it raises, loudly, so that nothing that catches an ImportError hides it.
# Each line read names a folder, two files for the streams, an environment and arguments; each line written is an exit
# code. Every command has a process of its own, forked from one that has imported the light half already.
WITHOUT_TORCH = """
import importlib.abc, importlib.machinery, json, os, sys
class Refusing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        heavy = name in ("torch", "torchvision", "timm", "transformers", "onnxruntime")
        return importlib.machinery.ModuleSpec(name, self) if heavy else None
    def exec_module(self, module):
        raise RuntimeError(f"{module.__name__} was imported")
sys.meta_path.insert(0, Refusing())
from pargate.cli.app import main
import pargate.cli.console, pargate.pipeline.preview, pargate.pipeline.scan, pargate.report
for line in sys.stdin:
    folder, out, err, env, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        for name, number in (("/dev/null", 0), (out, 1), (err, 2)):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
        sys.argv = ["pargate", *arguments]
        code = 99
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def surroundings(folder: Path) -> dict[str, str]:
    """An environment without settings of whoever runs the tests, and without a cache."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PARGATE") and k not in ("NO_COLOR", "FORCE_COLOR")}
    return {**kept, "PYTHONPATH": str(ROOT), "PARGATE_CACHE": "off", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An empty working folder; logs go elsewhere."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def start(place: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `pargate ARGUMENTS` in `place`, in a process group of its own."""

    def run(*arguments: str | Path, **env: str) -> subprocess.Popen[str]:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # What a shell starts in the background is deaf to Ctrl-C, and so would be all that is started from here.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return subprocess.Popen(
            [sys.executable, "-m", "pargate", *map(str, arguments)],
            cwd=place, env={**surroundings(place.parent / "tmp"), **env}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", start_new_session=True,
        )  # fmt: skip

    return run


@pytest.fixture
def pargate(start: Callable[..., subprocess.Popen[str]]) -> Command:
    """Run `pargate ARGUMENTS` in `place` to its end."""

    def run(*arguments: str | Path, **env: str) -> Ended:
        with start(*arguments, **env) as process:
            out, err = process.communicate(timeout=240)
        return Ended(process.returncode, out, err)

    return run


@pytest.fixture(scope="session")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The process that `light` commands are forked from."""
    with subprocess.Popen(
        [sys.executable, "-c", WITHOUT_TORCH], env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
    ) as process:  # fmt: skip
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def light(place: Path, nursery: subprocess.Popen[str]) -> Command:
    """Run `pargate ARGUMENTS` in `place`, where importing torch raises."""

    def run(*arguments: str | Path, **env: str) -> Ended:
        assert nursery.stdin is not None and nursery.stdout is not None
        out, err = place.parent / "out", place.parent / "err"
        for stream in (out, err):
            stream.write_text("")
        whole = {**surroundings(place.parent / "tmp"), **env}
        order = [str(place), str(out), str(err), whole, [str(argument) for argument in arguments]]
        nursery.stdin.write(json.dumps(order) + "\n")
        nursery.stdin.flush()
        code = int(nursery.stdout.readline())
        return Ended(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    return run
