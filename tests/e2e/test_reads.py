"""How often a gate that passes reads and hashes the weights: bytes that were judged are not fetched a second time."""

import hashlib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from conftest import MODELS

from pargate.judge.judging import Judging
from pargate.policy.resolve import resolve
from pargate.release.gate import gate
from pargate.release.stages import GateRequest
from pargate.scanning.request import ScanRequest, ScanSettings

POLICY = """
pargate: 1
name: toy
images: {source: 'builtin:scenes'}
rules:
  - {id: patterns, probe: attack, triggers: [badnet], max: {excess: 40pp}}
  - {id: useful, probe: utility, min: {accuracy: 5x chance}}
export: {onnx: true, parity: {samples: 64}}
"""

WEIGHTS = "open_clip_model.safetensors"

READS: list[str] = []
"""Files of weights that were opened to be read, by name, while a gate is watched."""

WATCHED: list[bool] = []


def _note(event: str, given: tuple[Any, ...]) -> None:
    """Note a file that is opened to be read; one that is only flushed to disk is not read."""
    if not WATCHED or event != "open" or not isinstance(given[0], str | bytes | os.PathLike):
        return
    name = os.path.basename(os.fsdecode(given[0]))  # noqa: PTH119 - a path of any kind
    writes = given[2] & (os.O_WRONLY | os.O_RDWR)
    if name in (WEIGHTS, "image.onnx") and not writes and sys._getframe(1).f_code.co_name != "_flush":
        READS.append(name)


class Counted:
    """A SHA-256 that counts its bytes."""

    sizes: ClassVar["list[Counted]"] = []

    def __init__(self, content: bytes = b"", **options: Any) -> None:
        self.size = 0
        self._digest = PLAIN(**options)
        self.sizes.append(self)
        self.update(content)

    def update(self, content: Any) -> None:
        self.size += memoryview(content).nbytes
        self._digest.update(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._digest, name)


PLAIN: Any = hashlib.sha256


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Any:
    sys.addaudithook(_note)  # which stays, but notes nothing outside of this test
    READS.clear()
    Counted.sizes.clear()
    monkeypatch.setattr(hashlib, "sha256", Counted)
    monkeypatch.setattr(hashlib, "new", lambda name, *given, **options: Counted(*given, **options))
    WATCHED.append(True)
    yield
    WATCHED.clear()


def test_a_gate_that_passes_reads_the_weights_three_times(tmp_path: Path, watched: None) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    asked = ScanRequest(
        str(MODELS / "clean"), Judging(resolve(str(tmp_path / "policy.yaml")), datetime.now(UTC).date()),
        settings=ScanSettings("cpu"),
    )  # fmt: skip
    done = gate(GateRequest(asked, tmp_path / "release"))
    assert done.folder is not None, done.report.verdict
    size = (MODELS / "clean" / WEIGHTS).stat().st_size
    hashed = [entry.size for entry in Counted.sizes if entry.size == size]
    assert READS.count(WEIGHTS) == 3, "to be judged and scanned, to be written anew and exported, to be shipped"
    assert len(hashed) == 4, "as often, and while they were written"
    assert READS.count("image.onnx") == 3, "to be judged, proven and scanned, for the record, to be shipped"
