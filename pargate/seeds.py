"""Chance: one root seed to named streams, and to one counter-based stream per image.

A draw is a pure function of (seed, name, image, stream, counter), so neither the order of the images
nor the batch they come in changes a result, and a whole batch is drawn in one vectorised call: one
generator object per image would cost more than a small model's forward pass.

The generator is SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"):
the mixer below, applied to key + counter · GAMMA.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_STREAM = 0xD1342543DE82EF95  # odd, unrelated to GAMMA: streams of one key do not overlap


def _mix(z: Keys) -> Keys:
    """SplitMix64's output function, in place on `z` (uint64, any shape; arithmetic wraps)."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _root(seed: int, name: str) -> np.uint64:
    digest = hashlib.sha256(f"{seed}\x00{name}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def derived(seed: int, name: str) -> int:
    """A seed of its own for a part of a run, in [0, 2^31): drawn anew under every name, the same in every run."""
    return int(_root(seed, name) >> np.uint64(33))


def image_keys(seed: int, name: str, digests: Sequence[str]) -> Keys:
    """One key per image: uint64 [n], from the root `seed`, the stream's `name` and hex image digests."""
    words = np.array([int(d[:16], 16) for d in digests], dtype=np.uint64)
    return _mix(words ^ _root(seed, name))


def index_keys(seed: int, name: str, indices: NDArray[np.integer]) -> Keys:
    """One key per index: uint64 [n], for streams that number their items."""
    return _mix(np.asarray(indices).astype(np.uint64) * _GAMMA ^ _root(seed, name))


def bits(keys: Keys, count: int, stream: int = 0) -> Keys:
    """`count` words per key: uint64 [n, count]."""
    base = _mix(keys ^ np.uint64((stream + 1) * _STREAM & 0xFFFFFFFFFFFFFFFF))
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    return _mix(base[:, None] + counters[None, :])


def uniform(keys: Keys, count: int, stream: int = 0) -> NDArray[np.float64]:
    """Uniform draws in [0, 1): float64 [n, count], 53 bits each."""
    return np.asarray((bits(keys, count, stream) >> np.uint64(11)) * (1.0 / (1 << 53)), dtype=np.float64)


def shorts(keys: Keys, count: int, stream: int = 0) -> NDArray[np.uint16]:
    """Uniform 16-bit draws: uint16 [n, count]. Four come from each word, for whole-image noise."""
    words = bits(keys, -(-count // 4), stream).astype("<u8", copy=False)
    return words.view("<u2")[:, :count]


def integers(keys: Keys, count: int, high: int, stream: int = 0) -> NDArray[np.int64]:
    """Uniform draws in {0, …, high − 1}: int64 [n, count]; bias below high / 2^32."""
    top = bits(keys, count, stream) >> np.uint64(32)
    return ((top * np.uint64(high)) >> np.uint64(32)).astype(np.int64)


def normal(keys: Keys, count: int, stream: int = 0) -> NDArray[np.float64]:
    """Standard normal draws: float64 [n, count], by Box and Muller (1958)."""
    u = 1.0 - uniform(keys, 2 * count, stream)
    radius = np.sqrt(-2.0 * np.log(u[:, :count]))
    return np.asarray(radius * np.cos(2.0 * np.pi * u[:, count:]))


def permutation(seed: int, name: str, count: int) -> NDArray[np.int64]:
    """A permutation of {0, …, count − 1}: int64 [count]."""
    key = np.array([_root(seed, name)], dtype=np.uint64)
    return np.argsort(bits(key, count)[0], kind="stable")
