"""Find a model's preprocessing where its open_clip configuration does not define it.

open_clip has a table of it for each tag of published weights. `preprocessing.json` is a copy, written by
`benchmarks/preprocessing.py`, so that reading it needs no torch. Other libraries store the preprocessing in a
`preprocessor_config.json`. Nothing is guessed: where these differ, the error names the choices or the contradiction.
"""

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pargate.core.model import Preprocess
from pargate.errors import InputError, nearest
from pargate.models.config import CONFIG_NAME, architectures, base_name, load_json, preprocess

PREPROCESSOR_NAME = "preprocessor_config.json"
"""File name of Hugging Face's image processors."""

PROCESSOR_NAME = "processor_config.json"
"""File name under which transformers 5 saves an image processor together with a tokenizer."""

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Names of Pillow's filters, by number."""

FIELDS = {"mean": "mean", "std": "std", "interpolation": "interpolation", "resize_mode": "resize", "size": "size"}
"""Attributes of `Preprocess`, by field of a `preprocess_cfg`."""

TOLERANCE = 1e-4
"""Largest difference between equal means or deviations: a fortieth of one step of an 8-bit pixel."""


# --- open_clip's table -------------------------------------------------------------------------------


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_bytes())
    return found


def _tags(name: str) -> dict[str, tuple[int, bool]]:
    """Return the kind of preprocessing, and whether QuickGELU is used, of every tag of an architecture.

    Raises:
        InputError: the installed open_clip has the architecture, but the table does not.
    """
    table = _table()
    known = table["architectures"]
    found: dict[str, tuple[int, bool]] | None = known.get(name, known.get(base_name(name)))
    if found is None:
        raise InputError(
            f"pargate does not know how images are prepared for {name}: its table is of open_clip {table['open_clip']}",
            f"put an {CONFIG_NAME} with a preprocess_cfg beside the weights",
        )
    return found


def named(arch: str) -> tuple[str, str | None]:
    """Return the architecture, and the tag or None, that `--arch NAME` or `--arch NAME/TAG` means.

    Raises:
        InputError: open_clip publishes no weights of that tag.
    """
    known = architectures()
    plain, (name, _, tag) = arch.replace("/", "-"), arch.rpartition("/")
    name = name.replace("/", "-")
    if {plain, base_name(plain)} & known.keys() or not {name, base_name(name)} & known.keys():
        return plain, None
    # The spelling of open_clip's tags.
    tag, tags = tag.lower().replace("-", "_"), list(_tags(name))
    if tag not in tags:
        raise InputError(
            f"open_clip publishes no weights '{tag}' of {name}.{nearest(tag, tags)}",
            f"known are: {', '.join(tags)}" if tags else f"use --arch {name}: open_clip publishes no weights of it",
        )
    return name, tag


def quick_gelu(name: str, tag: str) -> bool:
    """Return whether the weights of a tag were trained with QuickGELU."""
    return _tags(name)[tag][1]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to prepare images, and the tags whose weights need it."""

    preprocess_cfg: dict[str, Any]
    tags: tuple[str, ...]


def ways(name: str, tag: str | None) -> list[Way]:
    """Return the ways to prepare images for open_clip's weights of an architecture, or for one tag.

    Raises:
        InputError: the installed open_clip has the architecture, but the table does not.
    """
    kinds: dict[int, list[str]] = {}
    for other, (kind, _) in _tags(name).items():
        if tag in (None, other):
            kinds.setdefault(kind, []).append(other)
    return [Way(_table()["kinds"][kind], tuple(tags)) for kind, tags in kinds.items()]


def undecided(name: str, config: dict[str, Any], found: list[Way]) -> InputError:
    """Return the error for an architecture whose weights need different preprocessing."""
    shown = "; ".join(f"{preprocess(config, way.preprocess_cfg, name)} ({', '.join(way.tags)})" for way in found)
    return InputError(
        f"--arch {name} does not define how images are prepared, since its weights differ: {shown}",
        f"name the weights that yours are or come from, such as "
        f"{' or '.join(f'--arch {name}/{way.tags[0]}' for way in found)}, or put an {CONFIG_NAME} beside the file",
    )


# --- Hugging Face's image processors -----------------------------------------------------------------


def of_processor(path: Path) -> dict[str, Any]:
    """Return the preprocessing of a `preprocessor_config.json` as the fields of a `preprocess_cfg`.

    Raises:
        InputError: the file is not readable, or no `preprocess_cfg` can express it.
    """
    document = load_json(path)
    document = document.get("image_processor", document if path.name == PREPROCESSOR_NAME else {})
    if not isinstance(document, dict):
        raise InputError(f"{path}: image_processor is not an object", "restore the file")
    given = {key: value for key, value in document.items() if value is not None}
    said: dict[str, Any] = {}
    for key, ours in (("image_mean", "mean"), ("image_std", "std"), ("resample", "interpolation")):
        if key in given:
            said[ours] = given[key]
    number = said.get("interpolation")
    if type(number) is int and 0 <= number < len(RESAMPLE):
        said["interpolation"] = RESAMPLE[number]
    if given.get("do_normalize") is False:
        said |= {"mean": 0, "std": 1}
    factor = given.get("rescale_factor", 1 / 255)
    if given.get("do_rescale") is False or type(factor) not in (int, float) or abs(255 * factor - 1) > TOLERANCE:
        raise InputError(f"{path} does not divide pixels by 255, as open_clip always does", "correct or remove it")
    return said | _resized(given, path)


def _resized(given: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the resize mode and the size from an image processor's settings."""
    size, crop = given.get("size"), _sides(given.get("crop_size"))
    crops = given.get("do_center_crop", "crop_size" in given) is True
    if size is None and given.get("do_resize") is not False and (crop or "crop_size" not in given):
        return {"size": crop} if crops and crop else {}
    # A single number is the short side for processors that crop, and both sides for others.
    edge = size.get("shortest_edge") if isinstance(size, dict) else size if crops else None
    sides = _sides(size) if edge is None else [edge, edge]
    fits = not crops or crop == sides or "crop_size" not in given
    if given.get("do_resize") is False or sides is None or not fits or (edge is not None and not crops):
        then = f"cut to {given.get('crop_size')}" if crops else "not cut"
        raise InputError(
            f"{path} prepares images as no open_clip model does: do_resize {given.get('do_resize', True)}, to "
            f"{size}, then {then}",
            "correct or remove it",
        )
    return {"resize_mode": "squash" if edge is None else "shortest", "size": sides}


def _sides(size: Any) -> list[Any] | None:
    """Return rows and columns from a processor's size, or None."""
    match size:
        case {"height": rows, "width": columns}:
            return [rows, columns]
        case int():
            return [size, size]
    return None


# --- contradictions ----------------------------------------------------------------------------------


def refuse_contradiction(
    rule: Preprocess, said_by: str, config: dict[str, Any], overlay: dict[str, Any], by: str
) -> None:
    """Raise if a rule contradicts the `preprocess_cfg` `overlay` of another source.

    Raises:
        InputError: as above, or a value in `overlay` is not supported.
    """
    other = preprocess(config, overlay, by)
    if "size" in overlay:
        other = replace(other, size=tuple(overlay["size"]))
    wrong = [
        f"{name} is {getattr(rule, attribute)} in the one and {getattr(other, attribute)} in the other"
        for name, attribute in FIELDS.items()
        if name in overlay and not _same(getattr(rule, attribute), getattr(other, attribute))
    ]
    if wrong:
        raise InputError(
            f"{said_by} and {by} contradict each other: {'; '.join(wrong)}",
            "find out which is right, and correct or remove the other",
        )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(one[0], float):
        return all(math.isclose(a, b, abs_tol=TOLERANCE) for a, b in zip(one, other, strict=True))
    return bool(one == other)
