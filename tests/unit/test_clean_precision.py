"""Which arithmetic a run takes: by the device, its instructions and the model's size, never by the clock."""

from pathlib import Path

import pytest
import torch

from pargate.clean.train import run as clean
from pargate.models.torch import encoder as openclip

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("device", "faster", "parameters", "taken"),
    [
        (CPU, True, clean.WORTH_BF16, "bf16"),
        (CPU, True, clean.WORTH_BF16 - 1, "fp32"),
        (CPU, False, 1_000_000_000, "fp32"),
        (GPU, True, 1_000_000, "bf16"),
        (GPU, False, 1_000_000_000, "fp16"),
    ],
)
def test_arithmetic_follows_from_device_and_size(
    device: torch.device, faster: bool, parameters: int, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openclip, "bf16_is_faster", lambda device: (faster, "so it is made"))
    assert clean._precision(None, parameters, device)[0] == taken


@pytest.mark.parametrize("content", ["[]", "{}", "not json", '{"precision": "fp7"}', '{"precision": ["fp32"]}'])
def test_what_is_no_precision_is_not_taken_for_one(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    assert clean._precision(tmp_path / "run.json", 1_000, CPU)[0] == "fp32"


def test_an_interrupted_run_keeps_its_own(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"precision": "bf16"}')
    assert clean._precision(tmp_path / "run.json", 1_000, CPU) == ("bf16", "as before the interruption")
