"""How a model was opened is kept in the cache: the next run opens it only when a vector is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from pargate.core.environment import computing
from pargate.core.model import Checkpoint, EncoderSpec, Pixels, Precision, Preprocess, Vectors
from pargate.errors import ExitCode, OpenedOtherwise
from pargate.files import BlockStore
from pargate.images.classes import ClassList
from pargate.scanning.choose import _Notes, _opened_before
from pargate.scanning.embed import CachedEncoder

RULE = Preprocess((8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = ClassList("names", ("a", "b"), ("a {}.",))
SPEC = EncoderSpec("toy 1", "toy", RULE, 3, 1 / 0.07, "fp32", "cpu", "gelu", None, 2)
NOTES = _Notes("gelu: so it is", "bf16: it is faster")


@dataclass(frozen=True)
class Tower:
    spec: EncoderSpec = SPEC

    def into_precision(self, precision: Precision) -> "Tower":
        return replace(self, spec=replace(self.spec, precision=precision))

    def put(self, pixels: Pixels) -> Pixels:
        return pixels

    def encode_images(self, batch: Pixels, stamp: object = None) -> Vectors:
        return np.eye(3, dtype=np.float32)[: len(batch)]

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return np.eye(3, dtype=np.float32)[[len(text) % 3 for text in texts]]


@dataclass
class Weights:
    """Stands for an open `Model`."""

    tower: Tower = Tower()
    known: bool = True
    opened: list[dict[str, object]] = field(default_factory=list)

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            "m", "m", "0" * 64, "1" * 64, 1, "safetensors", "toy", {}, RULE, (), activation_known=self.known
        )

    def encoder(self, **asked: object) -> Tower:
        self.opened.append(asked)
        return self.tower


def run(
    model: Weights, store: BlockStore, asked: str = "auto", digests: tuple[str, ...] = ("0" * 64,)
) -> tuple[CachedEncoder, Vectors, _Notes]:
    """Open a model in bf16, as a scan does."""

    def first() -> tuple[CachedEncoder, Vectors, _Notes]:
        cached = CachedEncoder(model.encoder(device="cpu"), model.checkpoint, store)
        head = cached.head(CLASSES)
        cached.into_precision("bf16")
        return cached, head, NOTES

    return _opened_before(model, store, "cpu", CLASSES, [asked], lambda: list(digests), first)  # type: ignore[arg-type]  # a stand-in


def test_a_model_that_was_opened_before_stays_closed_until_a_vector_is_missing(tmp_path: Path) -> None:
    first, again = Weights(), Weights()
    _, head, _ = run(first, BlockStore(tmp_path))
    cached, kept_head, notes = run(again, BlockStore(tmp_path))
    assert (len(first.opened), len(again.opened)) == (1, 0)
    assert notes == NOTES
    assert cached.spec == replace(SPEC, precision="bf16")
    np.testing.assert_array_equal(kept_head, head)
    assert cached.encode_texts(["another"]).shape == (1, 3)
    assert again.opened == [{"device": "cpu", "activation": "gelu"}]
    assert cached.encoder.spec == cached.spec
    assert len(again.opened) == 1


def test_a_machine_that_opens_it_otherwise_forgets_and_never_mixes_vectors(tmp_path: Path) -> None:
    run(Weights(), BlockStore(tmp_path))
    other = Weights(Tower(replace(SPEC, backend="toy 2")))
    cached, _, _ = run(other, BlockStore(tmp_path))
    with pytest.raises(OpenedOtherwise, match=r"m was opened on cpu with toy 1 when .* now on cpu with toy 2") as found:
        cached.encode_texts(["another"])
    assert found.value.exit_code == ExitCode.OPERATIONAL
    cached, _, _ = run(other, BlockStore(tmp_path))
    assert cached.spec.backend == "toy 2"
    assert len(other.opened) == 2


@pytest.mark.parametrize("known", [True, False])
def test_what_nothing_vouches_for_is_opened_each_time(known: bool, tmp_path: Path) -> None:
    store = BlockStore(None if known else tmp_path)
    models = [Weights(known=known) for _ in range(2)]
    for model in models:
        run(model, store)
    assert [len(model.opened) for model in models] == [1, 1]


def test_another_question_and_another_machine_open_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(Weights(), BlockStore(tmp_path))
    asked_otherwise, other_images, elsewhere = Weights(), Weights(), Weights()
    run(asked_otherwise, BlockStore(tmp_path), asked="fp32")
    run(other_images, BlockStore(tmp_path), digests=("1" * 64,))
    monkeypatch.setenv("OMP_NUM_THREADS", "63")
    run(elsewhere, BlockStore(tmp_path))
    assert [len(model.opened) for model in (asked_otherwise, other_images, elsewhere)] == [1, 1, 1]


def test_what_decides_how_torch_computes_is_stable(monkeypatch: pytest.MonkeyPatch) -> None:
    now = computing()
    assert computing() == now
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert computing() != now
