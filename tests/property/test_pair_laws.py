"""Laws of the order in which pairs are seen, and of what is drawn."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pargate.images.opening import open_pairs
from pargate.images.prefetch import BatchOrder
from pargate.images.workers import Scene

SEEDS = st.integers(0, 2**32)


@st.composite
def splits(draw: st.DrawFn) -> BatchOrder:
    world = draw(st.integers(1, 4))
    batch = draw(st.integers(2 if world == 1 else 1, 9))
    count = draw(st.none() | st.integers(batch * world, batch * world * 6))
    return BatchOrder(count, draw(SEEDS), batch, world)


@given(splits(), st.integers(0, 5))
def test_an_epoch_sees_each_pair_at_most_once_and_drops_less_than_a_batch(split: BatchOrder, epoch: int) -> None:
    steps = split.steps_per_epoch or 5
    seen = np.concatenate([
        split.numbers(epoch * steps + step, rank) for step in range(steps) for rank in range(split.world)
    ])  # fmt: skip
    assert len(set(seen.tolist())) == len(seen) == steps * split.batch * split.world
    assert seen.min() >= 0
    if split.count is not None:
        assert seen.max() < split.count and split.count - len(seen) < split.batch * split.world


@given(splits(), st.integers(0, 40))
def test_the_batch_over_all_ranks_does_not_depend_on_how_many_there_are(split: BatchOrder, step: int) -> None:
    alone = BatchOrder(split.count, split.seed, split.batch * split.world)
    shared = [split.numbers(step, rank) for rank in range(split.world)]
    assert np.concatenate(shared).tolist() == alone.numbers(step).tolist()
    assert all(len(numbers) == split.batch for numbers in shared)


@given(splits(), st.lists(st.integers(0, 60), min_size=1, max_size=5))
def test_a_step_sees_the_same_whatever_came_before(split: BatchOrder, steps: list[int]) -> None:
    fresh = BatchOrder(split.count, split.seed, split.batch, split.world)
    expected = [fresh.numbers(step).tolist() for step in sorted(steps)]
    assert [split.numbers(step).tolist() for step in reversed(sorted(steps))] == expected[::-1]


@given(st.lists(st.integers(0, 2**36), min_size=1, max_size=6), SEEDS, st.sets(st.sampled_from(
    ("star", "Car", "TREE", "key", "dog")), min_size=1))  # fmt: skip
def test_a_drawn_pair_is_its_number(numbers: list[int], seed: int, classes: set[str]) -> None:
    pairs = open_pairs("synthetic:", seed=seed, classes=sorted(classes))
    alone = [pairs.captions([number])[0] for number in numbers]
    assert pairs.captions(numbers) == alone
    places = pairs.places(numbers)
    assert places == [pairs.places([number])[0] for number in numbers]
    assert len({place.number for place in places if isinstance(place, Scene)}) == len(set(numbers))
