"""Every kind of trigger is held to what it declares of itself, and all of them to the laws of stamping.

Kinds come from the table, so a new one is held to them from its first day.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pargate.core.stamp import ONE, Mix, Paste, apply
from pargate.triggers import TRIGGERS, Invariant, Trigger, build, control, parse

Pixels = NDArray[np.uint8]
Size = tuple[int, int]

sides = st.integers(32, 96)
sizes = st.tuples(sides, sides)
root_seeds = st.integers(0, 5)
shares = st.floats(0.0, 1.0)

# A length that fits every size above.
lengths = st.integers(1, 32) | st.integers(1, 223).map(lambda n: f"{n}/224")
draws = st.sampled_from(["per-image", "fixed"])
directions = st.sampled_from(["vertical", "horizontal"])
numbers = st.integers(0, 99)
places = st.sampled_from(["random", "center", "top-left", "top-right", "bottom-left", "bottom-right"])
lattices = st.fixed_dictionaries({"step": st.integers(1, 40)})

PARAMETERS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "badnet": {"size": lengths, "position": places | lattices, "draw": draws, "seed": numbers},
    "stripes-patch": {"size": lengths, "position": places | lattices, "draw": draws, "seed": numbers, "width": lengths},
    "lattice": {"size": lengths, "position": places | lattices},
    "yellow-patch": {"size": lengths, "position": places | lattices},
    "four-corners": {"size": lengths},
    "blended": {"alpha": shares, "draw": draws, "seed": numbers},
    "blended-stripes": {"alpha": shares, "width": lengths | st.just("mixed"), "draw": draws, "seed": numbers},
    "triangles": {"alpha": shares, "cell": lengths},
    "watermark": {"alpha": shares, "width": lengths, "text": st.sampled_from(["Watermarked", "x", "O K"])},
    "sig": {"delta": st.floats(0.0, 60.0), "frequency": st.floats(0.5, 40.0)},
    "wanet": {"k": st.integers(2, 224), "s": st.floats(0.0, 4.0), "seed": numbers},
    "tone": {"gamma": st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3)},
    "curves": {name: st.lists(st.integers(-255, 255), min_size=2, max_size=9) for name in ("red", "green", "blue")},
    "bpp": {"levels": st.integers(2, 256)},
    "file": {"mode": st.sampled_from(["patch", "blend", "masked-blend"]), "alpha": shares, "size": lengths},
}
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "overflow": st.sampled_from(["wrap", "clip"]),
    "scale": st.sampled_from(["fixed", "proportional"]),
}
JPEG: dict[str, st.SearchStrategy[Any]] = {"jpeg_quality": st.integers(1, 100)}

KINDS = pytest.mark.parametrize("kind", TRIGGERS)
LAWS = pytest.mark.parametrize(
    ("kind", "law"), [(kind, law) for kind, cls in TRIGGERS.items() for law in sorted(cls.invariants)]
)
BLENDS = pytest.mark.parametrize("kind", ["blended", "blended-stripes", "triangles", "watermark"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the picture that `file` triggers show: noise with a black frame."""
    pixels = np.zeros((12, 10, 3), dtype=np.uint8)
    pixels[2:-2, 2:-2] = np.random.default_rng(0).integers(1, 256, (8, 6, 3))
    path: Path = tmp_path_factory.mktemp("pictures")
    Image.fromarray(pixels).save(path / "trigger.png")
    yield path


def described(kind: str, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Maps that a policy may hold for a kind, with any of its parameters."""
    required = {"kind": st.just(kind)} | ({"path": st.just("trigger.png")} if kind == "file" else {})
    return st.fixed_dictionaries(required, optional={**PARAMETERS[kind], **OPTIONS, **more})


def one(spec: dict[str, Any], folder: Path) -> Trigger:
    (trigger,) = build(spec, folder)
    return trigger


def digests(count: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)]


def images(size: Size, count: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def flat(size: Size, colours: list[tuple[int, int, int]]) -> Pixels:
    return np.broadcast_to(np.array(colours, dtype=np.uint8)[:, None, None], (len(colours), *size, 3)).copy()


def stamped(trigger: Trigger, pixels: Pixels, names: list[str], seed: int) -> Pixels:
    return apply(trigger.draw(pixels.shape[1:3], names, seed), pixels)


def shown(trigger: Trigger, pixels: Pixels, names: list[str], seed: int) -> Pixels:
    """Stamped images above their controls: [2, n, H, W, 3]."""
    size = pixels.shape[1:3]
    stamp = trigger.draw(size, names, seed)
    return np.stack([apply(stamp, pixels), apply(control(trigger, stamp, size, names, seed), pixels)])


# ---- what a kind declares of itself


def holds(law: Invariant, trigger: Trigger, size: Size, seed: int) -> bool:
    pixels, names = images(size, 3, seed), digests(3)
    grey = pixels[..., :1].repeat(3, axis=-1)
    plain = flat(size, [(128, 128, 128), (10, 200, 90), (255, 0, 1)])
    match law:
        case Invariant.LOCAL:
            stamp = trigger.draw(size, names, seed)
            assert isinstance(stamp, Paste)
            outside = np.ones(pixels.shape[:3], dtype=bool)
            height, width = stamp.window.shape[1:3]
            for image, corners in enumerate(stamp.places):
                for row, column in corners:
                    outside[image, row : row + height, column : column + width] = False
            return bool((apply(stamp, pixels)[outside] == pixels[outside]).all())
        case Invariant.COLUMNS:
            after = stamped(trigger, plain, names, seed)
            return bool((after == after[:, :1]).all())
        case Invariant.ROWS:
            after = stamped(trigger, plain, names, seed)
            return bool((after == after[:, :, :1]).all())
        case Invariant.GREY:
            after = stamped(trigger, grey, names, seed)
            return bool((after == after[..., :1]).all())
        case Invariant.RED_ONLY:
            return bool((stamped(trigger, pixels, names, seed) == pixels)[..., 1:].all())
        case Invariant.PIXELWISE:
            order = np.random.default_rng(seed).permutation(size[0] * size[1])
            mixed = pixels.reshape(3, -1, 3)[:, order].reshape(pixels.shape)
            after = stamped(trigger, pixels, names, seed).reshape(3, -1, 3)[:, order]
            return bool((stamped(trigger, mixed, names, seed).reshape(3, -1, 3) == after).all())
        case Invariant.KEEPS_FLAT:
            return bool((stamped(trigger, plain, names, seed) == plain).all())
        case Invariant.SAME_FOR_ALL:
            equal = pixels[:1].repeat(3, axis=0)
            after = stamped(trigger, equal, names, seed)
            return bool((after == after[0]).all())
        case Invariant.DRAWN_PER_IMAGE:
            after = stamped(trigger, flat(size, [(128, 128, 128)] * 2), names[:2], seed)
            return bool((after[0] != after[1]).any())
        case Invariant.IDENTITY_AT_ZERO:
            return bool((stamped(trigger, pixels, names, seed) == pixels).all())


@LAWS
@settings(deadline=None, max_examples=8)
@given(data=st.data(), size=sizes, seed=root_seeds)
def test_a_trigger_keeps_the_law_that_it_declares(
    kind: str, law: Invariant, folder: Path, data: st.DataObject, size: Size, seed: int
) -> None:
    spec = {"kind": kind} if law is Invariant.DRAWN_PER_IMAGE else data.draw(described(kind))
    if law is Invariant.IDENTITY_AT_ZERO:
        strength = TRIGGERS[kind].strength
        assert strength is not None
        spec[strength] = 0.0
    assert holds(law, one(spec, folder), size, seed)


@pytest.mark.parametrize("kind", [kind for kind, cls in TRIGGERS.items() if "direction" in cls.model_fields])
@settings(deadline=None, max_examples=8)
@given(data=st.data(), size=sizes, seed=root_seeds)
def test_a_pattern_that_is_turned_keeps_to_rows_instead_of_columns(
    kind: str, folder: Path, data: st.DataObject, size: Size, seed: int
) -> None:
    assert Invariant.COLUMNS in TRIGGERS[kind].invariants
    trigger = one({**data.draw(described(kind)), "direction": "horizontal"}, folder)
    assert holds(Invariant.ROWS, trigger, size, seed)


def test_every_kind_is_drawn_by_these_laws_with_all_its_parameters() -> None:
    ignored = {"name", "jpeg_quality", "overflow", "scale", "direction", "path", "sha256"}
    for kind, cls in TRIGGERS.items():
        fields = {info.alias or name for name, info in cls.model_fields.items()} - ignored
        assert set(PARAMETERS[kind]) | ({"position"} if kind == "file" else set()) == fields, kind


# ---- what holds for all


@KINDS
@settings(deadline=None, max_examples=6)
@given(data=st.data(), size=sizes, seed=root_seeds)
def test_neither_order_nor_company_changes_a_stamp_or_its_control(
    kind: str, folder: Path, data: st.DataObject, size: Size, seed: int
) -> None:
    trigger = one(data.draw(described(kind, **JPEG)), folder)
    pixels, names = images(size, 4, seed), digests(4)
    together = shown(trigger, pixels, names, seed)
    order = data.draw(st.permutations(range(4)))
    assert (shown(trigger, pixels[order], [names[i] for i in order], seed) == together[:, order]).all()
    assert (shown(trigger, pixels[:1], names[:1], seed) == together[:, :1]).all()
    company = np.concatenate([images(size, 3, seed + 1), pixels])
    assert (shown(trigger, company, [*digests(40)[-3:], *names], seed)[:, 3:] == together).all()


@KINDS
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_a_trigger_is_read_back_from_its_parameters(kind: str, folder: Path, data: st.DataObject) -> None:
    trigger = one(data.draw(described(kind, **JPEG)), folder)
    path = {"path": "trigger.png"} if kind == "file" else {}
    for written in (trigger.parameters, json.loads(trigger.id)):
        again = one({**written, **path}, folder)
        assert again == trigger and again.id == trigger.id and again.digest == trigger.digest


@KINDS
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_ids_are_equal_exactly_when_the_parameters_are(kind: str, folder: Path, data: st.DataObject) -> None:
    first = data.draw(described(kind, **JPEG))
    others = data.draw(described(kind, **JPEG))
    changed = data.draw(st.sets(st.sampled_from(sorted(others))))
    second = first | {key: others[key] for key in changed}
    one_, other = one(first, folder), one(second, folder)
    assert (one_.id == other.id) == (one_ == other)
    assert (one_.id == other.id) == (one_.digest == other.digest)


@KINDS
@settings(deadline=None, max_examples=6)
@given(data=st.data(), seed=root_seeds)
def test_writing_a_default_out_or_giving_a_name_changes_no_pixel(
    kind: str, folder: Path, data: st.DataObject, seed: int
) -> None:
    spec = data.draw(described(kind))
    trigger = one(spec, folder)
    (default,) = parse({key: spec[key] for key in ("kind", "path") if key in spec})
    explicit = (
        one({**default.parameters, "sha256": "", **spec, "name": "ours"}, folder)
        if kind == "file"
        else one({**default.parameters, **spec, "name": "ours"}, folder)
    )
    pixels, names = images((40, 48), 2), digests(2)
    assert explicit.id == trigger.id
    assert (shown(explicit, pixels, names, seed) == shown(trigger, pixels, names, seed)).all()


@KINDS
@settings(deadline=None, max_examples=4)
@given(data=st.data(), size=sizes)
def test_the_root_seed_draws_everything_that_is_drawn_per_image(
    kind: str, folder: Path, data: st.DataObject, size: Size
) -> None:
    trigger = one({"kind": kind, **({"path": "trigger.png"} if kind == "file" else {})}, folder)
    pixels, names = flat(size, [(128, 128, 128)] * 4), digests(4)
    first, again, other = (stamped(trigger, pixels, names, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    if Invariant.DRAWN_PER_IMAGE in trigger.invariants:
        assert (first != other).any()
    elif Invariant.SAME_FOR_ALL in trigger.invariants:
        assert (first == other).all()


# ---- blends


def check_blend(trigger: Trigger, full: Trigger, alpha: float, size: Size, seed: int) -> None:
    """x' is clip((1 − alpha)·x + alpha·n), truncated; `full` shows n, its mask being where nothing of x is left."""
    pixels = images(size, 2, seed)
    pattern = full.draw(size, digests(2), seed)
    assert isinstance(pattern, Mix)
    blended = np.clip((1 - alpha) * pixels + alpha * pattern.offset / ONE, 0, 255)
    expected = np.where(pattern.gain == 0, blended, pixels)
    missing = expected - stamped(trigger, pixels, digests(2), seed)
    # Truncation takes less than a level; fixed point adds at most 1/256 of one.
    assert missing.min() >= -1 / 128 and missing.max() <= 1 + 1 / 128


@BLENDS
@settings(deadline=None, max_examples=15)
@given(data=st.data(), alpha=shares, size=sizes, seed=root_seeds)
def test_a_blend_is_the_weighted_sum_truncated_to_a_level(
    kind: str, folder: Path, data: st.DataObject, alpha: float, size: Size, seed: int
) -> None:
    spec = data.draw(described(kind)) | {"overflow": "clip"}
    if "draw" in spec or "draw_mode" in TRIGGERS[kind].model_fields:
        spec["draw"] = "fixed"  # a pattern drawn per image depends on alpha, through the trigger's id
    check_blend(one({**spec, "alpha": alpha}, folder), one({**spec, "alpha": 1.0}, folder), alpha, size, seed)


@pytest.mark.parametrize("mode", ["blend", "masked-blend"])
@settings(deadline=None, max_examples=15)
@given(alpha=shares, size=sizes)
def test_a_blended_picture_is_the_weighted_sum_truncated_to_a_level(
    mode: str, folder: Path, alpha: float, size: Size
) -> None:
    spec = {"kind": "file", "path": "trigger.png", "mode": mode}
    check_blend(one({**spec, "alpha": alpha}, folder), one({**spec, "alpha": 1.0}, folder), alpha, size, 0)


@settings(deadline=None, max_examples=15)
@given(data=st.data(), size=sizes, seed=root_seeds)
def test_the_sinusoid_is_added_and_truncated_to_a_level(
    folder: Path, data: st.DataObject, size: Size, seed: int
) -> None:
    spec = {"delta": 12.0, "frequency": 6.0} | data.draw(described("sig")) | {"overflow": "clip"}
    wave = spec["delta"] * np.sin(2 * np.pi * spec["frequency"] * np.arange(size[1]) / size[1])
    pixels = images(size, 2, seed)
    expected = np.clip(pixels + wave[:, None], 0, 255)
    missing = expected - stamped(one(spec, folder), pixels, digests(2), seed)
    assert missing.min() >= -1 / 128 and missing.max() <= 1 + 1 / 128


# ---- places


@pytest.mark.parametrize("kind", [kind for kind in TRIGGERS if "position" in PARAMETERS[kind]])
@settings(deadline=None, max_examples=10)
@given(length=st.integers(1, 31), size=sizes, seed=root_seeds)
def test_a_random_place_never_covers_the_last_row_or_column(kind: str, length: int, size: Size, seed: int) -> None:
    (trigger,) = parse({"kind": kind, "size": length})
    stamp = trigger.draw(size, digests(200), seed)
    assert isinstance(stamp, Paste)
    assert (stamp.places >= 0).all()
    assert (stamp.places + length <= np.array(size) - 1).all()
