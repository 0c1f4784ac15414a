"""Read a `CLIPModel` of transformers as a model of open_clip: its configuration, and where each tensor comes from.

Both libraries compute the same function under other names (Radford et al. 2021). open_clip stacks the projections of
query, key and value, and stores the two last projections transposed. A setting that open_clip cannot express is
refused, so that what is measured is what transformers computes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pargate.errors import InputError
from pargate.models.archive import StoredTensor
from pargate.models.shapes import refuse

CLIP = "clip"
"""`model_type` of the one kind of model that has an exact counterpart."""

ONE_TOWER = {
    "clip_vision_model": ("the image tower", "an image's vector means nothing to a rule without that of a caption"),
    "clip_text_model": ("the text tower", "a trigger is stamped on images, which it cannot take"),
}
"""Towers that transformers saves alone, by `model_type`, and why nothing can be measured."""

OTHERS = {
    "siglip": ("a SigLIP", "open_clip computes its image tower with another GELU; give hf-hub:timm/ViT-…-SigLIP"),
    "siglip2": ("a SigLIP2", "open_clip computes its image tower with another GELU; give hf-hub:timm/ViT-…-SigLIP2"),
    "chinese_clip": ("a Chinese CLIP", "its text tower is a BERT, which pargate does not read"),
    "altclip": ("an AltCLIP", "its text tower is an XLM-R, which pargate does not read"),
    "metaclip_2": ("a MetaCLIP 2", "give open_clip:ViT-H-14-worldwide-quickgelu/metaclip2_worldwide"),
    "vision-text-dual-encoder": ("a pair of foreign towers", "pargate reads CLIPModel alone"),
    "openvino": ("an OpenVINO model", "give the checkpoint that it was converted from"),
}  # fmt: skip
"""Other models with two towers, by `model_type`, and what to do."""

DEFAULTS = {
    "vision_config": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    },
    "text_config": {
        "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "eos_token_id": 49407,
    },
}  # fmt: skip
"""Values of transformers for settings that a configuration omits (`CLIPVisionConfig`, `CLIPTextConfig`)."""

PROJECTION = 512
"""Length of an embedding where the configuration does not say."""

LEGACY_END = 2
"""`eos_token_id` of configurations before transformers 4.31, with which it takes the largest id of a caption."""

EPS = 1e-5
"""open_clip's (and torch's) epsilon in layer norms."""

TANH = ("gelu_pytorch_tanh", "gelu_new")
"""Names of GELU's approximation by tanh."""

SAVED_CONSTANTS = "embeddings.position_ids"
"""End of the names of tensors that older versions saved: the numbers 0, 1, 2, …"""


# --- the configuration -------------------------------------------------------------------------------


def model_config(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of a `config.json`; `name` is the file's, for messages.

    Raises:
        InputError: another kind of model, or one that open_clip cannot compute exactly.
    """
    _refuse_others(document, name)
    vision, text = (_section(document, key, name) for key in ("vision_config", "text_config"))
    if vision["num_channels"] != 3:
        raise InputError(f"{name}: its images have {str(vision['num_channels'])[:20]} channels", "only RGB is read")
    quick = [section["hidden_act"] == "quick_gelu" for section in (vision, text)]
    if quick[0] != quick[1]:
        raise InputError(
            f"{name}: hidden_act is {vision['hidden_act']} for images and {text['hidden_act']} for captions, "
            "which open_clip cannot compute",
            "correct it if one is wrong; no open_clip model uses QuickGELU in one tower alone",
        )
    image_size, patch = vision["image_size"], vision["patch_size"]
    if isinstance(patch, list) and len(set(map(str, patch))) == 1:
        patch = patch[0]
    vocabulary, end = text["vocab_size"], text["eos_token_id"]
    if type(end) is not int:
        raise InputError(f"{name}: eos_token_id is {str(end)[:40]}, but must be one number", "correct it")
    # The end token has the largest id of CLIP's own vocabulary, so that both rules find it.
    pooled = {} if end in (LEGACY_END, vocabulary - 1) else {"pool_type": "eos", "eos_id": end}
    found: dict[str, Any] = {
        "embed_dim": PROJECTION if document.get("projection_dim") is None else document["projection_dim"],
        "vision_cfg": {
            "image_size": image_size, **_tower(vision, name, "vision_config"), "patch_size": patch,
        },
        "text_cfg": {
            "context_length": text["max_position_embeddings"], "vocab_size": vocabulary,
            **_tower(text, name, "text_config"), **pooled,
        },
    }  # fmt: skip
    width, heads = found["vision_cfg"]["width"], found["vision_cfg"].pop("heads")
    if width != 64 * heads:
        found["vision_cfg"]["head_width"] = width // heads
    return found | ({"quick_gelu": True} if quick[0] else {})


def _refuse_others(document: Mapping[str, Any], name: str) -> None:
    """Raise unless a `config.json` is that of a plain `CLIPModel`."""
    kind = document.get("model_type")
    if "auto_map" in document:
        raise InputError(f"{name} asks to run code from elsewhere (auto_map)", "give a model without code")
    if isinstance(kind, str) and kind in ONE_TOWER:
        what, why = ONE_TOWER[kind]
        raise InputError(
            f"{name} holds {what} of a CLIP alone ({kind}): {why}",
            "give the whole CLIPModel that it belongs to; inspect shows the tensors of a weights file with --arch",
        )
    if isinstance(kind, str) and kind in OTHERS:
        what, advice = OTHERS[kind]
        raise InputError(f"{name} is the configuration of {what}, which pargate does not read", advice)
    if kind != CLIP:
        raise InputError(
            f"{name} is the configuration of a {str(kind)[:40]!r}, not of a CLIP",
            "give a CLIPModel of transformers, or an open_clip model",
        )
    if document.get("quantization_config"):
        raise InputError(f"{name}: the weights are quantised", "give the weights that they were made from")


def _section(document: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    """Return the settings of a tower, completed by transformers' defaults."""
    given = document.get(key) or {}
    # An older name, which transformers prefers, with the defaults of what it lacks.
    older = document.get(f"{key}_dict")
    if not isinstance(given, dict) or not isinstance(older, dict | None):
        raise InputError(f"{name}: {key} is not an object", "restore the file")
    known = DEFAULTS[key]
    return {**known, **(given if older is None else {**known, **older})}


def _tower(section: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    """Return the fields that both towers have."""
    width, inside, heads = section["hidden_size"], section["intermediate_size"], section["num_attention_heads"]
    if not all(type(n) is int and n > 0 for n in (width, inside, heads)) or width % heads:
        raise InputError(
            f"{name}: {key} has hidden_size {str(width)[:20]}, intermediate_size {str(inside)[:20]} and "
            f"num_attention_heads {str(heads)[:20]}, which do not fit each other",
            "restore the file",
        )
    found = {"layers": section["num_hidden_layers"], "width": width, "heads": heads}
    if inside != 4 * width:
        ratio = inside / width
        # open_clip multiplies and rounds down; half a unit more keeps the product above the integer.
        found["mlp_ratio"] = ratio if int(width * ratio) == inside else (inside + 0.5) / width
    eps, activation = section["layer_norm_eps"], section["hidden_act"]
    if type(eps) not in (float, int) or not 0 < eps < 1:
        raise InputError(f"{name}: {key} has layer_norm_eps {str(eps)[:40]}", "restore the file")
    if eps != EPS:
        found["norm_kwargs"] = {"eps": eps}
    if activation in TANH:
        found["act_kwargs"] = {"approximate": "tanh"}
    elif activation not in ("gelu", "quick_gelu"):
        raise InputError(
            f"{name}: {key} has hidden_act {str(activation)[:40]!r}, which open_clip cannot compute",
            "only quick_gelu, gelu and gelu_pytorch_tanh have an exact counterpart",
        )
    return found


# --- the tensors -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """The tensors of transformers that one tensor of open_clip is made of."""

    names: tuple[str, ...]
    """Names of tensors, which are stacked along the first axis."""
    transposed: bool = False


def origins(config: Mapping[str, Any]) -> dict[str, Origin]:
    """Return the origin of each tensor of the model that a `model_cfg` of `model_config` describes."""
    found = {
        "logit_scale": Origin(("logit_scale",)),
        "visual.class_embedding": Origin(("vision_model.embeddings.class_embedding",)),
        "visual.conv1.weight": Origin(("vision_model.embeddings.patch_embedding.weight",)),
        "visual.positional_embedding": Origin(("vision_model.embeddings.position_embedding.weight",)),
        "visual.proj": Origin(("visual_projection.weight",), transposed=True),
        "token_embedding.weight": Origin(("text_model.embeddings.token_embedding.weight",)),
        "positional_embedding": Origin(("text_model.embeddings.position_embedding.weight",)),
        "text_projection": Origin(("text_projection.weight",), transposed=True),
    }
    pairs = [
        ("visual.ln_pre", ("vision_model.pre_layrnorm",)),
        ("visual.ln_post", ("vision_model.post_layernorm",)),
        ("ln_final", ("text_model.final_layer_norm",)),
    ]
    for ours, theirs, section in (("visual.", "vision_model", "vision_cfg"), ("", "text_model", "text_cfg")):
        for number in range(config[section]["layers"]):
            block, layer = f"{ours}transformer.resblocks.{number}", f"{theirs}.encoder.layers.{number}"
            for end in ("weight", "bias"):
                names = tuple(f"{layer}.self_attn.{part}_proj.{end}" for part in "qkv")
                found[f"{block}.attn.in_proj_{end}"] = Origin(names)
            pairs += [
                (f"{block}.{one}", (f"{layer}.{other}",))
                for one, other in (
                    ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                    ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
                )
            ]  # fmt: skip
    for one, (other,) in pairs:
        for end in ("weight", "bias"):
            found[f"{one}.{end}"] = Origin((f"{other}.{end}",))
    return found


def translated(tensors: Sequence[StoredTensor], config: Mapping[str, Any], source: str) -> tuple[StoredTensor, ...]:
    """Return the tensors of a `CLIPModel` under open_clip's names.

    Raises:
        InputError: tensors are missing or left over, or those of one are stored in different ways.
    """
    theirs = {tensor.name: tensor for tensor in tensors if not tensor.name.endswith(SAVED_CONSTANTS)}
    wanted = origins(config)
    names = [name for origin in wanted.values() for name in origin.names]
    refuse([name for name in names if name not in theirs], source, "lacks tensors of the model")
    refuse(sorted(theirs.keys() - set(names)), source, "holds tensors that the model has not")
    return tuple(
        _made(name, [theirs[part] for part in origin.names], origin, source) for name, origin in wanted.items()
    )


def _made(name: str, parts: Sequence[StoredTensor], origin: Origin, source: str) -> StoredTensor:
    first = parts[0]
    if len(parts) == 1:
        if not origin.transposed:
            return replace(first, name=name)
        return replace(first, name=name, shape=first.shape[::-1], strides=first.strides[::-1])
    if any((part.dtype, part.shape) != (first.dtype, first.shape) for part in parts) or not first.shape:
        raise InputError(
            f"{source}: {', '.join(part.name for part in parts)} differ in type or shape", "save the weights again"
        )
    shape = (len(parts) * first.shape[0], *first.shape[1:])
    return StoredTensor(name, first.dtype, shape, min(part.offset for part in parts), first.strides, tuple(parts))


def split(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a network of open_clip under the names of transformers: the inverse of `translated`."""
    found = {}
    for name, origin in origins(config).items():
        parts = state[name].chunk(len(origin.names)) if len(origin.names) > 1 else (state[name],)
        for theirs, part in zip(origin.names, parts, strict=True):
            found[theirs] = part.t() if origin.transposed else part
    return found


def split_types(types: Mapping[str, str], config: Mapping[str, Any]) -> dict[str, str]:
    """Return the dtype of each tensor under the names of transformers."""
    return {theirs: types[name] for name, origin in origins(config).items() for theirs in origin.names}
