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
WITHOUT_TORCH = """
import importlib.abc, importlib.machinery, sys
class Refusing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        heavy = name in ("torch", "torchvision", "timm", "transformers", "onnxruntime")
        return importlib.machinery.ModuleSpec(name, self) if heavy else None
    def exec_module(self, module):
        raise RuntimeError(f"{module.__name__} was imported")
sys.meta_path.insert(0, Refusing())
from pargate.__main__ import main
import pargate.cli.app, pargate.cli.console, pargate.scanning.preview, pargate.scanning.run, pargate.report
"""

# Starts processes that need not import torch any more, which takes many times as long as a small model.
WITH_TORCH = """
import pargate.clean.run, pargate.clean.train.loop, pargate.cli.console
import pargate.models.torch.encoder, pargate.scanning.run
from pargate.__main__ import main
import pargate.cli.app
"""

# Each line read names a folder, two files for the streams, an environment, limits by their names in `resource`, and
# arguments; lines written are process numbers and exit codes by turns. Every command has a process of its own, forked
# from one that has imported most of what it needs already.
FORKING = """
import json, os, resource, sys
for line in sys.stdin:
    folder, out, err, env, limits, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        for name, most in limits.items():
            if name == "RLIMIT_AS":  # beyond what is taken already
                most += int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(getattr(resource, name), (most, most))
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
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything that it wrote: results, notes and errors."""
        return self.out + self.err


Command = Callable[..., Ended]


def surroundings(folder: Path) -> dict[str, str]:
    """An environment without settings of whoever runs the tests, and without a cache."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PARGATE") and k not in ("NO_COLOR", "FORCE_COLOR")}
    return {**kept, "PYTHONPATH": str(ROOT), "PARGATE_CACHE": "off", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}


@pytest.fixture(scope="session", autouse=True)
def hears_ctrl_c() -> None:
    """What a shell starts in the background is deaf to Ctrl-C, and so would be every command that is started here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


class Nursery:
    """A process that commands are forked from, one at a time."""

    def __init__(self, imports: str) -> None:
        """Begin to import."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", imports + FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, encoding="utf-8",
        )  # fmt: skip
        self._streams: tuple[Path, Path] | None = None

    def begin(self, place: Path, arguments: tuple[str | Path, ...], env: dict[str, str], limits: dict[str, int]) -> int:
        """Start `pargate ARGUMENTS` in `place`; its process number."""
        assert self._process.stdin is not None
        self._streams = place.parent / "out", place.parent / "err"
        for stream in self._streams:
            stream.write_text("")
        whole = {**surroundings(place.parent / "tmp"), **env}
        order = [str(place), *map(str, self._streams), whole, limits, [str(argument) for argument in arguments]]
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def end(self) -> Ended:
        """Wait for it."""
        code = int(self._line())
        assert self._streams is not None
        return Ended(code, *(stream.read_text(encoding="utf-8") for stream in self._streams))

    def close(self) -> None:
        """No more commands."""
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where `light` commands come from."""
    made = Nursery(WITHOUT_TORCH)
    yield made
    made.close()


@pytest.fixture(scope="session")
def warm_nursery() -> Iterator[Nursery]:
    """Where commands with torch come from."""
    made = Nursery(WITH_TORCH)
    yield made
    made.close()


@pytest.fixture
def light(place: Path, nursery: Nursery) -> Command:
    """Run `pargate ARGUMENTS` in `place`, where importing torch raises."""

    def run(*arguments: str | Path, **env: str) -> Ended:
        nursery.begin(place, arguments, env, {})
        return nursery.end()

    return run


@pytest.fixture
def warm(place: Path, warm_nursery: Nursery) -> Command:
    """Run `pargate ARGUMENTS` in `place`, with torch imported already."""

    def run(*arguments: str | Path, limits: dict[str, int] | None = None, **env: str) -> Ended:
        warm_nursery.begin(place, arguments, env, limits or {})
        return warm_nursery.end()

    return run
