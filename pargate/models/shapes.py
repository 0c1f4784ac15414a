"""Check without torch that a checkpoint has the tensors of its architecture: names, shapes and dtypes.

The shapes of open_clip's own towers are computed from the configuration. For other towers (timm's, unusual attention)
`torch.build.check` builds the model.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from pargate.core.model import CONTEXT_LENGTH, Checkpoint, TensorInfo
from pargate.errors import InputError
from pargate.models.archive import StoredTensor
from pargate.models.config import VOCABULARY, architectures, image_size, packaged
from pargate.models.hugging_face import TOWER

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
INTEGERS = frozenset({"I64", "I32", "I16", "I8", "U8", "BOOL"})
"""Dtypes that are read; 8-bit floats are useless without their scales."""

NAMED = 4
"""Number of tensors that a message names before it counts the rest."""

COUNT = ".num_batches_tracked"
"""Suffix of BatchNorm's batch counter, which encoding does not use."""

BIAS = "logit_bias"
"""Name of the number that is added to the scaled cosine."""

ABSENT = (COUNT, BIAS)
"""Ends of the names of tensors that may be missing; they are 0 then, as open_clip's loader makes them."""

MODEL_FIELDS = frozenset(
    {
        "embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias",
        "nonscalar_logit_scale",
    }
)  # fmt: skip
TOWER_FIELDS = frozenset(
    {
        "width", "layers", "mlp_ratio", "ls_init_value", "pool_type", "output_tokens", "final_ln_after_pool",
        "act_kwargs", "norm_kwargs",
    }
)  # fmt: skip
VISION_FIELDS = TOWER_FIELDS | {"head_width", "patch_size", "image_size", "patch_dropout", "no_ln_pre"}
TEXT_FIELDS = TOWER_FIELDS | {
    "heads", "context_length", "vocab_size", "embed_cls", "pad_id", "eos_id", "no_causal_mask", "proj_bias",
    "proj_type", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", TOWER,
}  # fmt: skip
"""Fields of a configuration whose effect on shapes is known here."""

NULLABLE = frozenset(
    {
        "ls_init_value", "act_kwargs", "norm_kwargs", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs",
        "init_logit_bias", "patch_size",
    }
)  # fmt: skip
"""Known fields that may be null."""


class Wanted(NamedTuple):
    """The shape of a model's tensor, and whether its numbers are floating-point."""

    shape: tuple[int, ...]
    floating: bool = True


Shapes = dict[str, Wanted]
Tensor = TypeVar("Tensor", TensorInfo, StoredTensor)


def check(checkpoint: Checkpoint) -> bool:
    """Check that the tensors are those of the architecture; return False if that requires building the model.

    Raises:
        InputError: tensors are missing, left over, or of another shape or type.
    """
    if checkpoint.format == "onnx":
        return True  # the graphs themselves were checked
    wanted = expected(checkpoint.config)
    if wanted is None:
        return False
    refuse_others({t.name: t for t in checkpoint.tensors}, wanted, checkpoint.source)
    return True


# --- comparing ---------------------------------------------------------------------------------------


def refuse_others(tensors: dict[str, Tensor], wanted: Shapes, source: str) -> None:
    """Raise if the tensors differ from those that are wanted; only those of `ABSENT` may be missing.

    Raises:
        InputError: tensors are missing, left over, or of another shape or dtype.
    """
    missing = [name for name in wanted if name not in tensors and not name.endswith(ABSENT)]
    refuse(missing, source, "lacks tensors of the model")
    refuse([name for name in tensors if name not in wanted], source, "holds tensors that the model has not")
    refuse(
        [
            f"{name} {list(tensor.shape)} where the model has {list(wanted[name].shape)}"
            for name, tensor in tensors.items()
            if tensor.shape != wanted[name].shape and not _is_scale(name, tensor.shape, wanted[name].shape)
        ],
        source,
        "holds tensors of another shape than the model's",
    )
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS | INTEGERS:
            advice = "save the weights as float32 or float16"
            raise InputError(f"{source}: {tensor.name} is stored as {tensor.dtype}", advice)
        if wanted[name].floating != (tensor.dtype in FLOATS) and not name.endswith(COUNT):
            kind = "fractions" if wanted[name].floating else "whole numbers"
            raise InputError(
                f"{source}: {tensor.name} is stored as {tensor.dtype}, the model's are {kind}", "save the weights again"
            )


def matching(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of open_clip's architectures that have exactly these tensors, of those known here."""
    found = []
    for name, path in architectures().items():
        config = packaged(path)
        wanted = expected(config) if {"vision_cfg", "text_cfg", "embed_dim"} <= config.keys() else None
        if wanted is not None and tensors.keys() <= wanted.keys():
            with contextlib.suppress(InputError):
                refuse_others(tensors, wanted, name)
                found.append(name)
    return found


COMPLETE = "check that the weights are complete and belong to the architecture"


def refuse(found: list[str], source: str, what: str, advice: str = COMPLETE) -> None:
    """Raise an error that names the tensors in `found`, if there are any."""
    if found:
        named = ", ".join(found[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
        raise InputError(f"{source} {what} ({len(found)} in all): {named}", advice)


def _is_scale(name: str, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether a tensor is a scale that one model stores as a scalar and the other as a vector."""
    return name in ("logit_scale", BIAS) and {one, other} == {(), (1,)}


# --- computing ---------------------------------------------------------------------------------------


def expected(config: dict[str, Any]) -> Shapes | None:
    """Return the tensors of the model that a configuration describes, or None if that requires building it."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    parts = ((config, MODEL_FIELDS), (vision, VISION_FIELDS), (text, TEXT_FIELDS))
    for part, known in parts:
        if any(value if key not in known else value is None and key not in NULLABLE for key, value in part.items()):
            return None
    if not _is_plain(vision, ("tok", "avg", "none")) or not _is_plain(text, ("argmax", "first", "last", "eos")):
        return None
    dim = config["embed_dim"]
    is_resnet = isinstance(vision.get("layers"), list)
    image = _resnet(vision, dim) if is_resnet else _vit(vision, dim)
    captions = _bert(text, dim) if TOWER in text else _text(text, dim, custom=bool(config.get("custom_text")))
    if image is None or captions is None:
        return None
    scale = Wanted((1,) if config.get("nonscalar_logit_scale") else ())
    found = {"logit_scale": scale, **{f"visual.{name}": wanted for name, wanted in image}, **dict(captions)}
    if config.get("init_logit_bias") is not None:
        found[BIAS] = scale
    return found


def _is_plain(tower: dict[str, Any], pools: tuple[str, ...]) -> bool:
    """Return whether a tower's settings, besides its sizes, leave the shapes unchanged."""
    return (
        tower.get("pool_type", pools[0]) in pools
        and type(tower.get("ls_init_value", 0.0)) in (float, int, type(None))
        and set(tower.get("norm_kwargs") or {}) <= {"eps"}
        and set(tower.get("act_kwargs") or {}) <= {"approximate"}
    )


Found = list[tuple[str, Wanted]]


def _vit(vision: dict[str, Any], dim: int) -> Found | None:
    width, patch = vision.get("width", 768), vision.get("patch_size", 16)
    rows, columns = image_size({"vision_cfg": vision})
    heads = width // vision.get("head_width", 64)
    if type(patch) is not int or not heads or width % heads or patch > min(rows, columns):
        return None
    return [
        ("class_embedding", Wanted((width,))),
        ("positional_embedding", Wanted(((rows // patch) * (columns // patch) + 1, width))),
        ("proj", Wanted((width, dim))),
        ("conv1.weight", Wanted((width, 3, patch, patch))),
        *([] if vision.get("no_ln_pre") else _affine("ln_pre", width)),
        *_blocks(vision, width, 12),
        *_affine("ln_post", width),
    ]


def _text(text: dict[str, Any], dim: int, *, custom: bool) -> Found | None:
    width, heads = text.get("width", 512), text.get("heads", 8)
    projection = text.get("proj_type", "linear")
    # Without `custom_text`, open_clip's CLIP supports only some settings of a text tower.
    if type(text.get("layers", 12)) is not int or width % heads:
        return None
    if projection not in ("linear", "none") or (not custom and text.get("embed_cls")):
        return None
    length = text.get("context_length", CONTEXT_LENGTH) + bool(text.get("embed_cls"))
    found: Found = [
        ("positional_embedding", Wanted((length, width))),
        ("token_embedding.weight", Wanted((text.get("vocab_size", VOCABULARY), width))),
        *_blocks(text, width, 12),
        *_affine("ln_final", width),
    ]
    if text.get("embed_cls"):
        found.append(("cls_emb", Wanted((width,))))
    if projection == "linear":
        found += _linear("text_projection", width, dim) if text.get("proj_bias") else [
            ("text_projection", Wanted((width, dim)))
        ]  # fmt: skip
    return [(f"text.{name}" if custom else name, wanted) for name, wanted in found]


def _bert(text: dict[str, Any], dim: int) -> Found:
    """Return the tensors of a text tower of transformers (`torch/bert.py`)."""
    width, settings = text["width"], text[TOWER]
    inside, inner = settings["intermediate_size"], settings.get("project_dim")
    rows = {
        "word": text["vocab_size"], "position": settings["max_position_embeddings"],
        "token_type": settings["type_vocab_size"],
    }  # fmt: skip
    found = [(f"embeddings.{kind}_embeddings.weight", Wanted((count, width))) for kind, count in rows.items()]
    found += _affine("embeddings.LayerNorm", width)
    for number in range(text["layers"]):
        at = f"encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            found += _linear(f"{at}.attention.{part}", width, width)
        found += _affine(f"{at}.attention.output.LayerNorm", width)
        found += _linear(f"{at}.intermediate.dense", width, inside)
        found += _linear(f"{at}.output.dense", inside, width)
        found += _affine(f"{at}.output.LayerNorm", width)
    found = [(f"transformer.{name}", wanted) for name, wanted in found]
    if inner is not None:
        found += [*_affine("transformation.0", width), *_linear("transformation.1", width, inner)]
    found.append(("text_projection.weight", Wanted((dim, width if inner is None else inner))))
    return [(f"text.{name}", wanted) for name, wanted in found]


def _blocks(tower: dict[str, Any], width: int, layers: int) -> Iterator[tuple[str, Wanted]]:
    """Yield the tensors of a tower's transformer."""
    hidden = int(width * tower.get("mlp_ratio", 4.0))
    for number in range(tower.get("layers", layers)):
        at = f"transformer.resblocks.{number}"
        yield from _affine(f"{at}.ln_1", width)
        yield f"{at}.attn.in_proj_weight", Wanted((3 * width, width))
        yield f"{at}.attn.in_proj_bias", Wanted((3 * width,))
        yield from _linear(f"{at}.attn.out_proj", width, width)
        yield from _affine(f"{at}.ln_2", width)
        yield from _linear(f"{at}.mlp.c_fc", width, hidden)
        yield from _linear(f"{at}.mlp.c_proj", hidden, width)
        if tower.get("ls_init_value") is not None:
            yield f"{at}.ls_1.gamma", Wanted((width,))
            yield f"{at}.ls_2.gamma", Wanted((width,))


def _resnet(vision: dict[str, Any], dim: int) -> Found | None:
    width, layers, side = vision.get("width", 64), vision["layers"], vision.get("image_size", 224)
    if len(layers) != 4 or type(side) is not int or "width" not in vision:
        return None
    found: Found = [
        *_convolution("conv1", "bn1", 3, width // 2, 3),
        *_convolution("conv2", "bn2", width // 2, width // 2, 3),
        *_convolution("conv3", "bn3", width // 2, width, 3),
    ]
    inside = width
    for stage, count in enumerate(layers):
        planes = width << stage
        for number in range(count):
            at = f"layer{stage + 1}.{number}"
            found += _convolution(f"{at}.conv1", f"{at}.bn1", inside, planes, 1)
            found += _convolution(f"{at}.conv2", f"{at}.bn2", planes, planes, 3)
            found += _convolution(f"{at}.conv3", f"{at}.bn3", planes, 4 * planes, 1)
            if number == 0 and (stage or inside != 4 * planes):
                found += _convolution(f"{at}.downsample.0", f"{at}.downsample.1", inside, 4 * planes, 1)
            inside = 4 * planes
    found.append(("attnpool.positional_embedding", Wanted(((side // 32) ** 2 + 1, inside))))
    for name, out in (("k_proj", inside), ("q_proj", inside), ("v_proj", inside), ("c_proj", dim)):
        found += _linear(f"attnpool.{name}", inside, out)
    return found


def _affine(name: str, width: int) -> Found:
    return [(f"{name}.weight", Wanted((width,))), (f"{name}.bias", Wanted((width,)))]


def _linear(name: str, inside: int, outside: int) -> Found:
    return [(f"{name}.weight", Wanted((outside, inside))), (f"{name}.bias", Wanted((outside,)))]


def _convolution(name: str, norm: str, inside: int, outside: int, side: int) -> Found:
    """Return the tensors of a convolution without bias and of the BatchNorm behind it."""
    return [
        (f"{name}.weight", Wanted((outside, inside, side, side))),
        *_affine(norm, outside),
        (f"{norm}.running_mean", Wanted((outside,))),
        (f"{norm}.running_var", Wanted((outside,))),
        (f"{norm}{COUNT}", Wanted((), floating=False)),
    ]
