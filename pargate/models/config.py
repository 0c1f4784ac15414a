"""Read open_clip's model configurations, check their bounds, and derive the preprocessing.

A configuration comes with the weights and is not trusted: it decides how much memory is allocated, and some of its
fields make libraries download files or run code from elsewhere. Here it is read as JSON and checked; `torch/build.py`
builds the model. open_clip's own configurations come from the files of the installed package, without importing it.
"""

import importlib.util
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from pargate import limits
from pargate.core.model import Activation, Preprocess
from pargate.errors import InputError, OperationalError, nearest
from pargate.files import digest_of, read_bytes, refuse_pointer, sha256_file
from pargate.models.hugging_face import TOWER

CONFIG_NAME = "open_clip_config.json"

WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""File names that open_clip 3.3 prefers in a folder (`_find_checkpoint_in_dir`), in its order."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Channel means of OpenAI's training images: open_clip's default (`open_clip/constants.py`)."""

STD = (0.26862954, 0.26130258, 0.27577711)
"""Channel standard deviations of the same images."""

IMAGE_SIZE = 224
PATCH_SIZE = 16
VOCABULARY = 49408
"""Defaults of open_clip for fields that a configuration omits (`CLIPVisionCfg`, `CLIPTextCfg`)."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "config.json",
)
"""Files of a Hugging Face tokenizer; few of them are needed."""

VOCABULARY_FILES = frozenset(
    {
        "tokenizer.json",
        "vocab.json",
        "vocab.txt",
        "spiece.model",
        "sentencepiece.bpe.model",
        "tokenizer.model",
    }
)
"""Files of which at least one must exist."""

UNREAD = ("tekken.json", "tiktoken.model")
"""Files that transformers prefers to those of `VOCABULARY_FILES`, except `tokenizer.json`."""

CLEANINGS = ("canonicalize", "lower", "whitespace")


def load_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a small file.

    Raises:
        InputError: the file is not readable or too large, or as `parse_object`.
    """
    try:
        content = read_bytes(path, limits.CONFIG_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "give the configuration of a model") from error
    return parse_object(content, str(path))


def parse_object(content: bytes, name: str) -> dict[str, Any]:
    """Return a JSON object; `name` is for messages.

    Raises:
        InputError: not a JSON object, a number that is not finite or too long, or a repeated key, which readers treat
            differently.
    """
    refuse_pointer(name, content)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key occurs twice")
        return found

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"{text} is no JSON number")

    def integer(text: str) -> int:
        if text == "-0":  # some readers make it an integer, others a float
            refuse(text)
        if len(text) > limits.CONFIG_DIGITS:
            raise ValueError(f"a number has {len(text)} digits, and at most {limits.CONFIG_DIGITS} are read")
        return int(text)

    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse, parse_int=integer)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: {str(error)[:120]}", "restore the file") from error
    if not isinstance(value, dict):
        raise InputError(f"{name} does not hold a JSON object", "restore the file")
    return value


# --- architectures -----------------------------------------------------------------------------------


def architectures() -> dict[str, Path]:
    """Return the paths of open_clip's architecture configurations by name, from the installed package.

    Raises:
        OperationalError: open_clip is not installed.
    """
    # Finding a top-level package runs none of its code, so torch is not imported.
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise OperationalError("open_clip is not installed", "install pargate with its dependencies")
    return {path.stem: path for path in sorted((Path(spec.origin).parent / "model_configs").glob("*.json"))}


def packaged(path: Path) -> dict[str, Any]:
    """Return the configuration at one of the paths of `architectures`."""
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def base_name(name: str) -> str:
    """Return an architecture's name without the ending that names its activation."""
    return name.removesuffix("-quickgelu").removesuffix("-gelu")


def architecture(name: str) -> dict[str, Any]:
    """Return the model configuration of an architecture; its name may end in `-quickgelu` or `-gelu`.

    Raises:
        InputError: open_clip has no architecture of that name.
    """
    known = architectures()
    plain = name.replace("/", "-")
    if plain in known:
        return packaged(known[plain])
    base = base_name(plain)
    if base in known:
        return {**packaged(known[base]), "quick_gelu": plain.endswith("-quickgelu")}
    raise InputError(
        f"unknown architecture '{name}'.{nearest(plain, list(known))}",
        "the names are open_clip's, such as ViT-B-32 or RN50",
    )


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the fields in which two model configurations differ, with both values; absent equals null, false and 0."""

    def flat(config: dict[str, Any]) -> dict[str, Any]:
        parts = {section: part for section, part in _parts(config)}
        return {
            f"{section}{key}": value
            for section, part in parts.items()
            for key, value in part.items()
            if value not in (None, False) and not (section == "" and f"{key}." in parts)
        }

    first, second = flat(one), flat(other)
    return [
        f"{key} is {first.get(key, 'not set')} in the one and {second.get(key, 'not set')} in the other"
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    ]


def says_activation(config: dict[str, Any]) -> bool:
    """Return whether an architecture's configuration decides between GELU and QuickGELU."""
    return "quick_gelu" in config or any("act_kwargs" in config[part] for part in ("vision_cfg", "text_cfg"))


def with_activation(name: str, activation: Activation) -> str:
    """Return an architecture's name with the ending that names its activation."""
    return f"{name}-{'quickgelu' if activation == 'quick_gelu' else 'gelu'}"


def name_of(config: dict[str, Any]) -> str:
    """Return open_clip's name for exactly this configuration, or a description where it has none."""
    plain = {key: value for key, value in config.items() if key != "quick_gelu" or value}
    for name, path in architectures().items():
        if packaged(path) == plain:
            return name
    vision = config["vision_cfg"]
    side = "×".join(str(s) for s in dict.fromkeys(image_size(config)))
    if vision.get("timm_model_name"):
        return f"{vision['timm_model_name']}, {side} px"
    layers = vision.get("layers", 12)
    if isinstance(layers, list):
        return f"ResNet, {side} px, layers {'-'.join(map(str, layers))}, width {vision.get('width', 768)}"
    patch = vision.get("patch_size", PATCH_SIZE)
    return f"ViT, {side} px, patch {patch}, width {vision.get('width', 768)}, {layers} layers"


# --- sanity ------------------------------------------------------------------------------------------


def check(config: dict[str, Any], name: str) -> None:
    """Raise if a model configuration is incomplete, out of bounds, or asks for downloads or foreign code.

    Raises:
        InputError: as above; the message names the field and its bounds.
    """
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        if key not in config:
            raise InputError(f"{name} has no {key}: not an open_clip model configuration", "restore the file")
    for section in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        if not isinstance(config.get(section, {}), dict):
            raise InputError(f"{name}: {section} is not an object", "restore the file")
    for where, part in _parts(config):
        for key, value in part.items():
            if key in limits.FIELDS and value is not None:
                _check_bound(key, value, f"{name}: {where}{key}")
            if key in ("auto_map", "trust_remote_code"):
                raise InputError(f"{name}: {where}{key} asks to run code from elsewhere", "remove it")
            if key in ("act_kwargs", "norm_kwargs") and value is not None:
                _check_flat(value, f"{name}: {where}{key}")
    _check_towers(config["vision_cfg"], config["text_cfg"], name)


def _parts(config: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    yield "", config
    for section in ("vision_cfg", "text_cfg", "multimodal_cfg"):
        yield f"{section}.", config.get(section, {})
    yield f"text_cfg.{TOWER}.", config.get("text_cfg", {}).get(TOWER, {})


def _check_bound(key: str, value: Any, where: str) -> None:
    low, high = limits.FIELDS[key]
    values = value if isinstance(value, list) and key in ("image_size", "patch_size", "layers") else [value]
    kinds = (int, float) if key == "mlp_ratio" else (int,)
    if not values or len(values) > 8 or not all(type(v) in kinds and low <= v <= high for v in values):
        raise InputError(f"{where} is {str(value)[:60]!r}, but must lie from {low} to {high}", "restore the file")
    if key == "layers" and sum(values) > high:
        raise InputError(f"{where} adds up to {sum(values)}, but at most to {high}", "restore the file")


def _check_flat(value: Any, where: str) -> None:
    if not isinstance(value, dict) or not all(type(v) in (bool, int, float, str) for v in value.values()):
        raise InputError(f"{where} may only hold plain numbers and words", "restore the file")


def _check_towers(vision: dict[str, Any], text: dict[str, Any], name: str) -> None:
    if text.get("hf_model_name"):
        raise InputError(
            f"{name}: the text tower is a Hugging Face model ({str(text['hf_model_name'])[:80]}), "
            "which pargate does not read yet",
            "only open_clip's own text towers can be measured for now",
        )
    timm = vision.get("timm_model_name")
    # A name with a prefix such as `hf-hub:`, or a path, would make timm download or read other files.
    if timm is not None and not (isinstance(timm, str) and re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", timm)):
        raise InputError(f"{name}: vision_cfg.timm_model_name {str(timm)[:80]!r} is not a timm model", "correct it")
    if timm is None and not isinstance(vision.get("layers"), list):
        patch = vision.get("patch_size") or PATCH_SIZE
        high, wide = (patch, patch) if isinstance(patch, int) else (patch[0], patch[-1])
        rows, columns = image_size({"vision_cfg": vision})
        if (rows // high) * (columns // wide) > limits.PATCHES:
            raise InputError(
                f"{name}: {rows}×{columns} pixels in patches of {high}×{wide} are more than {limits.PATCHES} patches",
                "correct vision_cfg.image_size or vision_cfg.patch_size",
            )
    options = text.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict):
        raise InputError(f"{name}: text_cfg.tokenizer_kwargs is not an object", "restore the file")
    for key, value in options.items():
        # Any other option reaches the tokenizer's loader, where it can read files or run code.
        if not ((key == "clean" and value in CLEANINGS) or (key == "strip_sep_token" and isinstance(value, bool))):
            raise InputError(
                f"{name}: text_cfg.tokenizer_kwargs may hold clean ({', '.join(CLEANINGS)}) and strip_sep_token, "
                f"not {str(key)[:40]!r}: {str(value)[:40]!r}",
                "remove it",
            )
    if text.get("tokenizer_mode") not in (None, "", "clips"):
        raise InputError(f"{name}: unknown text_cfg.tokenizer_mode", "restore the file")


# --- derived from a configuration --------------------------------------------------------------------


def image_size(config: dict[str, Any]) -> tuple[int, int]:
    """Return the rows and columns of the model's input."""
    size = config["vision_cfg"].get("image_size") or IMAGE_SIZE
    rows, columns = (size, size) if isinstance(size, int) else size if len(size) == 2 else (size[0], size[0])
    return rows, columns


def preprocess(config: dict[str, Any], overlay: dict[str, Any], name: str) -> Preprocess:
    """Return the preprocessing of a model: open_clip's defaults, overridden by `overlay`, its `preprocess_cfg`.

    The size is always that of the tower, as in open_clip's `create_model`.

    Raises:
        InputError: a value that open_clip does not support.
    """
    given = {key: value for key, value in overlay.items() if value is not None}
    resize, interpolation = given.get("resize_mode", "shortest"), given.get("interpolation", "bicubic")
    fill = given.get("fill_color", 0)
    if resize not in ("shortest", "longest", "squash"):
        raise InputError(f"{name}: unknown resize_mode {str(resize)[:40]!r}", "shortest, longest or squash")
    if interpolation not in ("bicubic", "bilinear"):
        raise InputError(f"{name}: unknown interpolation {str(interpolation)[:40]!r}", "bicubic or bilinear")
    if given.get("mode", "RGB") != "RGB":
        raise InputError(f"{name}: images of mode {str(given['mode'])[:40]!r} are not supported", "use RGB")
    if type(fill) is not int or not 0 <= fill <= 255:
        raise InputError(f"{name}: fill_color is {str(fill)[:40]!r}, but must lie from 0 to 255", "correct it")
    if "size" in given:
        _check_bound("image_size", given["size"], f"{name}: size")
    std = _channels(given.get("std", STD), f"{name}: std", limits.DEVIATIONS)
    mean = _channels(given.get("mean", MEAN), f"{name}: mean", limits.MEANS)
    return Preprocess(image_size(config), mean, std, interpolation, resize, fill)


def _channels(value: Any, where: str, bounds: tuple[float, float]) -> tuple[float, float, float]:
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    low, high = bounds
    if len(values) != 3 or not all(type(v) in (int, float) and low <= v <= high for v in values):
        raise InputError(
            f"{where} is {str(value)[:60]}, but must be three numbers from {low:g} to {high:g}",
            "correct it: pixels are divided by 255 before the mean is subtracted",
        )
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def config_digest(config: dict[str, Any], rule: Preprocess, tokenizer: dict[str, str]) -> str:
    """Return the digest of everything except the weights; `tokenizer` holds the digests of its files by name."""
    return digest_of({"model_cfg": config, "preprocess": asdict(rule), "tokenizer": tokenizer})


def tokenizer_files(config: dict[str, Any], folder: Path | None, name: str) -> dict[str, str]:
    """Return the digests of the tokenizer's files by name; none where open_clip's own tokenizer is used.

    Raises:
        InputError: the configuration names a Hugging Face tokenizer that does not lie beside the weights, or that would
            run its own code.
    """
    wanted = config["text_cfg"].get("hf_tokenizer_name")
    if not wanted:
        return {}
    here = [f for f in TOKENIZER_FILES if folder is not None and (folder / f).is_file()]
    if folder is None or not VOCABULARY_FILES & set(here):
        raise InputError(
            f"{name} needs the tokenizer '{str(wanted)[:80]}', which does not lie beside the weights"
            f"{f' in {folder}' if folder else ''}",
            "put its files there: tokenizer.json, tokenizer_config.json and special_tokens_map.json",
        )
    for large in (folder / f for f in here if (folder / f).stat().st_size > limits.TOKENIZER_BYTES):
        raise InputError(f"{large} is larger than {limits.TOKENIZER_BYTES >> 20} MiB: no tokenizer", "restore the file")
    refuse_other_files(folder)
    return {f: sha256_file(folder / f) for f in here}


def refuse_other_files(folder: Path) -> None:
    """Raise if transformers reads the tokenizer in a folder from other files than `TOKENIZER_FILES`, or by their code.

    Raises:
        InputError: as above.
    """
    settings = folder / "tokenizer_config.json"
    said = load_json(settings) if settings.is_file() else {}
    if "auto_map" in said:
        raise InputError(f"{settings} asks to run code from elsewhere (auto_map)", "use a tokenizer without code")
    for key in (key for key, value in said.items() if value and _names_a_file(key)):
        raise InputError(
            f"{settings}: {key[:40]} names other files than those of the tokenizer beside it: {str(said[key])[:60]!r}",
            f"remove {key[:40]}, and give the file that it names its ordinary name, such as tokenizer.json",
        )
    other = next((name for name in UNREAD if (folder / name).is_file()), None)
    if other and not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder} holds a tokenizer in {other}", "convert it to tokenizer.json, or remove it")


def _names_a_file(key: str) -> bool:
    """Return whether a key of a `tokenizer_config.json` makes a version of transformers read other files."""
    return key in ("fast_tokenizer_files", "init_inputs") or (
        key.endswith("_file") and key != "special_tokens_map_file"  # which no version reads
    )
