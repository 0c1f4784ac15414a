"""The real command, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"

# Importing any of these raises, loudly: nothing that catches an ImportError hides it.
WITHOUT_TORCH = """
import importlib.abc, importlib.machinery, sys
class Refusing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        heavy = name in ("torch", "torchvision", "timm", "transformers", "onnxruntime")
        return importlib.machinery.ModuleSpec(name, self) if heavy else None
    def exec_module(self, module):
        raise RuntimeError(f"{module.__name__} was imported")
sys.meta_path.insert(0, Refusing())
sys.argv[0] = "pargate"
from pargate.cli.app import main
main()
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


@pytest.fixture
def light(place: Path) -> Command:
    """The same, in an interpreter in which importing torch raises."""

    def run(*arguments: str | Path, **env: str) -> Ended:
        process = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)],
            cwd=place, env={**surroundings(place.parent / "tmp"), **env}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
        )  # fmt: skip
        return Ended(process.returncode, process.stdout, process.stderr)

    return run
