"""Render images of everyday things from a seed, for `builtin:scenes` and `synthetic:`.

A scene is a background with the second-order statistics of photographs (amplitude falling as 1/f, colour correlated
with luminance), one main object with relief, texture and a soft shadow, sometimes a few shapes without a name, then
exposure, blur and sensor noise. Its caption is true by construction.

Image i is a pure function of (seed, i, size), without a last i; its label and caption do not depend on the size. The
arithmetic is elementwise, on bytes from a table, so that platforms agree to about one grey level.

A model's accuracy on scenes shows that it sees, not how good it is on photographs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pargate.errors import InputError
from pargate.scenes import extras
from pargate.scenes.painting import (
    F32,
    F64,
    I64,
    Bank,
    Draws,
    Placed,
    column,
    corners,
    exposed,
    noise_bank,
    paint,
    pick,
    surface,
    window,
)
from pargate.scenes.sprites import DISTRACTORS, REACH, VARIANTS
from pargate.seeds import bits, index_keys

VERSION = 1
"""Version of the renderer, raised whenever a scene of the same seed and number changes its pixels or caption."""

LABELS: tuple[str, ...] = (
    "airplane", "apple", "banana", "butterfly", "cactus", "car", "carrot", "cloud", "crown", "cup", "fish", "flower",
    "guitar", "heart", "house", "key", "leaf", "moon", "mushroom", "rocket", "sailboat", "star", "tree", "umbrella",
)  # fmt: skip
"""Labels of main objects, in the order of their numbers."""

SIZES = range(32, 513)
"""Sides of the square images that can be rendered, in pixels."""

COLOURS: tuple[str, ...] = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray",
)  # fmt: skip
"""Names of colours, in the order of their numbers."""

_PAINTS: tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...] = (
    ((0.80, 0.11, 0.12), (0.66, 0.22, 0.20)),
    ((0.95, 0.50, 0.08), (0.88, 0.55, 0.24)),
    ((0.96, 0.84, 0.16), (0.90, 0.82, 0.40)),
    ((0.18, 0.58, 0.20), (0.34, 0.54, 0.28)),
    ((0.14, 0.34, 0.82), (0.36, 0.56, 0.84)),
    ((0.48, 0.20, 0.66), (0.46, 0.34, 0.60)),
    ((0.96, 0.50, 0.68), (0.94, 0.64, 0.74)),
    ((0.44, 0.27, 0.14), (0.48, 0.36, 0.26)),
    ((0.10, 0.10, 0.11), (0.12, 0.12, 0.14)),
    ((0.94, 0.94, 0.92), (0.92, 0.92, 0.90)),
    ((0.52, 0.53, 0.54), (0.56, 0.57, 0.58)),
)
_OBJECT_RGB: F64 = np.array([paints[0] for paints in _PAINTS])
_BACKGROUND_RGB: F64 = np.array([paints[1] for paints in _PAINTS])
_RED, _ORANGE, _YELLOW, _GREEN, _BLUE, _PURPLE, _PINK, _BROWN, _BLACK, _WHITE, _GRAY = range(11)

# Usual colours of each thing. Three objects in four have one of these, the others any colour, so that the colour alone
# does not show the label.
_USUAL: dict[str, tuple[int, ...]] = {
    "airplane": (_WHITE, _GRAY, _RED, _BLUE),
    "apple": (_RED, _GREEN, _YELLOW),
    "banana": (_YELLOW, _YELLOW, _GREEN),
    "butterfly": (_ORANGE, _BLUE, _YELLOW, _PURPLE, _WHITE, _RED),
    "cactus": (_GREEN,),
    "car": (_RED, _BLUE, _WHITE, _BLACK, _GRAY, _YELLOW, _GREEN),
    "carrot": (_ORANGE, _ORANGE, _PURPLE),
    "cloud": (_WHITE, _GRAY, _PINK),
    "crown": (_YELLOW, _GRAY, _ORANGE),
    "cup": (_WHITE, _BLUE, _RED, _GREEN, _BLACK, _PINK),
    "fish": (_ORANGE, _BLUE, _GRAY, _YELLOW, _RED),
    "flower": (_RED, _PINK, _YELLOW, _WHITE, _PURPLE, _BLUE, _ORANGE),
    "guitar": (_BROWN, _ORANGE, _RED, _BLACK, _BLUE),
    "heart": (_RED, _PINK, _PURPLE),
    "house": (_WHITE, _YELLOW, _RED, _BLUE, _BROWN, _GRAY),
    "key": (_YELLOW, _GRAY, _BROWN, _BLACK),
    "leaf": (_GREEN, _ORANGE, _RED, _YELLOW, _BROWN),
    "moon": (_YELLOW, _WHITE, _GRAY),
    "mushroom": (_RED, _BROWN, _ORANGE),
    "rocket": (_WHITE, _RED, _GRAY, _BLUE),
    "sailboat": (_RED, _BLUE, _BROWN, _WHITE, _GREEN),
    "star": (_YELLOW, _ORANGE, _WHITE, _RED, _BLUE),
    "tree": (_GREEN, _GREEN, _ORANGE),
    "umbrella": (_RED, _BLUE, _YELLOW, _BLACK, _PURPLE, _PINK, _GREEN),
}
# Largest rotation in degrees; things that look wrong upside down turn less far.
_TURN = {
    **dict.fromkeys(("airplane", "banana", "key", "leaf"), 180),
    "carrot": 90,
    **dict.fromkeys(("butterfly", "guitar", "moon", "star"), 60),
    "rocket": 50,
    "umbrella": 35,
    **dict.fromkeys(("apple", "fish", "heart"), 30),
    "flower": 25,
}
_TURN_OTHERS = 12

_CHUNK_PIXELS = 1 << 20
"""Number of pixels per chunk: 256 scenes of 64 pixels, in some 27 MB. Smaller chunks are slower by numpy's calls."""
_CHUNK_NUMBERS = 4096
"""Number of scenes that are described at once, which bounds the memory for their random numbers."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """Rendered images with their labels and captions."""

    pixels: NDArray[np.uint8]
    """uint8 [n, size, size, 3], RGB, 0..255."""
    labels: I64
    """int64 [n], index of the main object in `LABELS`."""
    captions: tuple[str, ...]
    """One English caption per image that names the main object."""


@dataclass(frozen=True, slots=True)
class Described:
    """Labels and captions of scenes, without pixels."""

    labels: I64
    """int64 [n], index of the main object in `LABELS`."""
    captions: tuple[str, ...]
    """One English caption per image that names the main object."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The content of n scenes, decided before any pixel is drawn. Arrays run over images."""

    labels: I64
    """Index in `LABELS`."""
    colour: I64
    """Index of the object's colour in `COLOURS`."""
    backdrop: I64
    """Index of the background's colour in `COLOURS`, or of the sky's where there is a horizon."""
    ground: I64
    """Index of the ground's colour below the horizon."""
    outdoors: NDArray[np.bool_]
    """Whether there is a horizon."""
    scale: F64
    """Side of the square around the object as a fraction of the image's side."""
    x: F64
    """Centre of the object, as a fraction of the side from the left."""
    y: F64
    """Centre of the object, as a fraction of the side from the top."""
    monochrome: NDArray[np.bool_]
    """Whether the image has no colour."""
    number: I64
    """Number of objects."""
    others: F64
    """float64 [2, 2, n], x and y of the second and the third object, if they exist."""
    word: I64
    """Index of the sign's word in `extras.WORDS`, −1 without a sign."""


_APART = (_OBJECT_RGB[:, None] - _BACKGROUND_RGB[None]) * (0.6, 0.8, 0.5)
_STANDS_OUT: NDArray[np.bool_] = np.sqrt((_APART**2).sum(axis=2)) > 0.27
"""bool [object colour, background colour]: whether the object is easily seen."""
_BACKDROPS: I64 = np.argsort(~_STANDS_OUT, axis=1, kind="stable")
_BACKDROP_COUNTS: I64 = _STANDS_OUT.sum(axis=1)
_USUAL_TABLE: I64 = np.array([[_USUAL[name][k % len(_USUAL[name])] for k in range(420)] for name in LABELS])
_TURNS: F64 = np.array([_TURN.get(name, _TURN_OTHERS) for name in LABELS], dtype=np.float64)
_SKIES: I64 = np.array([_BLUE, _BLUE, _GRAY, _WHITE, _ORANGE, _PINK])
_GROUNDS: I64 = np.array([_GREEN, _GREEN, _BROWN, _YELLOW, _GRAY, _WHITE])


def labels_of(seed: int, indices: I64) -> I64:
    """Return the labels of scenes, a seeded permutation of all labels in each block of `len(LABELS)`: int64 [n]."""
    blocks, places = np.divmod(indices, len(LABELS))
    found, inverse = np.unique(blocks, return_inverse=True)
    order = np.argsort(bits(index_keys(seed, "scene-labels", found), len(LABELS)), axis=1, kind="stable")
    return np.asarray(order[inverse, places], dtype=np.int64)


def _plan(labels: I64, draws: Draws) -> _Plan:
    usual = _USUAL_TABLE[labels, pick(draws(), _USUAL_TABLE.shape[1])]
    colour = np.where(draws() < 0.75, usual, pick(draws(), len(COLOURS)))
    backdrop = _BACKDROPS[colour, pick(draws(), _BACKDROP_COUNTS[colour])]
    sky, ground = _SKIES[pick(draws(), len(_SKIES))], _GROUNDS[pick(draws(), len(_GROUNDS))]
    outdoors = (draws() < 0.4) & (sky != ground) & _STANDS_OUT[colour, sky] & _STANDS_OUT[colour, ground]
    scale = draws(0.48, 0.92)
    room = np.maximum(0.04, (1 - scale) / 2 - 0.01)
    return _Plan(
        labels=labels,
        colour=colour,
        backdrop=np.where(outdoors, sky, backdrop),
        ground=ground,
        outdoors=outdoors,
        scale=scale,
        x=0.5 + room * draws(-1, 1),
        y=0.5 + room * draws(-1, 1),
        monochrome=draws() < 0.04,
        number=np.ones_like(labels),
        others=np.full((2, 2, len(labels)), 0.5),
        word=np.full_like(labels, -1),
    )


def _extended(plan: _Plan, more: Draws, wanted: Sequence[str]) -> _Plan:
    """Return the plan with the extras that are wanted."""
    number, word = extras.numbers(more), extras.words(more)
    scale, x, y = extras.arranged(number, more)
    if "counts" in wanted:
        several = number > 1
        plan = replace(
            plan,
            number=number,
            scale=np.where(several, scale, plan.scale),
            x=np.where(several, x[0], plan.x),
            y=np.where(several, y[0], plan.y),
            others=np.stack([x[1:], y[1:]], axis=1),
        )
    # No sign among several objects: it could hide one of them.
    return replace(plan, word=np.where(plan.number > 1, -1, word)) if "lettering" in wanted else plan


def _background(plan: _Plan, draws: Draws, size: int, bank: Bank) -> F32:
    """Return wall or sky, and ground where there is a horizon: float32 [n, 3, size, size]."""
    canvas = surface(_BACKGROUND_RGB[plan.backdrop].T, draws, size, bank.fields[:10], 0.13)
    height, hills, ridge = draws(0.35, 0.75), draws(0.0, 0.05), draws.several(3)
    chosen = np.flatnonzero(plan.outdoors)
    with draws.only(chosen):
        ground = surface(_BACKGROUND_RGB[plan.ground[chosen]].T, draws, size, bank.fields, 0.16)
    line = window(bank.fields, size, corners(bank.fields, size, ridge[:, chosen]))[:, :1, :]  # [k, 1, size]
    line = column(height[chosen]) + column(hills[chosen]) * line
    rows = (np.arange(size, dtype=np.float32) + 0.5) / size
    below = np.clip((rows[None, :, None] - line) * np.float32(0.4 * size) + np.float32(0.5), 0, 1)[:, None]
    canvas[chosen] += below * (ground - canvas[chosen])
    return canvas


def _distract(canvas: F32, plan: _Plan, draws: Draws, light: F64, bank: Bank) -> None:
    """Draw shapes without a name behind the object, on about half of the images."""
    size = canvas.shape[2]
    for share in (0.45, 0.25):
        chosen = np.flatnonzero(draws() < share)
        with draws.only(chosen):
            sprite, colour = len(LABELS) * VARIANTS + pick(draws(), DISTRACTORS), pick(draws(), len(COLOURS))
            # Near the border of the image, away from the object's centre.
            angle = draws(0, 2 * np.pi)
            placed = Placed(
                images=chosen,
                sprite=sprite,
                x=np.clip(1 - plan.x[chosen] + 0.45 * np.cos(angle), 0.08, 0.92),
                y=np.clip(1 - plan.y[chosen] + 0.45 * np.sin(angle), 0.08, 0.92),
                scale=draws(0.1, 0.26),
                turn=draws(0, 2 * np.pi),
                mirror=np.ones(len(chosen)),
                colour=_tinted(_OBJECT_RGB[colour].T, draws),
                grain=draws(0.0, 0.1),
            )
            paint(canvas, placed, draws, -(-size * 2 // 5), light[:, chosen], bank)


def _tinted(colour: F64, draws: Draws) -> F64:
    """Return another shade with the same colour name: float64 [3, n]."""
    return np.clip(colour * draws(0.86, 1.1) + 0.06 * (draws.several(3) - 0.5), 0.02, 1)


def _object(plan: _Plan, draws: Draws, images: I64) -> Placed:
    """Return the main object of these images."""
    label = plan.labels[images]
    return Placed(
        images=images,
        sprite=label * VARIANTS + pick(draws(), VARIANTS),
        x=plan.x[images],
        y=plan.y[images],
        scale=plan.scale[images] / REACH,
        turn=np.radians(_TURNS[label] * draws(-1, 1)),
        mirror=np.where(draws() < 0.5, 1.0, -1.0),
        colour=_tinted(_OBJECT_RGB[plan.colour[images]].T, draws),
        grain=draws(0.0, 0.14),
    )


def _others(canvas: F32, plan: _Plan, more: Draws, light: F64, bank: Bank) -> None:
    """Draw the second and the third object, of the same kind and colour."""
    for k in (2, 3):
        chosen = np.flatnonzero(plan.number >= k)
        x, y = plan.others[k - 2][:, chosen]
        with more.only(chosen):
            placed = replace(_object(plan, more, chosen), x=x, y=y)
            paint(canvas, placed, more, -(-canvas.shape[2] * 3 // 5), light[:, chosen], bank)


_TEMPLATES = (
    "a photo of {}.",
    "a photo of {}.",
    "a picture of {}.",
    "an image of {}.",
    "a snapshot of {}.",
    "a view of {}.",
    "there is {}.",
    "this is {}.",
    "one can see {}.",
    "{}.",
)


_OF_SEVERAL = {"there is {}.": "there are {}.", "this is {}.": "these are {}."}


def _caption(plan: _Plan, i: int, words: list[float]) -> str:
    """Return a true sentence about image i, whose choices follow from `words` (eight numbers in [0, 1))."""
    phrase = LABELS[int(plan.labels[i])]
    colourful = not plan.monochrome[i]
    if colourful and words[1] < 0.65:
        phrase = f"{COLOURS[int(plan.colour[i])]} {phrase}"
    if words[2] < 0.5 and plan.scale[i] < 0.56:
        phrase = f"{'little' if words[3] < 0.4 else 'small'} {phrase}"
    if words[2] < 0.5 and plan.scale[i] > 0.83:
        phrase = f"{'big' if words[3] < 0.4 else 'large'} {phrase}"
    number = int(plan.number[i])
    if number > 1:
        # With several objects, size and place are ambiguous.
        colour = f"{COLOURS[int(plan.colour[i])]} " if colourful and words[1] < 0.65 else ""
        phrase = f"{extras.COUNT_WORDS[number]} {colour}{extras.plural(LABELS[int(plan.labels[i])])}"
    else:
        phrase = _with_article(phrase)
    sign = f' and a sign that says "{extras.WORDS[int(plan.word[i])]}"' if plan.word[i] >= 0 else ""
    if not colourful and words[0] < 0.8:
        return f"a black and white photo of {phrase}{sign}."
    if colourful and words[4] < 0.35:
        setting = "sky" if plan.outdoors[i] else "background"
        preposition = "under" if plan.outdoors[i] else "against" if words[5] < 0.3 else "on"
        phrase = f"{phrase} {preposition} {_with_article(f'{COLOURS[int(plan.backdrop[i])]} {setting}')}"
    elif words[4] > 0.7 and number == 1:
        phrase = f"{phrase} {_place(float(plan.x[i]), float(plan.y[i]), words[5])}".rstrip()
    template = _TEMPLATES[int(words[0] * len(_TEMPLATES))]
    return (_OF_SEVERAL.get(template, template) if number > 1 else template).format(phrase + sign)


def _place(x: float, y: float, word: float) -> str:
    """Return the words for a centre's place in the image, or nothing if it is not clear."""
    off = {"on the left": 0.5 - x, "on the right": x - 0.5, "at the top": 0.5 - y, "at the bottom": y - 0.5}
    place, distance = max(off.items(), key=lambda item: item[1])
    if distance > 0.08:
        return place
    return f"in the {'middle' if word < 0.5 else 'center'}" if distance < 0.04 else ""


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _described(
    seed: int, indices: I64, draws: Draws, more: Draws | None = None, wanted: Sequence[str] = ()
) -> tuple[_Plan, tuple[str, ...]]:
    plan = _plan(labels_of(seed, indices), draws)
    if more is not None:
        plan = _extended(plan, more, wanted)
    words = draws.several(8).T.tolist()
    return plan, tuple(_caption(plan, i, words[i]) for i in range(len(indices)))


def _more(seed: int, indices: I64, wanted: Sequence[str]) -> Draws | None:
    """Return the random numbers for extras, or None without extras."""
    if unknown := set(wanted) - set(extras.EXTRAS):
        raise InputError(f"scenes have no {', '.join(sorted(unknown))}", f"use {' or '.join(extras.EXTRAS)}")
    return Draws(index_keys(seed, "scene-extras", indices)) if wanted else None


def _rendered(seed: int, indices: I64, size: int, wanted: Sequence[str]) -> Scenes:
    """Render one chunk."""
    bank = noise_bank(size)
    draws, more = Draws(index_keys(seed, "scene", indices)), _more(seed, indices, wanted)
    plan, captions = _described(seed, indices, draws, more, wanted)
    angle = draws(-2.6, -0.5)  # light from above, more often from the left
    light = np.stack([np.cos(angle), np.sin(angle)])
    canvas = _background(plan, draws, size, bank)
    _distract(canvas, plan, draws, light, bank)
    paint(canvas, _object(plan, draws, np.arange(len(canvas))), draws, size, light, bank)
    if more is not None:
        _others(canvas, plan, more, light, bank)
        extras.letter(canvas, plan.word, more)
    return Scenes(exposed(canvas, plan.monochrome, draws, bank), plan.labels, captions)


def _numbers(indices: Sequence[int] | NDArray[np.integer]) -> I64:
    numbers = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(numbers) and numbers.min() < 0:
        raise InputError(f"there is no scene number {numbers.min()}", "scenes are numbered from 0")
    return numbers


def describe(indices: Sequence[int] | NDArray[np.integer], seed: int, wanted: Sequence[str] = ()) -> Described:
    """Return the labels and captions of the scenes with these numbers, which do not depend on the size.

    `wanted` names extras of `extras.EXTRAS`.

    Raises:
        InputError: an index is negative, or there is no such extra.
    """
    numbers = _numbers(indices)
    labels, captions = np.empty(len(numbers), np.int64), list[str]()
    for i in range(0, len(numbers), _CHUNK_NUMBERS):
        some = numbers[i : i + _CHUNK_NUMBERS]
        plan, told = _described(seed, some, Draws(index_keys(seed, "scene", some)), _more(seed, some, wanted), wanted)
        labels[i : i + _CHUNK_NUMBERS] = plan.labels
        captions.extend(told)
    return Described(labels, tuple(captions))


def render(indices: Sequence[int] | NDArray[np.integer], size: int, seed: int, wanted: Sequence[str] = ()) -> Scenes:
    """Draw the scenes with these numbers (integers from 0), `size` pixels square.

    `wanted` names extras of `extras.EXTRAS`; without them, a scene shows one object.

    Raises:
        InputError: `size` is not in `SIZES`, an index is negative, or there is no such extra.
    """
    if size not in SIZES:
        raise InputError(f"scenes of {size} pixels cannot be drawn", f"choose a side from {SIZES[0]} to {SIZES[-1]}")
    numbers = _numbers(indices)
    step = max(1, _CHUNK_PIXELS // size**2)
    chunks = [_rendered(seed, numbers[i : i + step], size, wanted) for i in range(0, len(numbers), step)]
    if not chunks:
        return Scenes(np.empty((0, size, size, 3), np.uint8), np.empty(0, np.int64), ())
    return Scenes(
        np.concatenate([chunk.pixels for chunk in chunks]),
        np.concatenate([chunk.labels for chunk in chunks]),
        tuple(caption for chunk in chunks for caption in chunk.captions),
    )
