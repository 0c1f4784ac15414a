"""Laws of the random streams: what is drawn for one image depends on nothing but that image."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pargate import seeds

digests = st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1, max_size=20)
counts = st.integers(1, 40)


@settings(deadline=None)
@given(digests=digests, seed=st.integers(0, 2**63), count=counts, data=st.data())
def test_neither_order_nor_company_changes_what_an_image_draws(
    digests: list[str], seed: int, count: int, data: st.DataObject
) -> None:
    together = seeds.bits(seeds.image_keys(seed, "law", digests), count)
    order = data.draw(st.permutations(range(len(digests))))
    moved = seeds.bits(seeds.image_keys(seed, "law", [digests[i] for i in order]), count)
    alone = seeds.bits(seeds.image_keys(seed, "law", digests[:1]), count)
    assert (moved == together[order]).all()
    assert (alone[0] == together[0]).all()


@settings(deadline=None)
@given(seed=st.integers(0, 2**63), few=counts, more=counts)
def test_asking_for_more_words_keeps_the_first_ones(seed: int, few: int, more: int) -> None:
    keys = seeds.index_keys(seed, "law", np.arange(3))
    assert (seeds.bits(keys, few + more)[:, :few] == seeds.bits(keys, few)).all()
    assert (seeds.shorts(keys, few + more)[:, :few] == seeds.shorts(keys, few)).all()


@settings(deadline=None)
@given(seed=st.integers(0, 2**63), high=st.integers(1, 2**31), count=counts)
def test_integers_stay_below_their_bound(seed: int, high: int, count: int) -> None:
    drawn = seeds.integers(seeds.index_keys(seed, "law", np.arange(3)), count, high)
    assert ((drawn >= 0) & (drawn < high)).all()


@settings(deadline=None)
@given(seed=st.integers(0, 2**63), count=st.integers(0, 300))
def test_a_permutation_holds_every_number_once(seed: int, count: int) -> None:
    assert sorted(seeds.permutation(seed, "law", count).tolist()) == list(range(count))
