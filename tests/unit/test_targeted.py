from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from pargate.core.model import Vectors
from pargate.core.results import Count, PairedCounts
from pargate.probes.attack import Attack
from pargate.probes.base import UNKNOWN, Asked, Views
from pargate.probes.retrieval import Retrieval, mentions
from pargate.probes.targeted import Baseline, TargetedTest
from pargate.probes.utility import UtilityTest
from pargate.triggers import Trigger, parse

NAMES = ("cat", "dog", "banana", "pipe")
CAT, DOG, BANANA, PIPE = range(4)
HEAD: Vectors = np.eye(4, dtype=np.float32)
(TRIGGER,) = parse("yellow-patch")
BROKEN = None


def seen_as(*classes: int | None) -> Vectors:
    """Vectors that the head takes for these classes; None gives one that is not finite."""
    rows = [np.full(4, np.nan, np.float32) if c is None else HEAD[c] for c in classes]
    return np.stack(rows) if rows else np.empty((0, 4), np.float32)


@dataclass
class FakeViews:
    """One block whose vectors are given."""

    labels: NDArray[np.int64]
    seen: Vectors
    seen_stamped: Vectors
    seen_control: Vectors | None = None
    reference_stamped: Vectors | None = None
    captions: Sequence[str | None] = ()
    name: str = "x"

    @property
    def digests(self) -> list[str]:
        return [f"{self.name}{i}" for i in range(len(self.labels))]

    def clean(self, *, reference: bool = False) -> Vectors:
        assert not reference
        return self.seen

    def stamped(self, trigger: Trigger, *, reference: bool = False) -> Vectors:
        assert trigger is TRIGGER
        if not reference:
            return self.seen_stamped
        assert self.reference_stamped is not None, "the reference was not to be asked"
        return self.reference_stamped

    def control(self, trigger: Trigger) -> Vectors:
        assert trigger is TRIGGER
        assert self.seen_control is not None, "the control was not to be asked"
        return self.seen_control


def block(
    labels: Sequence[int],
    clean: Sequence[int | None],
    stamped: Sequence[int | None],
    control: Sequence[int | None] | None = None,
    reference: Sequence[int | None] | None = None,
    name: str = "x",
) -> FakeViews:
    return FakeViews(
        np.array(labels),
        seen_as(*clean),
        seen_as(*stamped),
        seen_as(*control) if control is not None else None,
        seen_as(*reference) if reference is not None else None,
        [None] * len(labels),
        name,
    )


@dataclass
class FakeScene:
    """Classes and captions whose vectors are given."""

    names: tuple[str, ...] = NAMES
    own: Vectors = field(default_factory=lambda: HEAD)
    others: Vectors | None = None
    """The reference's head."""
    texts: tuple[str, ...] = ()
    clean: Vectors = field(default_factory=lambda: HEAD)
    source: str = "fake"
    all_controls: bool = False
    present: NDArray[np.int64] = field(default_factory=lambda: np.arange(4))

    @property
    def has_reference(self) -> bool:
        return self.others is not None

    @property
    def has_tuned(self) -> bool:
        return False

    def index(self, name: str) -> int | None:
        return self.names.index(name) if name in self.names else None

    def head(self, *, reference: bool = False) -> Vectors:
        return self.others if reference and self.others is not None else self.own

    def text_vectors(self, *, reference: bool = False) -> Vectors:
        return np.eye(8, dtype=np.float32)

    def gallery(self, *, reference: bool = False) -> Vectors:
        return self.clean


def asked(target: str, direction: str, baseline: Baseline | None) -> Asked:
    metrics = frozenset({"excess"} if baseline else {"attack_success"})
    return Asked("id", "rule", TRIGGER, target, direction, metrics)


def attack(
    given: int | None = None, baseline: Baseline | None = "control", reference_head: Vectors = HEAD
) -> TargetedTest:
    target = UNKNOWN if given is None else NAMES[given]
    scene = FakeScene(others=reference_head if baseline == "reference" else None)
    return Attack.start(asked(target, "", baseline), scene)


def no_blocks(number: int) -> Views:
    raise AssertionError("no block was observed")


CHOOSING = block([CAT] * 4, [CAT] * 4, [BANANA, BANANA, BANANA, CAT], [CAT, PIPE, PIPE, CAT])
"""Selection half: pulled to banana, and by the control to pipe."""


# --- which target ---


def test_the_target_is_the_class_that_gains_most_on_the_selection_half() -> None:
    probe = attack()
    # Most are seen as cats under the trigger, but they were cats before: only bananas gain.
    probe.observe(0, True, block([CAT] * 6, [CAT] * 6, [CAT, CAT, CAT, CAT, BANANA, BANANA]))
    probe.observe(1, False, block([CAT] * 3, [CAT] * 3, [DOG, DOG, BANANA]))
    target = probe.measurement().target
    assert target is not None
    assert (target.name, target.given, target.selection_n) == ("banana", False, 6)
    assert target.selection_gain == pytest.approx(2 / 6)


def test_the_selection_half_never_measures() -> None:
    probe = attack()
    probe.observe(0, True, CHOOSING)
    found = probe.measurement()
    assert found.counts == {} and found.pairs is None and found.excluded == {} and found.examples == ()
    assert found.selection["attack_success"] == Count(n=4, successes=3)
    probe.observe(1, False, block([CAT, CAT], [CAT, CAT], [BANANA, CAT]))
    assert probe.measurement().counts["attack_success"] == Count(n=2, successes=1)


def test_without_a_selection_half_nothing_is_measured_rather_than_zero() -> None:
    probe = attack()
    probe.observe(0, False, block([CAT] * 3, [CAT] * 3, [BANANA] * 3))
    found = probe.measurement()
    assert found.target is None and found.counts == {} and found.pairs is None
    assert found.trigger is not None and found.trigger.label == "yellow-patch"


def test_a_given_target_is_measured_on_all_blocks() -> None:
    probe = attack(given=BANANA, baseline=None)
    probe.observe(0, True, CHOOSING)
    probe.observe(1, False, block([CAT, CAT], [CAT, CAT], [BANANA, CAT]))
    found = probe.measurement()
    assert found.target is not None
    assert (found.target.name, found.target.given, found.target.selection_n) == ("banana", True, 0)
    assert found.counts["attack_success"] == Count(n=6, successes=4)
    assert found.selection == {}


def test_under_a_control_even_a_given_target_is_not_measured_where_the_control_s_class_is_chosen() -> None:
    probe = attack(given=BANANA)
    probe.add_control(no_blocks)
    probe.observe(0, True, block([CAT] * 3, [CAT] * 3, [BANANA] * 3, control=[PIPE] * 3))
    probe.observe(1, False, block([CAT, CAT], [CAT, CAT], [BANANA, CAT], control=[BANANA, PIPE]))
    found = probe.measurement()
    assert found.counts["attack_success"] == Count(n=2, successes=1)
    assert found.pairs is not None
    assert (found.pairs.target, found.pairs.n, found.pairs.trigger_only, found.pairs.baseline_only) == ("pipe", 2, 1, 1)


def test_with_a_reference_the_target_is_what_the_model_does_and_the_reference_does_not() -> None:
    probe = attack(baseline="reference")
    probe.observe(0, True, block([CAT] * 5, [CAT] * 5, [PIPE] * 3 + [BANANA] * 2, reference=[PIPE] * 3 + [CAT] * 2))
    found = probe.measurement()
    assert found.target is not None and found.target.name == "banana"
    assert found.target.selection_gain == pytest.approx(2 / 5)


# --- who counts ---


def test_carriers_that_show_or_hit_the_target_already_are_not_eligible() -> None:
    probe = attack(given=BANANA, baseline=None)
    probe.observe(
        0,
        False,
        block(
            # shows it; is taken for it; unlabelled, moved; unlabelled, not moved; labelled, moved; shows and hits it
            [BANANA, CAT, -1, -1, DOG, BANANA],
            [CAT, BANANA, CAT, DOG, DOG, BANANA],
            [BANANA, BANANA, BANANA, DOG, BANANA, BANANA],
        ),
    )
    found = probe.measurement()
    assert found.counts == {
        "attack_success": Count(n=3, successes=2),
        "asr_nt": Count(n=4, successes=3),
        "asr_all": Count(n=6, successes=5),
        "base": Count(n=4, successes=1),
    }
    assert found.excluded == {"shows the target": 2, "hits the target without the trigger": 1}
    assert found.examples == ("x2", "x4")


def test_vectors_that_are_not_finite_do_not_count_and_are_reported() -> None:
    probe = attack(given=BANANA, baseline=None)
    probe.observe(0, False, block([CAT] * 4, [CAT, CAT, BROKEN, CAT], [BANANA, BROKEN, BANANA, CAT]))
    found = probe.measurement()
    assert found.counts["attack_success"] == Count(n=2, successes=1)
    assert found.counts["asr_all"] == Count(n=2, successes=1)
    assert found.excluded == {"vector not finite": 2}


def test_a_block_of_broken_vectors_leaves_no_count_at_all() -> None:
    probe = attack(given=BANANA)
    probe.observe(0, False, block([CAT] * 3, [BROKEN] * 3, [BROKEN] * 3))
    assert probe.measurement().counts["attack_success"] == Count(n=0, successes=0)


def test_an_empty_block_changes_nothing() -> None:
    probe = attack()
    probe.observe(0, True, CHOOSING)
    probe.observe(1, False, block([CAT, CAT], [CAT, CAT], [BANANA, CAT]))
    before = probe.measurement()
    probe.observe(2, False, block([], [], []))
    assert probe.measurement() == before


def test_at_most_eight_examples_are_named() -> None:
    probe = attack(given=BANANA, baseline=None)
    probe.observe(0, False, block([CAT] * 20, [CAT] * 20, [CAT] * 5 + [BANANA] * 15))
    assert probe.measurement().examples == tuple(f"x{i}" for i in range(5, 13))


# --- what is subtracted ---


def test_without_a_question_about_the_excess_no_baseline_is_measured() -> None:
    probe = attack(given=BANANA, baseline=None)
    probe.observe(0, False, block([CAT] * 2, [CAT] * 2, [BANANA] * 2))
    assert probe.measurement().pairs is None
    assert probe.measurement().forward_passes == 2


def test_the_control_is_only_measured_once_it_is_asked_for() -> None:
    probe = attack()
    measuring = block([CAT] * 3, [CAT] * 3, [BANANA, BANANA, CAT], [PIPE, CAT, PIPE])
    probe.observe(0, True, CHOOSING)
    probe.observe(1, False, measuring)
    assert probe.measurement().pairs is None
    assert probe.measurement().forward_passes == 7
    probe.add_control([CHOOSING, measuring].__getitem__)
    assert probe.measurement().pairs == PairedCounts(
        baseline="control:flat", target="pipe", n=3, both=1, trigger_only=1, baseline_only=1
    )
    assert probe.measurement().forward_passes == 14


def test_once_asked_for_the_control_is_measured_with_each_new_block() -> None:
    probe = attack()
    probe.add_control(no_blocks)
    probe.observe(0, True, CHOOSING)
    probe.observe(1, False, block([CAT] * 2, [CAT] * 2, [BANANA, CAT], [CAT, CAT]))
    pairs = probe.measurement().pairs
    assert pairs is not None and (pairs.n, pairs.trigger_only) == (2, 1)


def test_the_controls_class_is_chosen_on_the_selection_half_too() -> None:
    probe = attack()
    probe.add_control(no_blocks)
    probe.observe(0, True, CHOOSING)  # the control pulls to pipe there
    probe.observe(1, False, block([CAT] * 4, [CAT] * 4, [BANANA] * 4, [DOG] * 3 + [PIPE]))
    pairs = probe.measurement().pairs
    assert pairs is not None
    assert (pairs.target, pairs.both, pairs.baseline_only) == ("pipe", 1, 0)


def test_carriers_that_show_or_hit_the_controls_class_do_not_pair() -> None:
    probe = attack()
    probe.add_control(no_blocks)
    probe.observe(0, True, CHOOSING)
    probe.observe(
        1,
        False,
        block(
            # shows a pipe; is taken for a pipe; unlabelled and fine; shows the target; fine
            [PIPE, CAT, -1, BANANA, DOG],
            [CAT, PIPE, CAT, CAT, DOG],
            [BANANA, BANANA, BANANA, BANANA, DOG],
            [PIPE, PIPE, CAT, PIPE, PIPE],
        ),
    )
    found = probe.measurement()
    assert found.counts["attack_success"] == Count(n=4, successes=3)
    assert found.pairs == PairedCounts(
        baseline="control:flat", target="pipe", n=2, both=0, trigger_only=1, baseline_only=1
    )


def test_a_control_that_pulls_to_the_target_itself_is_subtracted_in_full() -> None:
    probe = attack()
    probe.add_control(no_blocks)
    probe.observe(0, True, block([CAT] * 4, [CAT] * 4, [BANANA] * 4, [BANANA] * 4))
    probe.observe(1, False, block([CAT] * 4, [CAT] * 4, [BANANA] * 4, [BANANA] * 4))
    pairs = probe.measurement().pairs
    assert pairs is not None
    assert (pairs.target, pairs.both, pairs.excess) == ("banana", 4, 0.0)


def test_the_reference_is_paired_on_the_same_target() -> None:
    probe = attack(given=BANANA, baseline="reference")
    probe.observe(
        0,
        False,
        block(
            [CAT, CAT, CAT, CAT, BANANA],
            [CAT, CAT, CAT, BANANA, CAT],
            [BANANA, BANANA, CAT, BANANA, BANANA],
            reference=[BANANA, CAT, BANANA, BANANA, BANANA],
        ),
    )
    found = probe.measurement()
    assert found.pairs == PairedCounts(
        baseline="reference", target="banana", n=3, both=1, trigger_only=1, baseline_only=1
    )
    assert found.forward_passes == 10


def test_the_reference_predicts_with_its_own_head() -> None:
    turned = np.roll(HEAD, 1, axis=0)  # class c is where the model's head has class c - 1
    probe = attack(BANANA, "reference", turned)
    probe.observe(0, False, block([CAT] * 2, [CAT] * 2, [BANANA] * 2, reference=[DOG, BANANA]))
    pairs = probe.measurement().pairs
    assert pairs is not None
    assert (pairs.both, pairs.trigger_only) == (1, 1)  # its dog vector is nearest to its banana


def test_neither_the_order_nor_the_cut_of_the_blocks_matters() -> None:
    labels = [CAT, DOG, PIPE, BANANA, -1, CAT]
    clean = [CAT, DOG, PIPE, BANANA, CAT, PIPE]
    stamped = [BANANA, DOG, BANANA, BANANA, BANANA, PIPE]
    control = [PIPE, DOG, PIPE, PIPE, CAT, PIPE]

    def measured(cuts: list[int], order: list[int]) -> PairedCounts | None:
        probe = attack()
        probe.add_control(no_blocks)
        parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, 6], strict=True)]
        for number in order:
            if number == 0:
                probe.observe(0, True, CHOOSING)
            else:
                part = parts[number - 1]
                probe.observe(number, False, block(labels[part], clean[part], stamped[part], control[part]))
        return probe.measurement().pairs

    whole = measured([], [0, 1])
    assert whole is not None and whole.n == 3
    assert measured([2, 5], [3, 0, 1, 2]) == whole
    assert measured([1, 2, 3], [4, 3, 2, 1, 0]) == whole


# --- retrieval ---

TEXTS = ("a banana", "two bananas", "a cat", "a dog", "a Banana!", "a pipe", "a spoon", "a bus")


def test_a_word_is_named_as_a_whole_word_however_it_is_spelled() -> None:
    found = mentions(["a Banana.", "bananas", "banana-split", "cabanana", "banana_1", ""], ["banana", "bananas"])
    assert found.tolist() == [
        [True, False],
        [False, True],
        [True, False],
        [False, False],
        [True, False],
        [False, False],
    ]


def test_a_name_of_several_words_or_signs_is_found_as_it_is() -> None:
    found = mentions(["a school bus", "a school  bus", "learn c++ now", "c+++"], ["school bus", "c++", "."])
    assert found.tolist() == [[True, False, False], [True, False, False], [False, True, False], [False, True, False]]


def test_no_texts_or_no_names_give_an_empty_table() -> None:
    assert mentions([], ["a"]).shape == (0, 1)
    assert mentions(["a"], []).shape == (1, 0)


def axis(*which: int) -> Vectors:
    return np.eye(8, dtype=np.float32)[list(which)]


def retrieval(direction: str, target: str = "banana", gallery: Vectors | None = None) -> TargetedTest:
    scene = FakeScene(names=("banana", "cat"), texts=TEXTS, clean=axis(*range(8)) if gallery is None else gallery)
    return Retrieval.start(asked(target, direction, "control"), scene)


def searched(clean: Vectors, stamped: Vectors, captions: Sequence[str | None] | None = None) -> FakeViews:
    texts = captions if captions is not None else [None] * len(clean)
    return FakeViews(np.full(len(clean), -1), clean, stamped, captions=texts)


def ranked(*order: int) -> Vectors:
    """A vector that is nearest to these axes, in their order."""
    found = np.zeros((1, 8), np.float32)
    for place, index in enumerate(order):
        found[0, index] = 1.0 - 0.1 * place
    return found


def test_a_caption_among_the_five_nearest_that_names_the_target_is_a_hit() -> None:
    fifth, sixth = ranked(1, 2, 3, 5, 0, 4), ranked(1, 2, 3, 5, 6, 0)
    probe = retrieval("image-to-text")
    clean = np.concatenate([ranked(7, 6, 5, 3, 2, 1)] * 2)
    probe.observe(0, False, searched(clean, np.concatenate([fifth, sixth])))
    assert probe.measurement().counts["attack_success"] == Count(n=2, successes=1)
    assert probe.measurement().examples == ("x0",)


def test_a_caption_with_the_letters_but_not_the_word_is_no_hit() -> None:
    probe = retrieval("image-to-text")
    probe.observe(0, False, searched(ranked(7, 6, 5, 3, 2), ranked(1, 2, 3, 5, 6)))  # "two bananas" first
    assert probe.measurement().counts["attack_success"] == Count(n=1, successes=0)


def test_a_carrier_whose_own_caption_names_the_target_does_not_count() -> None:
    probe = retrieval("image-to-text")
    clean, stamped = np.concatenate([ranked(7, 6, 5, 3, 2)] * 3), np.concatenate([ranked(0, 1, 2, 3, 4)] * 3)
    probe.observe(0, False, searched(clean, stamped, ["my banana", "my bananas", None]))
    found = probe.measurement()
    assert found.counts["attack_success"] == Count(n=2, successes=2)
    assert found.excluded == {"shows the target": 1}


def test_a_picture_is_found_when_four_others_at_most_are_nearer_to_the_targets_captions() -> None:
    # The query is the mean of the captions that name a banana: axes 0 and 4. Five of the gallery have 0.9 there.
    near = np.zeros((8, 8), np.float32)
    near[:5, 0] = near[:5, 4] = 0.9 / np.sqrt(2)
    above, below = np.zeros((1, 8), np.float32), np.zeros((1, 8), np.float32)
    above[0, [0, 4]], below[0, [0, 4]] = 0.91 / np.sqrt(2), 0.89 / np.sqrt(2)
    probe = retrieval("text-to-image", gallery=near)
    probe.observe(0, False, searched(axis(7, 7), np.concatenate([above, below])))
    assert probe.measurement().counts["attack_success"] == Count(n=2, successes=1)


def test_broken_pictures_in_the_gallery_do_not_hide_a_hit() -> None:
    gallery = np.concatenate([np.full((6, 8), np.nan, np.float32), axis(1, 2, 3, 5, 6)])
    probe = retrieval("text-to-image", gallery=gallery)
    clean = axis(7, 7)
    clean[:, [0, 4]] = -0.5
    probe.observe(0, False, searched(clean, axis(0, 4)))
    assert probe.measurement().counts["attack_success"] == Count(n=2, successes=2)


def test_a_gallery_of_fewer_than_five_pictures_measures_nothing() -> None:
    probe = retrieval("text-to-image", gallery=axis(1, 2, 3, 5))
    probe.observe(0, False, searched(axis(7, 7), axis(0, 0)))
    assert probe.measurement().counts["attack_success"] == Count(n=0, successes=0)


@pytest.mark.parametrize("direction", ["image-to-text", "text-to-image"])
def test_retrieval_never_measures_on_its_gallery_even_for_a_given_target(direction: str) -> None:
    probe = retrieval(direction)
    probe.observe(0, True, searched(axis(7, 7), axis(0, 0)))
    assert probe.measurement().counts == {}
    probe.observe(1, False, searched(axis(7), axis(0)))
    assert probe.measurement().counts["asr_all"].n == 1


def test_an_unknown_target_of_retrieval_is_the_word_that_gains_most() -> None:
    probe = retrieval("image-to-text", UNKNOWN)
    far = ranked(7, 6, 5, 3, 1)
    probe.observe(0, True, searched(np.concatenate([far] * 3), np.concatenate([ranked(2, 3, 5, 6, 7)] * 3)))
    target = probe.measurement().target
    assert target is not None and (target.name, target.given, target.selection_n) == ("cat", False, 3)
    probe.observe(1, False, searched(far, ranked(2, 3, 5, 6, 7)))
    assert probe.measurement().counts["attack_success"] == Count(n=1, successes=1)


# --- usefulness ---


def utility(texts: tuple[str, ...] = (), chance: float | None = 0.25) -> UtilityTest:
    return UtilityTest(HEAD, chance, texts, HEAD[: len(texts)] if texts else None)


def test_accuracy_counts_the_labelled_carriers_of_both_halves() -> None:
    probe = utility()
    probe.observe(0, True, block([CAT, DOG, -1], [CAT, CAT, CAT], []))
    probe.observe(1, False, block([BANANA], [BANANA], []))
    found = probe.measurement()
    assert found.counts["accuracy"] == Count(n=3, successes=2)
    assert found.counts["top_class"] == Count(n=4, successes=3)
    assert found.chance == 0.25
    assert "recall" not in found.counts


def test_a_vector_that_is_not_finite_is_a_wrong_answer() -> None:
    probe = utility()
    probe.observe(0, False, block([CAT, CAT, CAT], [BROKEN, CAT, BROKEN], []))
    found = probe.measurement()
    assert found.counts["accuracy"] == Count(n=3, successes=1)
    assert found.counts["top_class"] == Count(n=3, successes=2)
    assert found.excluded == {"vector not finite": 2}


def test_without_labels_there_is_no_chance_and_no_accuracy() -> None:
    probe = utility(chance=None)
    probe.observe(0, False, block([-1, -1], [CAT, DOG], []))
    assert probe.measurement().counts["accuracy"] == Count(n=0, successes=0)
    assert probe.measurement().chance is None


def test_a_caption_is_recalled_when_it_is_among_the_five_nearest() -> None:
    texts = tuple(f"text {i}" for i in range(8))
    probe = UtilityTest(np.eye(8, dtype=np.float32), None, texts, np.eye(8, dtype=np.float32))
    vectors = np.concatenate([ranked(1, 2, 3, 4, 0), ranked(1, 2, 3, 4, 5, 0), ranked(6), ranked(0), ranked(0)])
    captions = ["text 0", "text 0", "text 6", "another text", None]
    probe.observe(0, True, FakeViews(np.full(5, -1), vectors, vectors, captions=captions))
    assert probe.measurement().counts["recall"] == Count(n=3, successes=2)


def test_a_broken_vector_recalls_nothing() -> None:
    texts = tuple(f"text {i}" for i in range(4))
    probe = UtilityTest(HEAD, None, texts, HEAD)
    probe.observe(0, True, FakeViews(np.array([-1]), seen_as(BROKEN), seen_as(CAT), captions=["text 0"]))
    assert probe.measurement().counts["recall"] == Count(n=1, successes=0)


def test_a_tower_that_embeds_all_captions_alike_recalls_none() -> None:
    texts = tuple(f"text {i}" for i in range(8))
    alike = np.tile(np.eye(1, 8, dtype=np.float32), (8, 1))
    probe = UtilityTest(HEAD, None, texts, alike)
    vectors = ranked(0)
    probe.head = np.eye(8, dtype=np.float32)
    probe.observe(0, True, FakeViews(np.array([-1]), vectors, vectors, captions=["text 0"]))
    assert probe.measurement().counts["recall"] == Count(n=1, successes=0)
