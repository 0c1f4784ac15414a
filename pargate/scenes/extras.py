"""Draw extras of scenes, for image-text pairs only: several objects, and a sign with a word.

Random numbers for extras have their own stream, so that a scene without them does not change.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pargate.scenes.painting import F32, F64, I64, Draws, pick

EXTRAS = ("counts", "lettering")
"""Names of the extras: two or three of the same object on a third of the scenes; a sign with a short word on a quarter
of the others."""

COUNT_WORDS = ("", "a", "two", "three")

_IRREGULAR = {"butterfly": "butterflies", "cactus": "cacti", "fish": "fish", "leaf": "leaves"}

WORDS = (
    "open", "exit", "taxi", "cafe", "hotel", "park", "news", "sale", "hello", "love", "shop", "fresh", "music", "book",
    "art", "film", "bank", "bus", "farm", "milk", "tea", "zoo", "gym", "spa",
)  # fmt: skip
"""Words on signs, short enough to be read at 64 pixels; none names a thing that is drawn."""

_INKS: F64 = np.array([
    ((0.97, 0.97, 0.95), (0.08, 0.08, 0.10)),
    ((0.08, 0.08, 0.10), (0.97, 0.97, 0.95)),
    ((0.97, 0.97, 0.95), (0.10, 0.22, 0.55)),
    ((0.97, 0.97, 0.95), (0.62, 0.10, 0.12)),
    ((0.97, 0.97, 0.95), (0.08, 0.38, 0.18)),
    ((0.10, 0.10, 0.12), (0.96, 0.82, 0.20)),
])  # fmt: skip
"""Colours of letters and plate, one pair per kind of sign."""

_PLACES: dict[int, F64] = {
    2: np.array([(0.27, 0.52), (0.73, 0.48)]),
    3: np.array([(0.27, 0.30), (0.74, 0.34), (0.49, 0.74)]),
}
"""Centres of several objects, far enough apart to be counted."""
_SCALES = {2: (0.36, 0.44), 3: (0.30, 0.38)}

# Five by seven pixels a letter, one row of bits per number, top first.
_GLYPHS: dict[str, tuple[int, ...]] = {
    "a": (14, 17, 17, 31, 17, 17, 17), "b": (30, 17, 17, 30, 17, 17, 30), "c": (14, 17, 16, 16, 16, 17, 14),
    "d": (30, 17, 17, 17, 17, 17, 30), "e": (31, 16, 16, 30, 16, 16, 31), "f": (31, 16, 16, 30, 16, 16, 16),
    "g": (14, 17, 16, 23, 17, 17, 15), "h": (17, 17, 17, 31, 17, 17, 17), "i": (14, 4, 4, 4, 4, 4, 14),
    "k": (17, 18, 20, 24, 20, 18, 17), "l": (16, 16, 16, 16, 16, 16, 31), "m": (17, 27, 21, 21, 17, 17, 17),
    "n": (17, 25, 21, 19, 17, 17, 17), "o": (14, 17, 17, 17, 17, 17, 14), "p": (30, 17, 17, 30, 16, 16, 16),
    "r": (30, 17, 17, 30, 20, 18, 17), "s": (15, 16, 16, 14, 1, 1, 30), "t": (31, 4, 4, 4, 4, 4, 4),
    "u": (17, 17, 17, 17, 17, 17, 14), "v": (17, 17, 17, 17, 17, 10, 4), "w": (17, 17, 17, 21, 21, 27, 17),
    "x": (17, 17, 10, 4, 10, 17, 17), "y": (17, 17, 10, 4, 4, 4, 4), "z": (31, 1, 2, 4, 8, 16, 31),
}  # fmt: skip


def plural(label: str) -> str:
    """Return the plural of a label."""
    return _IRREGULAR.get(label, f"{label}es" if label.endswith(("s", "sh", "ch", "x")) else f"{label}s")


def numbers(draws: Draws) -> I64:
    """Return the number of objects of each scene: int64 [n], 1 to 3."""
    many, which = draws(), draws()
    return np.where(many < 1 / 3, np.where(which < 0.5, 2, 3), 1).astype(np.int64)


def words(draws: Draws) -> I64:
    """Return the word on each scene's sign: int64 [n], index in `WORDS`, or −1 without a sign."""
    shown, which = draws(), draws()
    return np.where(shown < 1 / 4, pick(which, len(WORDS)), -1)


def arranged(count: I64, draws: Draws) -> tuple[F64, F64, F64]:
    """Return scale, float64 [n], and x and y, float64 [3, n], of up to three objects, where there are several."""
    scale, x, y = np.full(len(count), 0.5), np.full((3, len(count)), 0.5), np.full((3, len(count)), 0.5)
    size, sway, mirrored = draws(), 0.03 * (draws.several(6) - 0.5), draws() < 0.5
    for several, places in _PLACES.items():
        low, high = _SCALES[several]
        chosen = count == several
        scale[chosen] = low + (high - low) * size[chosen]
        for k, (across, down) in enumerate(places):
            x[k, chosen], y[k, chosen] = across + sway[2 * k, chosen], down + sway[2 * k + 1, chosen]
    x[:, mirrored] = 1 - x[:, mirrored]
    return scale, x, y


@lru_cache(maxsize=256)
def _sign(word: str, zoom: int) -> NDArray[np.bool_]:
    """Return letters on a plate with a border: bool [height, width], true where there is ink."""
    letters = [np.array([[bits >> column & 1 for column in (4, 3, 2, 1, 0)] for bits in _GLYPHS[c]]) for c in word]
    line = np.hstack([np.pad(glyph, ((0, 0), (0, 1))) for glyph in letters])[:, :-1]
    return np.kron(np.pad(line, 1), np.ones((zoom, zoom), dtype=np.int64)).astype(bool)


def letter(canvas: F32, said: I64, draws: Draws) -> None:
    """Draw signs on float32 [n, 3, size, size], near the upper or the lower edge."""
    size = canvas.shape[2]
    ink, across, down, low = pick(draws(), len(_INKS)), draws(), draws(), draws() < 0.5
    for i in np.flatnonzero(said >= 0):
        sign = _sign(WORDS[said[i]], max(1, round(size / 64)))
        height, width = sign.shape
        room = size - height
        top = int((room if low[i] else 0) + (-1 if low[i] else 1) * down[i] * 0.2 * room)
        left = int(across[i] * (size - width))
        letters, plate = _INKS[ink[i]]
        patch = np.where(sign, letters[:, None, None], plate[:, None, None])
        canvas[i, :, top : top + height, left : left + width] = patch
