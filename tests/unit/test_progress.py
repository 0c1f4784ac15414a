"""The bar of a long run on a terminal of 80 columns."""

import io
from typing import Any

import pytest
from rich.console import Console as RichConsole
from rich.progress import Progress, ProgressColumn

from pargate import events
from pargate.cli import console as module
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
    shown = drawn(monkeypatch, long, events.Advanced(3, 9, "12 of 25 comparisons decided, 192 images"))
    assert max(map(len, shown.splitlines())) <= 80
    assert "━" in shown and "certifying" in shown and "12 of 25" in shown and "at most" in shown


def test_no_number_of_a_stage_stays_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    first = events.Advanced(3, 9, "12 of 25 comparisons decided, 192 images")
    shown = drawn(monkeypatch, events.StageStarted("measure"), first, events.StageStarted("export", "onnx"))
    assert "exporting" in shown and "12 of 25" not in shown and "at most" not in shown
