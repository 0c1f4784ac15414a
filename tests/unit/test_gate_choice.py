"""Which cleaned model certifies, why the next attempt follows, which one is kept, and what the images can decide."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sample_reports import failing, inconclusive, passing

from pargate import events
from pargate.core.report import ScanReport, Stage
from pargate.core.results import PairedCounts
from pargate.judge.release import drop
from pargate.policy.fields import Limit
from pargate.policy.resolve import read
from pargate.release import stages
from pargate.release.gate import _best, outlook, span

POLICY = """
pargate: 1
name: gate
rules: [{id: patches, probe: attack, triggers: [badnet], max: {excess: 30pp}}]
clean: {when: fail, pairs: 'synthetic:', attempts: 3, budget: {accuracy_drop: 3pp}}
"""


def measured(lost: int, gained: int = 0, n: int = 512) -> Any:
    pairs = PairedCounts(baseline="cleaned", target="", n=n, both=n // 2, trigger_only=lost, baseline_only=gained)
    return drop(pairs, Limit(text="3pp", value=0.03), 0.99)


class Tried(stages.Run):
    """A gate whose attempts have known results: the report of each scan, and its loss of accuracy."""

    def __init__(self, *results: tuple[ScanReport, Any], out: Path = Path("release"), keep: bool = False) -> None:
        request: Any = SimpleNamespace(
            out=out, keep=keep, state=out.with_name(f"{out.name}.unfinished"), scan=SimpleNamespace()
        )
        self.said: list[str] = []
        super().__init__(request, read(POLICY, "policy.yaml", Path()), (), self.hear)
        self.results = results
        self.reasons: list[str] = []

    def hear(self, event: events.Event) -> None:
        if isinstance(event, events.Notice):
            self.said.append(event.message)

    def kind(self) -> Any:
        return "cpu"

    def pairs(self) -> Any:
        return None

    def clean(self, model: Any, attempt: int, sizes: Any, kind: Any, why: str) -> Any:
        self.reasons.append(why)
        self.done.append(Stage(name="clean", attempt=attempt, seconds=1.0, summary="done"))
        return SimpleNamespace(folder=self.request.state / f"clean-{attempt}", model=None, digest="", opened=None)

    def scan(self, stage: Any, *_: Any, attempt: int = 0, **__: Any) -> Any:
        report, found = self.results[attempt - 1]
        self.done.append(
            Stage(name=stage, attempt=attempt, seconds=1.0, summary="", examined=report.examined, drop=found)
        )
        self.reports.append(report)
        return stages.StageRecord(report=report, drop=found, seconds=1.0)

    def choose(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(stages, "sizes_of", lambda *_: None)
        return self.cleaned(SimpleNamespace(checkpoint=None))  # type: ignore[arg-type]


def test_a_cheap_candidate_is_taken_at_once_though_its_budget_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Tried((passing(), measured(20, 14)))
    assert run.results[0][1].status == "open"
    assert run.choose(monkeypatch).folder.name == "clean-1" and run.reasons == [""]


def test_a_dear_candidate_waits_for_a_better_one_and_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Tried((passing(), measured(34, 20)), (failing(), None), (passing(), measured(45, 30)))
    assert run.choose(monkeypatch).folder.name == "clean-1", "it lost least of those that may certify"
    assert "accuracy fell by 2.7%, more than half of the 3pp that it may" in run.reasons[1]
    assert run.reasons[2].startswith("attempt 2 fell short: ") and failing().verdict.summary in run.reasons[2]


def test_only_what_breaks_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    breaks = ((failing(), None), (passing(), measured(80)), (failing(), None))
    run = Tried(*breaks, out=tmp_path / "release")
    assert run.choose(monkeypatch) is None and _best(run.request, run) is None
    run = Tried(breaks[0], (inconclusive(), None), breaks[1], out=tmp_path / "release")
    assert run.choose(monkeypatch) is None, "an undecided candidate does not certify"
    for name in ("release.candidate", "release.candidate-2"):
        (run.request.state / "clean-2").mkdir(parents=True)
        assert _best(run.request, run) == tmp_path / name and (tmp_path / name).is_dir()
    kept = Tried(breaks[0], (inconclusive(), None), breaks[1], out=tmp_path / "release", keep=True)
    kept.choose(monkeypatch)
    assert _best(kept.request, kept) == kept.request.state / "clean-2", "with --keep-state it stays there"


def test_a_candidate_that_breaks_something_when_it_certifies_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for report, lost, kept in ((passing(), 35, True), (passing(), 120, False), (failing(), 0, False)):
        run = Tried((passing(), measured(0)), out=tmp_path / f"out-{lost}")
        run.choose(monkeypatch)
        run.results = ((report, measured(lost, n=1000)),)
        run.scan("certify", attempt=1)
        (run.request.state / "clean-1").mkdir(parents=True)
        assert (_best(run.request, run) is not None) is kept


def test_the_discordance_is_the_measured_one_after_the_first_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Tried((passing(), measured(20, 14)))
    assert run.discordance() == stages.paired.DISCORDANCE
    run.choose(monkeypatch)
    assert run.discordance() == pytest.approx(34 / 512)


@pytest.mark.parametrize(
    ("labelled", "said"),
    [
        (0, "no image that certifies has a label"),
        (300, "can hardly be ruled out unless accuracy rises"),
        (1000, "may stay undecided"),
        (
            1400,
            "1,400 labelled images certify: if accuracy is unchanged, that rules out a fall of 3 points with a chance",
        ),
        (9000, "9,000 labelled images certify, and accuracy is compared on about 5,440 of them: if accuracy is"),
    ],
)
def test_a_gate_says_before_it_runs_whether_it_can_decide(labelled: int, said: str) -> None:
    run = Tried()
    run.images["certify"] = SimpleNamespace(labels=np.array([0] * labelled + [-1] * 9))  # type: ignore[assignment]
    assert said in outlook(run)
    assert ("About 1,383 are needed, 2,766 images in all" in outlook(run)) is (0 < labelled < 1383)


@pytest.mark.parametrize(
    ("minutes", "said"),
    [(0.2, "1 minute"), (12.5, "13 minutes"), (60, "1 hour"), (100, "2 hours"), (1440, "1 day"), (5000, "4 days")],
)
def test_a_time_is_said_in_the_unit_that_suits_it(minutes: float, said: str) -> None:
    assert span(minutes) == said
