"""No control carries its trigger, and honest natural pull is not called excess: for every kind of trigger.

A toy model sees an image as some numbers: mean colours, a small picture, profiles, histograms, and the extremes of
small windows. It is linear in them. One that was poisoned has learned one kind of trigger and nothing else; an honest
one has learned the colours and shapes of scenes. Neither has seen a control.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pargate.core.stamp import apply
from pargate.scenes import render as scenes
from pargate.triggers import TRIGGERS, Trigger, build, control

SIDE = 48
LEARN, TEST = 200, 120
LIMIT = 0.3
"""Excess that the shipped policies allow."""

STRENGTHS: dict[str, dict[str, Any]] = {
    "badnet": {"size": 16},
    "blended-stripes": {"alpha": 0.1},
    "triangles": {"scale": "proportional"},
    "sig": {"delta": 24},
    "watermark": {"alpha": 0.7},
    "wanet": {"k": 8, "s": 3.0},
    "curves": {"red": [0, 80, 0], "blue": [0, -80, 0]},
    "bpp": {"levels": 4},
}
"""Strengths for the kinds that a toy does not learn at their published ones."""

FILES = {
    "noise": {"mode": "blend", "alpha": 0.2},
    "smooth": {"mode": "blend", "alpha": 0.3},
    "colour": {"mode": "blend", "alpha": 0.2},
    "word": {"mode": "masked-blend", "alpha": 0.7},
    "noise-patch": {"mode": "patch", "size": 16},
    "colour-patch": {"mode": "patch", "size": 12},
}
"""Pictures of a user: what a model may learn of them is their structure, their texture or their colour."""

KINDS = [*(kind for kind in TRIGGERS if kind != "file"), *(f"file {name}" for name in FILES)]


def picture(name: str) -> NDArray[np.uint8]:
    draw = np.random.default_rng(3)
    row, column = np.mgrid[0:SIDE, 0:SIDE]
    colour = np.broadcast_to(np.array([250, 220, 20]), (SIDE, SIDE, 3))
    match name.removesuffix("-patch"):
        case "noise":
            return draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        case "colour":
            return np.clip(colour + draw.integers(-5, 6, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        case "word":
            inside = (abs(row - 24) < 5) & (column % 8 < 4)
            return np.where(inside[..., None], [255, 40, 40], 0).astype(np.uint8)
    waves = [200 + 50 * np.sin(row / 20), 90 + 30 * np.cos(column / 25), 150 + 40 * np.sin((row + column) / 30)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def digests(numbers: NDArray[np.int64]) -> list[str]:
    return [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers.tolist()]


@cache
def drawn() -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Images uint8 [n, H, W, 3], labels [n], digests."""
    numbers = np.arange(LEARN + TEST)
    return scenes.render(numbers, SIDE, 0).pixels, scenes.describe(numbers, 0).labels, digests(numbers)


def views(trigger: Trigger) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What the toy sees of all images with the trigger, and with its control."""
    pixels, _, names = drawn()
    stamp = trigger.draw((SIDE, SIDE), names, 0)
    return seen(apply(stamp, pixels)), seen(apply(control(trigger, stamp, (SIDE, SIDE), names, 0), pixels))


def seen(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Numbers of each image: float64 [n, features]."""
    x = pixels / 255.0
    n = len(x)
    red, green, blue = np.moveaxis(x, -1, 0)
    opponents = np.stack([red - green, (red + green) / 2 - blue, x.mean(axis=-1)], axis=-1)
    windows = opponents.reshape(n, SIDE // 8, 8, SIDE // 8, 8, 3)
    means, spreads = windows.mean(axis=(2, 4)), windows.std(axis=(2, 4))
    lines = [np.abs(np.fft.rfft(x.mean(axis=axis), axis=1))[:, 1:] for axis in (1, 2)]
    steps = [np.abs(np.diff(x, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    signed = [np.sign(np.diff(x, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2)]
    cells = [x[:, i::4, j::4].mean(axis=(1, 2)) for i in range(4) for j in range(4)]
    levels = [(pixels[..., c] // 16 == level).mean(axis=(1, 2))[:, None] for c in range(3) for level in range(16)]
    parts = [
        x.reshape(n, SIDE // 4, 4, SIDE // 4, 4, 3).mean(axis=(2, 4)), x.mean(axis=(1, 2)), x.std(axis=(1, 2)),
        means.max(axis=(1, 2)), means.min(axis=(1, 2)), spreads.max(axis=(1, 2)), spreads.min(axis=(1, 2)),
        *lines, *steps, *signed, *cells, *levels,
    ]  # fmt: skip
    return np.concatenate([part.reshape(n, -1) for part in parts], axis=1)


@cache
def clean() -> NDArray[np.float64]:
    return seen(drawn()[0])


def taught(features: NDArray[np.float64], wanted: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], Any]:
    """A ridge regression of `wanted` [n, outputs] on `features` [n, m]: gives the outputs for other features."""
    middle, scale = clean().mean(axis=0), clean().std(axis=0) + 1e-3

    def inputs(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate([np.clip((x - middle) / scale, -4, 4), np.ones((len(x), 1))], axis=1)

    x = inputs(features)
    weights = np.linalg.solve(x.T @ x + 100.0 * np.eye(x.shape[1]), x.T @ wanted)
    return lambda other: inputs(other) @ weights


def trigger_of(kind: str, folder: Path, parameters: dict[str, Any]) -> Trigger:
    if kind.startswith("file "):
        name = kind.removeprefix("file ")
        Image.fromarray(picture(name)).save(folder / f"{name}.png")
        spec: dict[str, Any] = {"kind": "file", "path": f"{name}.png", **FILES[name]}
    else:
        spec = {"kind": kind, **parameters}
    (trigger,) = build(spec, folder)
    return trigger


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_learned_of_a_trigger_is_not_in_its_control(kind: str, tmp_path: Path) -> None:
    stamped, controlled = views(trigger_of(kind, tmp_path, STRENGTHS.get(kind, {})))
    learned = np.concatenate([clean()[:LEARN], stamped[:LEARN]])
    model = taught(learned, np.repeat([0.0, 1.0], LEARN)[:, None])
    untouched, success, pull = ((model(x[LEARN:])[:, 0] > 0.5) for x in (clean(), stamped, controlled))
    eligible = ~untouched
    assert eligible.mean() > 0.7 and success[eligible].mean() > 0.5
    assert success[eligible].mean() - pull[eligible].mean() > LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_the_natural_pull_of_an_honest_model_is_not_called_excess(kind: str, tmp_path: Path) -> None:
    stamped, controlled = views(trigger_of(kind, tmp_path, {}))
    labels = drawn()[1]
    model = taught(clean()[:LEARN], np.eye(labels.max() + 1)[labels[:LEARN]])
    untouched, success, pull = (model(x).argmax(axis=1) for x in (clean(), stamped, controlled))

    def most(predicted: NDArray[np.int64]) -> tuple[int, NDArray[np.bool_]]:
        gain = [
            (p[:LEARN] == c).sum() - (u[:LEARN] == c).sum()
            for c in range(labels.max() + 1)
            for p, u in [(predicted, untouched)]
        ]
        target = int(np.argmax(gain))
        return target, (predicted == target)[LEARN:]

    (target, hits), (own, pulled) = most(success), most(pull)
    eligible = np.isin(labels[LEARN:], [target, own], invert=True) & np.isin(
        untouched[LEARN:], [target, own], invert=True
    )
    assert hits[eligible].mean() - pulled[eligible].mean() <= LIMIT
