"""The generator against its published values, and its draws against the distributions they promise."""

import numpy as np
import pytest

from pargate import seeds

GAMMA = 0x9E3779B97F4A7C15

# To rewrite: print what test_draws_are_the_same_on_every_platform compares.
IMAGE_KEY = 3041153191426920634
BITS = [4444208385292625579, 2471409719550343530]
SHORTS = [59051, 57645, 65530, 15788, 63850]
PERMUTATION = [4, 3, 7, 6, 5, 1, 2, 0]

DIGESTS = [f"{i:016x}" + 48 * "0" for i in range(1, 4)]


def keys(count: int = 1, name: str = "test") -> seeds.Keys:
    return seeds.index_keys(0, name, np.arange(count))


def test_the_mixer_gives_the_published_values_of_splitmix64() -> None:
    states = [(1234567 + GAMMA * i) % 2**64 for i in range(1, 6)]
    assert seeds._mix(np.array(states, dtype=np.uint64)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_draws_are_the_same_on_every_platform() -> None:
    image_keys = seeds.image_keys(7, "noise", ["0123456789abcdef" * 4])
    assert image_keys.tolist() == [IMAGE_KEY]
    assert seeds.bits(image_keys, 2).tolist() == [BITS]
    assert seeds.shorts(image_keys, 5).tolist() == [SHORTS]
    assert seeds.permutation(7, "order", 8).tolist() == PERMUTATION


def test_streams_differ_by_seed_name_image_and_number() -> None:
    streams = [
        seeds.bits(seeds.image_keys(seed, name, [digest]), 1, stream)[0, 0]
        for seed in (0, 1)
        for name in ("a", "b")
        for digest in DIGESTS
        for stream in (0, 1, 2)
    ]
    assert len(set(map(int, streams))) == len(streams)


def test_a_name_cannot_pass_for_another_seed() -> None:
    assert seeds.image_keys(1, "2", DIGESTS[:1]) != seeds.image_keys(12, "", DIGESTS[:1])


def test_uniform_draws_fill_the_unit_interval_evenly() -> None:
    drawn = seeds.uniform(keys(), 100_000)
    assert 0 <= drawn.min() < 1e-3 and 1 - 1e-3 < drawn.max() < 1
    shares = np.histogram(drawn, bins=20, range=(0, 1))[0] / drawn.size
    assert shares == pytest.approx(np.full(20, 0.05), abs=0.004)


def test_short_draws_are_even_and_any_number_of_them_can_be_had() -> None:
    drawn = seeds.shorts(keys(3), 50_001)
    assert drawn.shape == (3, 50_001) and drawn.dtype == np.uint16
    assert drawn.mean() == pytest.approx(65535 / 2, rel=0.01)
    assert np.bincount(drawn.ravel() >> 14, minlength=4) / drawn.size == pytest.approx(np.full(4, 0.25), abs=0.01)


def test_integers_take_every_value_equally_often() -> None:
    drawn = seeds.integers(keys(), 70_000, 7)
    assert np.bincount(drawn[0], minlength=7) / drawn.size == pytest.approx(np.full(7, 1 / 7), abs=0.006)


def test_normal_draws_have_the_moments_of_the_normal_distribution() -> None:
    drawn = seeds.normal(keys(), 200_000)
    assert [(drawn**power).mean() for power in (1, 2, 3, 4)] == pytest.approx([0, 1, 0, 3], abs=0.06)


def test_two_streams_of_one_key_are_not_correlated() -> None:
    first, second = (seeds.uniform(keys(), 50_000, stream)[0] for stream in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_images_with_neighbouring_digests_are_not_correlated() -> None:
    first, second = seeds.uniform(seeds.image_keys(0, "noise", DIGESTS[:2]), 50_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


def test_an_empty_batch_draws_nothing() -> None:
    assert seeds.bits(seeds.image_keys(0, "noise", []), 4).shape == (0, 4)
