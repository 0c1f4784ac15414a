"""The bar of a long run on a terminal of 80 columns."""

import io
import time
from collections.abc import Callable
from contextlib import closing
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console as RichConsole
from rich.progress import Progress, ProgressColumn

from pargate import events
from pargate.cli import console as module
from pargate.cli import imports
from pargate.cli.console import Console


def drawn(monkeypatch: pytest.MonkeyPatch, *said: events.Event) -> str:
    """Return what the bar shows after some events, without colours."""
    kept: list[Progress] = []

    class Kept(Progress):
        def __init__(self, *columns: ProgressColumn, **options: Any) -> None:
            super().__init__(*columns, **options)
            kept.append(self)

    console = Console(quiet=False, verbose=False, color=True)
    monkeypatch.setattr(module, "Progress", Kept)
    monkeypatch.setattr(console, "_rich", module._Rich(file=io.StringIO(), width=80))
    monkeypatch.setattr(console, "_live", True)
    with console.progress() as listen:
        for event in said:
            listen(event)
        out = io.StringIO()
        RichConsole(file=out, width=80, color_system=None).print(kept[0].get_renderable())
    return out.getvalue()


def test_a_bar_and_its_times_live_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    long = events.StageStarted("certify", "/a/very/long/path/to/a/model/that/nobody/can/read/at/once/clean-0123456789")
    assert "clean-0123456789 " in drawn(monkeypatch, long), "of a path the end is shown"
    shown = drawn(monkeypatch, long, events.Advanced(3, 9, "12 of 25 decided, 192 images"))
    assert max(map(len, shown.splitlines())) <= 80
    assert "━" in shown and "certifying " in shown and "12 of 25 decided, 192 images " in shown and "at most" in shown


@pytest.mark.parametrize("stage", list(module.WORDS))
def test_no_number_of_a_bar_is_cut_at_80_columns(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = drawn(monkeypatch, events.StageStarted(stage), events.Advanced(3, 9, "12 of 25 decided, 192 images"))
    assert f"{module.WORDS[stage]} " in shown and "12 of 25 decided" in shown
    terms = {"loss": 9.81, "image_shift": 0.12, "text_shift": 0.01}
    step = events.TrainStep(3, 9, 0.1, terms, 593.0)
    assert "loss 9.81, 593 pairs/s " in drawn(monkeypatch, events.StageStarted(stage), step)


def test_no_number_of_a_stage_stays_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    first = events.Advanced(3, 9, "12 of 25 decided, 192 images")
    shown = drawn(monkeypatch, events.StageStarted("measure"), first, events.StageStarted("export", "onnx"))
    assert "exporting" in shown and "12 of 25" not in shown and "at most" not in shown


def loaded(monkeypatch: pytest.MonkeyPatch, done: int, *packages: str) -> Callable[[], None]:
    """Let Python have loaded some packages and 100 modules; return what loads `done` more."""
    modules = {**dict.fromkeys(packages), **dict.fromkeys(map(str, range(100 - len(packages))))}
    monkeypatch.setattr(imports, "sys", SimpleNamespace(modules=modules))
    monkeypatch.setattr(imports, "MODULES", 500)
    return lambda: modules.update(dict.fromkeys(map(str, range(100, 100 + done))))


def test_an_import_tells_what_is_left_by_the_modules_that_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    load, told = loaded(monkeypatch, 100), Queue[tuple[int, int, float]]()
    with closing(imports.Imports(lambda *now: told.put(now), 0.05)) as importing:
        importing.follow(events.StageStarted("open"))
        began = time.monotonic()
        load()
        done, total, left = told.get(timeout=10)
        assert (done, total) == (100, 400)
        assert 3 * 0.05 <= left <= 3 * (time.monotonic() - began + 0.1)  # a quarter is done, so three are left
        importing.follow(events.StageStarted("measure"))
        while not told.empty():
            told.get()
        time.sleep(0.2)
    assert told.empty()


@pytest.mark.parametrize(("done", "packages"), [(0, ()), (400, ()), (900, ()), (100, ("open_clip",))])
def test_nothing_is_told_where_nothing_is_imported(
    done: int, packages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, told = loaded(monkeypatch, done, *packages), []
    with closing(imports.Imports(lambda *now: told.append(now), 0.01)) as importing:
        importing.follow(events.StageStarted("open"))
        load()
        time.sleep(0.1)
    assert not told


def test_a_log_has_the_seconds_that_are_left_of_an_import(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load = loaded(monkeypatch, 300)
    monkeypatch.setattr(module, "PLAIN_EVERY_S", 0.05)
    with Console(quiet=False, verbose=False, color=False).progress() as listen:
        listen(events.StageStarted("open"))
        load()
        time.sleep(0.3)
    assert "importing torch and open_clip: 300 of about 400 modules, about 0 s left" in capsys.readouterr().err
