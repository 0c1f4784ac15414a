"""Which precision and which activation a scan settles on, with encoders that do as they are told."""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from pargate.core.model import Checkpoint, EncoderSpec, Pixels, Preprocess, Vectors
from pargate.errors import ExitCode, Undecided
from pargate.files import BlockStore
from pargate.images.classes import ClassList
from pargate.images.dataset import Item
from pargate.images.decode import Locator
from pargate.images.labelled import BLOCK, LabelledImages
from pargate.images.prefetch import Block
from pargate.models.torch import encoder as openclip
from pargate.scanning import choose as opening
from pargate.scanning.choose import checked_bf16, more_often_right, settle_activation

HEAD = np.eye(4, dtype=np.float32)
PIXELS = np.zeros((4, 8, 8, 3), dtype=np.uint8)
SPEC = EncoderSpec("fake", "fake", Preprocess((8, 8), (0, 0, 0), (1, 1, 1)), 4, 1.0, "fp32", "cpu", "gelu")
CPU = torch.device("cpu")


@dataclass
class FakeEncoder:
    """Gives fixed vectors."""

    vectors: Vectors
    spec: EncoderSpec = SPEC
    other: Any = None
    asked: list[str] = field(default_factory=list)

    def put(self, pixels: Pixels) -> Pixels:
        return pixels

    def encode_images(self, batch: Pixels, stamp: None = None) -> Vectors:
        return self.vectors

    def into_precision(self, precision: str) -> Any:
        self.asked.append(precision)
        return self.other


ANEW = FakeEncoder(HEAD)
"""What opening the model once more gives: the first one is converted by then."""


def again() -> Any:
    return ANEW


def pair(rough: Vectors) -> tuple[Any, FakeEncoder]:
    bf16 = FakeEncoder(rough, replace(SPEC, precision="bf16"))
    return FakeEncoder(HEAD, other=bf16), bf16


# --- precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capabilities", "onednn", "faster"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True, True),
        ({"amx_bf16": True}, False, False),
        ({"amx_bf16": False, "avx512_bf16": True}, True, False),
        ({"bf16": True, "architecture": "arm64"}, True, False),
        ({}, True, False),
    ],
)
def test_a_processor_takes_bf16_by_its_instructions(
    capabilities: dict[str, Any], onednn: bool, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    found, why = openclip.bf16_is_faster(CPU)
    assert found is faster and "AMX" in why


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_takes_bf16_where_it_computes_in_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def supported(including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return native

    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    found, why = openclip.bf16_is_faster(torch.device("cuda:0"))
    assert (found, asked) == (native, [False]) and "GPU" in why


def test_nothing_here_reads_a_clock() -> None:
    assert not hasattr(opening, "time")


def test_bf16_is_taken_where_it_agrees_and_the_note_says_why() -> None:
    exact, rough = pair(HEAD)
    chosen = checked_bf16(exact, PIXELS, HEAD, "this processor has it", again)
    assert chosen.encoder is rough
    assert chosen.note == "bf16: this processor has it, and it agrees with fp32 to a cosine of 1.0000 or more"


def test_fp32_stays_where_one_vector_of_bf16_is_off() -> None:
    off = HEAD.copy()
    off[3] = [0, 0, np.sin(0.05), np.cos(0.05)]  # a cosine of 0.99875
    exact, _ = pair(off)
    chosen = checked_bf16(exact, PIXELS, HEAD, "", again)
    assert chosen.encoder is ANEW
    assert "0.9988" in chosen.note


def test_fp32_stays_where_bf16_sees_another_class() -> None:
    near = np.float32(0.02)  # two classes almost alike: the cosine agrees, the class does not
    head = np.array([[1, near, 0, 0], [1, -near, 0, 0]], dtype=np.float32)
    exact = np.array([[1, near, 0, 0]], dtype=np.float32) / np.hypot(1, near)
    rough = exact * [1, -1, 1, 1]
    assert float((exact * rough).sum()) > opening.AGREEMENT
    first, _ = pair(rough.astype(np.float32))
    first.vectors = exact
    tight = head / np.linalg.norm(head, axis=1, keepdims=True) * 10  # margins beyond a tie
    chosen = checked_bf16(first, PIXELS, tight.astype(np.float32), "", again)
    assert chosen.encoder is ANEW
    assert "other classes" in chosen.note


def test_fp32_stays_where_bf16_is_not_finite() -> None:
    exact, _ = pair(np.full((4, 4), np.nan, dtype=np.float32))
    assert checked_bf16(exact, PIXELS, HEAD, "", again).encoder is ANEW


def test_fp32_stays_where_there_is_nothing_to_compare() -> None:
    exact, _ = pair(HEAD)
    assert checked_bf16(exact, PIXELS[:0], HEAD, "", again).encoder is exact
    assert exact.asked == []


# --- activation --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "losses", "better"),
    [(0, 0, None), (1, 0, None), (12, 0, None), (15, 0, 0), (0, 15, 1), (22, 23, None), (60, 10, 0), (10, 60, 1)],
)
def test_a_few_carriers_more_decide_nothing(wins: int, losses: int, better: int | None) -> None:
    first = np.array([True] * wins + [False] * losses + [True] * 100)
    second = np.array([False] * wins + [True] * losses + [True] * 100)
    assert more_often_right(first, second) == better


def test_two_that_are_alike_are_told_apart_in_at_most_one_of_a_thousand_runs_however_often_one_looks() -> None:
    draws = np.random.default_rng(0).random((2000, opening.LOOKED_AT)) < 0.5
    wrong = sum(
        any(more_often_right(row[:n], ~row[:n]) is not None for n in range(BLOCK, len(row) + 1, BLOCK)) for row in draws
    )
    assert wrong <= 6  # twice its mean and more: a chance below 1 %


@dataclass
class Seer:
    """Names the class that a picture's first pixel tells, or none where the activation is another than the second's.

    A second pixel of 0 lets both see, 1 only GELU, 2 only QuickGELU.
    """

    spec: EncoderSpec = SPEC

    def with_activation(self, activation: Any) -> "Seer":
        return Seer(replace(SPEC, activation=activation))

    def put(self, pixels: Pixels) -> Pixels:
        return pixels

    def encode_images(self, batch: Pixels, stamp: None = None) -> Vectors:
        told, who = batch[:, 0, 0, 0] % 3, batch[:, 0, 0, 1]
        blind = (who != 0) & (who != (1 if self.spec.activation == "gelu" else 2))
        return HEAD[np.where(blind, 3, told)]

    def encode_texts(self, texts: list[str]) -> Vectors:
        return HEAD[[int(text) for text in texts]]


def settled(who: list[int], labelled: bool = True, known: bool = False) -> Any:
    """The decision where picture i is seen by `who[i]`."""
    count = len(who)
    pixels = np.zeros((count, 8, 8, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1] = np.arange(count) % 3, who
    items = tuple(Item(str(i), Locator(str(i))) for i in range(count))
    labels = np.arange(count) % 3 if labelled else np.full(count, -1)
    carriers = LabelledImages("some", items, labels, ClassList("some", ("0", "1", "2", "3"), ("{}",)), 0)
    checkpoint = Checkpoint(
        "a.pt", "a.pt", "0" * 64, "1" * 64, 1, "torch-zip", "ViT-B-32", {}, SPEC.preprocess, (), known
    )

    def block(number: int) -> Block:
        rows = carriers.blocks[number]
        return Block(pixels[rows], tuple(str(row) for row in rows), rows, ())

    return settle_activation(Seer(), checkpoint, carriers, block, BlockStore(None))  # type: ignore[arg-type]


@pytest.mark.parametrize(("better", "name"), [(1, "gelu"), (2, "quick_gelu")])
def test_the_one_that_is_right_more_often_is_taken_and_both_figures_are_told(better: int, name: str) -> None:
    found = settled([better] * 20 + [0] * 300)
    assert found.encoder.spec.activation == name
    gelu, quick = (64, 44) if better == 1 else (44, 64)
    assert f"of 64 labelled images, GELU is right about {gelu} and QuickGELU about {quick}" in found.note


def test_as_many_blocks_are_looked_at_as_it_takes() -> None:
    found = settled(([2] * 4 + [0] * 60) * 6)
    assert found.encoder.spec.activation == "quick_gelu"
    assert "of 256 labelled images" in found.note


@pytest.mark.parametrize(
    ("who", "labelled", "said"),
    [
        ([0] * 31 + [2], True, "of 32 labelled images, GELU is right about 31 and QuickGELU about 32"),
        (([1, 2] + [0] * 62) * 12, True, "of 512 labelled images, GELU is right about 504 and QuickGELU about 504"),
        ([2] * 200, False, "of 0 labelled images, GELU is right about 0 and QuickGELU about 0"),
    ],
)
def test_where_carriers_do_not_tell_both_are_named_with_the_way_out(who: list[int], labelled: bool, said: str) -> None:
    with pytest.raises(Undecided) as refused:
        settled(who, labelled)
    assert refused.value.exit_code is ExitCode.INCONCLUSIVE
    assert said in refused.value.message
    assert "--arch ViT-B-32-gelu or --arch ViT-B-32-quickgelu" in refused.value.hint


def test_what_is_said_is_not_tried() -> None:
    found = settled([2] * 200, known=True)
    assert (found.encoder.spec.activation, found.note) == ("gelu", "")
