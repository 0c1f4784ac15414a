"""Which arithmetic a run takes on a processor."""

from itertools import accumulate, chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_towers import config, model, pairs, viewer

from pargate.pipeline import clean

CPU = torch.device("cpu")


def chosen(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capability: str, seconds: dict[str, float], micro_batch: int = 8
) -> tuple[tuple[str, str], list[int]]:
    """What is taken where passes last `seconds`, the first of each kind a minute longer; and pairs of each pass."""
    lasting = chain.from_iterable((0.0, passed + extra) for passed in seconds.values() for extra in (60.0, 0.0))
    moments = accumulate(lasting)
    monkeypatch.setattr(clean, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    towers, some, counts = model(), pairs("synthetic:64"), []
    towers.register_forward_hook(lambda module, given, made: counts.append((len(given[0]), len(given[1]))))
    settings = config(batch_size=64, micro_batch=micro_batch)
    found = clean._precision(folder / "run.json", towers, viewer(settings, some, towers), some, CPU)
    assert all(parameter.grad is None for parameter in towers.parameters())
    assert all(images == captions for images, captions in counts)
    return found, [images for images, _ in counts]


@pytest.mark.parametrize(
    ("bf16", "taken", "said"),
    [(1.0, "bf16", "2.0 times"), (1.5, "bf16", "1.3 times"), (1.8, "fp32", "1.1 times"), (9.0, "fp32", "0.2 times")],
)
def test_the_faster_is_taken_by_passes_after_the_first(
    bf16: float, taken: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (found, reason), counts = chosen(monkeypatch, tmp_path, "AVX512", {"fp32": 2.0, "bf16": bf16})
    assert found == taken and said in reason and counts == [8] * 4


def test_it_is_tried_with_as_many_pairs_as_are_forwarded_at_a_time_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, counts = chosen(monkeypatch, tmp_path, "AVX512", {"fp32": 1.0, "bf16": 1.0}, micro_batch=64)
    assert counts == [clean.TRIED] * 4


def test_a_processor_without_bf16_is_not_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (found, reason), counts = chosen(monkeypatch, tmp_path, "AVX2", {})
    assert found == "fp32" and "no arithmetic for bf16" in reason and counts == []


@pytest.mark.parametrize("content", ["[]", "{}", "not json", '{"precision": "fp7"}', '{"precision": ["fp32"]}'])
def test_what_is_no_precision_is_not_taken_for_one(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(content)
    (found, reason), _ = chosen(monkeypatch, tmp_path, "AVX2", {})
    assert found == "fp32" and "no arithmetic for bf16" in reason


def test_an_interrupted_run_keeps_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"precision": "bf16"}')
    (found, reason), counts = chosen(monkeypatch, tmp_path, "AVX2", {})
    assert (found, counts) == ("bf16", []) and "interruption" in reason
