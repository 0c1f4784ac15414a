"""Every hostile file ends with the right code, one message, no code run and no log steered; all within their budget."""

import contextlib
import io
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_graphs
import hostile_images
import hostile_pickles
import hostile_places
import hostile_safetensors
import hostile_texts
import hostile_towers
import hostile_zips
import pytest
from made import CANARY, Case

from pargate.cli.app import run
from pargate.core.model import Preprocess
from pargate.errors import PargateError
from pargate.images.decode import decode
from pargate.models.open import open_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and limits of processes are those of POSIX")

SECONDS = 10
WAIT = 60
MIB_ABOVE = 1024

MODULES = (
    hostile_graphs, hostile_images, hostile_pickles, hostile_places, hostile_safetensors, hostile_texts, hostile_towers,
    hostile_zips,
)  # fmt: skip
CASES = [case for module in MODULES for case in module.cases()]
EVERY = 3
"""Of so many cases one is tested by day, and all by night."""
STEERING = re.compile(r"^\s*::|##\w*\[", re.MULTILINE)


def test_there_are_enough_and_each_has_its_name() -> None:
    names = [case.name for case in CASES]
    assert len(names) >= 500 * EVERY and len(set(names)) == len(names)


@pytest.fixture
def budget() -> Iterator[None]:
    """Ten seconds of the processor, a minute to wait, and a GiB of addresses above what is taken already."""

    def late(number: int, frame: object) -> None:
        raise AssertionError("not done in time")

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(WAIT)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (MIB_ABOVE << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (before, hard))
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def ended(arguments: list[str]) -> tuple[int, str]:
    """The exit code of a command that runs in this process, and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run(arguments)
    return int(code), said.getvalue()


def assert_refused(case: Case, code: int, said: str, place: Path) -> None:
    assert not list(place.rglob(CANARY)), "code of the file ran"
    assert code in case.codes, said[:2000]
    assert case.words in said, said[:2000]
    assert "Traceback" not in said and len(said) < 20_000
    assert not STEERING.search(said)
    assert not [c for c in said if not c.isprintable() and c not in "\n\u00a0"]
    if code not in (0, 3) and " REFUSED " not in said and "✗ " not in said:
        assert sum(line.startswith("pargate: ") for line in said.splitlines()) == 1, said[:2000]


def marked(cases: list[Case]) -> list[Any]:
    """The cases for pytest: those that are left to the night are marked."""
    return [
        pytest.param(
            case, id=ascii(case.name).replace(" ", "-"),
            marks=[pytest.mark.nightly] if case.heavy or number % EVERY else [],
        ) for number, case in enumerate(cases)
    ]  # fmt: skip


@pytest.mark.parametrize("case", marked(CASES))
@pytest.mark.usefixtures("budget")
def test_a_hostile_file_is_refused(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARGATE_CACHE", "off")
    arguments = case.build(tmp_path)
    assert_refused(case, *ended(arguments), tmp_path)


RUNNING = list(hostile_graphs.running())


@pytest.mark.parametrize("case", marked(RUNNING))
def test_a_graph_that_grows_or_never_ends_is_refused(case: Case, tmp_path: Path) -> None:
    case.build(tmp_path)
    with pytest.raises(PargateError) as raised, open_model(str(tmp_path / "onnx")) as model:
        model.graph_encoder(device="cpu")
    assert int(raised.value.exit_code) in case.codes
    assert ".onnx" in raised.value.message and len(raised.value.lines) == 1


RULE = Preprocess((64, 64), (0.5,) * 3, (0.5,) * 3, "bicubic", "shortest", 0)


@pytest.mark.parametrize("name", hostile_images.PICTURES, ids=lambda name: ascii(name).replace(" ", "-"))
@pytest.mark.usefixtures("budget")
def test_a_hostile_picture_is_a_problem_or_pixels(name: str) -> None:
    began = time.process_time()
    found = decode(hostile_images.PICTURES[name], RULE)
    assert (found.pixels is None) == bool(found.problem)
    assert found.pixels is None or found.pixels.shape == (64, 64, 3)
    assert time.process_time() - began < 5
