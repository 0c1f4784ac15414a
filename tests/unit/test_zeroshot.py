"""The zero-shot head and its predictions, worked out by hand."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from pargate.core.zeroshot import ALIKE, Vectors, alike, head, predict, prompts, same_top1, unit


class Dictionary:
    """Knows the vectors of a few texts."""

    known: ClassVar = {
        "a cat": [1.0, 0.0],
        "one cat": [0.0, 1.0],
        "a dog": [0.0, -1.0],
        "one dog": [0.6, -0.8],
    }

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return np.array([self.known[text] for text in texts], dtype=np.float32)


HEAD = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], dtype=np.float32)


def test_prompts_go_through_the_templates_class_by_class() -> None:
    assert prompts(["cat", "dog"], ["a {}", "one {}"]) == ["a cat", "one cat", "a dog", "one dog"]


def test_a_template_is_filled_without_reading_the_name_as_a_template() -> None:
    assert prompts(["{0} {x}"], ["a {}.", "{} and {}"]) == ["a {0} {x}.", "{0} {x} and {0} {x}"]


def test_the_head_is_the_unit_mean_of_each_class() -> None:
    weights = head(Dictionary(), ["cat", "dog"], ["a {}", "one {}"])
    assert weights.dtype == np.float32
    dog = np.array([0.3, -0.9]) / np.hypot(0.3, 0.9)
    assert weights == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], dog]), abs=1e-6)


def test_one_template_gives_the_vectors_themselves() -> None:
    assert (head(Dictionary(), ["cat", "dog"], ["a {}"]) == [[1.0, 0.0], [0.0, -1.0]]).all()


def test_unit_rows_have_length_one_and_a_zero_row_stays_zero() -> None:
    assert (
        unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)) == np.array([[0.6, 0.8], [0.0, 0.0]], np.float32)
    ).all()


def test_an_image_belongs_to_the_class_of_the_highest_cosine() -> None:
    vectors = np.array([[0.9, 0.1], [0.1, 0.9], [-0.7, 0.5]], np.float32)
    assert predict(vectors, HEAD).tolist() == [0, 1, 2]


def test_of_equal_classes_the_first_is_taken() -> None:
    assert predict(np.array([[0.5, 0.5]], np.float32), HEAD).tolist() == [0]
    assert predict(np.array([[1.0, 0.0]], np.float32), HEAD[[1, 0, 0]]).tolist() == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_has_no_class(value: float) -> None:
    vectors = np.array([[1.0, 0.0], [value, 0.0], [0.0, value]], np.float32)
    assert predict(vectors, HEAD).tolist() == [0, -1, -1]


def test_a_class_that_is_not_finite_leaves_every_image_without_one() -> None:
    broken = HEAD.copy()
    broken[2] = np.nan
    assert predict(np.eye(2, dtype=np.float32), broken).tolist() == [-1, -1]


def test_two_encodings_agree_when_every_image_keeps_its_class() -> None:
    first = np.array([[0.9, 0.1], [0.1, 0.9]], np.float32)
    assert same_top1(first, first * 0.5, HEAD, 0.0)
    assert not same_top1(first, first[::-1], HEAD, 0.0)


def test_a_swap_within_the_tie_is_no_disagreement() -> None:
    first = np.array([[0.5005, 0.5]], np.float32)
    second = np.array([[0.5, 0.5005]], np.float32)
    assert same_top1(first, second, HEAD, 1e-3)
    assert not same_top1(first, second, HEAD, 1e-4)


def test_a_swap_that_one_encoding_is_sure_of_is_a_disagreement() -> None:
    sure, tied = np.array([[0.6, 0.5]], np.float32), np.array([[0.5, 0.5005]], np.float32)
    assert not same_top1(sure, tied, HEAD, 1e-3)
    assert not same_top1(tied, sure, HEAD, 1e-3)


@pytest.mark.parametrize("at", [0, 1021, 3000])
def test_classes_closer_than_the_limit_are_one_with_the_first_of_them(at: int) -> None:
    weights = unit(np.random.default_rng(0).standard_normal((4096, 64)).astype(np.float32))
    assert alike(weights) == {}
    # A step at a right angle to a unit vector, as long as wanted.
    step = weights[at + 9] - weights[at + 9] @ weights[at] * weights[at]
    weights[at + 3] = unit(weights[at] + 0.9 * ALIKE * unit(step))
    weights[at + 5] = unit(weights[at] - 1.1 * ALIKE * unit(step))
    weights[at + 1000] = weights[at]
    assert alike(weights) == {at + 3: at, at + 1000: at}


def test_classes_that_are_all_alike_are_one() -> None:
    assert alike(np.tile(np.array([[0.6, 0.8]], np.float32), (5, 1))) == dict.fromkeys([1, 2, 3, 4], 0)
