"""Random numbers: one root seed gives named streams, and a counter-based stream for each image.

A draw is a pure function of (seed, name, image, stream, counter): neither the order of the images nor their batch
changes a result. A batch is drawn in one vectorised call, since one generator object for each image would cost more
than the forward pass of a small model.

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
    """Apply SplitMix64's output function to `z` in place (uint64, any shape; arithmetic wraps), and return it."""
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
    """Return the seed of one part of a run, in [0, 2^31): it follows from the root seed and the part's name."""
    return int(_root(seed, name) >> np.uint64(33))


def image_keys(seed: int, name: str, digests: Sequence[str]) -> Keys:
    """Return one key per image: uint64 [n], from the root `seed`, the stream's `name` and hex image digests."""
    words = np.array([int(d[:16], 16) for d in digests], dtype=np.uint64)
    return _mix(words ^ _root(seed, name))


def index_keys(seed: int, name: str, indices: NDArray[np.integer]) -> Keys:
    """Return one key per index: uint64 [n], for streams of numbered items."""
    return _mix(np.asarray(indices).astype(np.uint64) * _GAMMA ^ _root(seed, name))


def bits(keys: Keys, count: int, stream: int = 0) -> Keys:
    """Return `count` random words per key: uint64 [n, count]."""
    base = _mix(keys ^ np.uint64((stream + 1) * _STREAM & 0xFFFFFFFFFFFFFFFF))
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    return _mix(base[:, None] + counters[None, :])


def uniform(keys: Keys, count: int, stream: int = 0) -> NDArray[np.float64]:
    """Return uniform draws in [0, 1): float64 [n, count], 53 bits each."""
    return np.asarray((bits(keys, count, stream) >> np.uint64(11)) * (1.0 / (1 << 53)), dtype=np.float64)


def shorts(keys: Keys, count: int, stream: int = 0) -> NDArray[np.uint16]:
    """Return uniform 16-bit draws for noise over whole images: uint16 [n, count], four from each word."""
    words = bits(keys, -(-count // 4), stream).astype("<u8", copy=False)
    return words.view("<u2")[:, :count]


def integers(keys: Keys, count: int, high: int, stream: int = 0) -> NDArray[np.int64]:
    """Return uniform draws in {0, …, high − 1}: int64 [n, count]; bias below high / 2^32."""
    top = bits(keys, count, stream) >> np.uint64(32)
    return ((top * np.uint64(high)) >> np.uint64(32)).astype(np.int64)


def normal(keys: Keys, count: int, stream: int = 0) -> NDArray[np.float64]:
    """Return standard normal draws: float64 [n, count], by Box and Muller (1958)."""
    u = 1.0 - uniform(keys, 2 * count, stream)
    radius = np.sqrt(-2.0 * np.log(u[:, :count]))
    return np.asarray(radius * np.cos(2.0 * np.pi * u[:, count:]))


def permutation(seed: int, name: str, count: int) -> NDArray[np.int64]:
    """Return a permutation of {0, …, count − 1}: int64 [count]."""
    key = np.array([_root(seed, name)], dtype=np.uint64)
    return np.argsort(bits(key, count)[0], kind="stable")
