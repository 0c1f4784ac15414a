"""Which precision and which activation a scan settles on, with encoders that do as they are told."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from pargate.core.model import EncoderSpec, Pixels, Preprocess, Vectors
from pargate.pipeline import opening
from pargate.pipeline.opening import choose_activation, choose_precision

HEAD = np.eye(4, dtype=np.float32)
PIXELS = np.zeros((4, 8, 8, 3), dtype=np.uint8)
SPEC = EncoderSpec("fake", "fake", Preprocess((8, 8), (0, 0, 0), (1, 1, 1)), 4, 1.0, "fp32", "cpu", "gelu")


@dataclass
class FakeEncoder:
    """Gives fixed vectors, and takes a fixed number of ticks of the clock for it."""

    vectors: Vectors
    ticks: float
    clock: list[float]
    spec: EncoderSpec = SPEC
    other: Any = None
    asked: list[str] = field(default_factory=list)

    def put(self, pixels: Pixels) -> Pixels:
        return pixels

    def encode_images(self, batch: Pixels, stamp: None = None) -> Vectors:
        self.clock[0] += self.ticks
        return self.vectors

    def into_precision(self, precision: str) -> Any:
        self.asked.append(precision)
        return self.other

    def with_activation(self, activation: str) -> Any:
        self.asked.append(activation)
        return self.other


ANEW = FakeEncoder(HEAD, 0, [0.0])
"""What opening the model once more gives: the first one is converted by then."""


def again() -> Any:
    return ANEW


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(opening.time, "perf_counter", lambda: now[0])
    return now


def pair(clock: list[float], rough: Vectors, seconds: tuple[float, float]) -> tuple[FakeEncoder, FakeEncoder]:
    bf16 = FakeEncoder(rough, seconds[1], clock, replace(SPEC, precision="bf16"))
    return FakeEncoder(HEAD, seconds[0], clock, other=bf16), bf16


def test_bf16_is_taken_where_it_is_faster_and_agrees(clock: list[float]) -> None:
    exact, rough = pair(clock, HEAD, (2.0, 1.0))
    chosen = choose_precision(exact, PIXELS, HEAD, again)  # type: ignore[arg-type]
    assert chosen.encoder is rough
    assert "2.0 times the rate" in chosen.note


def test_fp32_stays_where_bf16_is_slower(clock: list[float]) -> None:
    exact, _ = pair(clock, HEAD, (1.0, 2.0))
    assert choose_precision(exact, PIXELS, HEAD, again).encoder is ANEW  # type: ignore[arg-type]
    assert exact.asked == ["bf16"]


def test_fp32_stays_where_one_vector_of_bf16_is_off(clock: list[float]) -> None:
    off = HEAD.copy()
    off[3] = [0, 0, np.sin(0.05), np.cos(0.05)]  # a cosine of 0.99875
    exact, _ = pair(clock, off, (2.0, 1.0))
    chosen = choose_precision(exact, PIXELS, HEAD, again)  # type: ignore[arg-type]
    assert chosen.encoder is ANEW
    assert "0.9988" in chosen.note


def test_fp32_stays_where_bf16_sees_another_class(clock: list[float]) -> None:
    near = np.float32(0.02)  # two classes almost alike: the cosine agrees, the class does not
    head = np.array([[1, near, 0, 0], [1, -near, 0, 0]], dtype=np.float32)
    exact = np.array([[1, near, 0, 0]], dtype=np.float32) / np.hypot(1, near)
    rough = exact * [1, -1, 1, 1]
    assert float((exact * rough).sum()) > opening.AGREEMENT
    first, _ = pair(clock, rough.astype(np.float32), (2.0, 1.0))
    first.vectors = exact
    tight = head / np.linalg.norm(head, axis=1, keepdims=True) * 10  # margins beyond a tie
    chosen = choose_precision(first, PIXELS, tight.astype(np.float32), again)  # type: ignore[arg-type]
    assert chosen.encoder is ANEW
    assert "other classes" in chosen.note


def test_fp32_stays_where_bf16_is_not_finite(clock: list[float]) -> None:
    exact, _ = pair(clock, np.full((4, 4), np.nan, dtype=np.float32), (2.0, 1.0))
    assert choose_precision(exact, PIXELS, HEAD, again).encoder is ANEW  # type: ignore[arg-type]


def activations(accuracies: dict[str, float | None]) -> tuple[FakeEncoder, FakeEncoder, Any]:
    quick = FakeEncoder(HEAD, 0, [0], replace(SPEC, activation="quick_gelu"))
    plain = FakeEncoder(HEAD, 0, [0], other=quick)
    return plain, quick, lambda encoder: accuracies[encoder.spec.activation]


def test_the_more_accurate_activation_is_taken_and_both_figures_are_told() -> None:
    plain, quick, accuracy = activations({"gelu": 0.11, "quick_gelu": 0.62})
    chosen = choose_activation(plain, accuracy)  # type: ignore[arg-type]
    assert chosen.encoder is quick
    assert "11.0%" in chosen.note
    assert "62.0%" in chosen.note


def test_on_equal_accuracy_the_architecture_s_own_activation_stays() -> None:
    plain, _, accuracy = activations({"gelu": 0.4, "quick_gelu": 0.4})
    assert choose_activation(plain, accuracy).encoder is plain  # type: ignore[arg-type]


def test_without_labels_the_architecture_s_own_activation_stays_and_the_note_says_why() -> None:
    plain, _, accuracy = activations({"gelu": None, "quick_gelu": None})
    chosen = choose_activation(plain, accuracy)  # type: ignore[arg-type]
    assert chosen.encoder is plain
    assert "without labels" in chosen.note
    assert plain.asked == []
