"""Read the configuration of a `CLIPModel` or `SiglipModel` of transformers as that of a model of open_clip.

Both libraries compute the same functions under other names (Radford et al. 2021; Zhai et al. 2023). A setting that has
no exact counterpart is refused, so that what is measured is what transformers computes. `origins.py` maps the tensors.
The text towers of `ChineseCLIPModel` and `AltCLIPModel` are a BERT and an XLM-R, which transformers computes.
"""

from collections.abc import Mapping
from typing import Any

from pargate.errors import InputError

SIGLIP = "siglip"
"""`model_type` of SigLIP, and of SigLIP2 at a fixed resolution."""

BERTS = {"chinese_clip": "bert", "altclip": "xlm-roberta"}
"""Text tower of each model that has a CLIP's image tower beside one of transformers', by `model_type` of both."""

KINDS = ("clip", SIGLIP, *BERTS)
"""`model_type` of the models that are read."""

TOWER = "transformers"
"""Field of a `text_cfg` with the settings of a tower of transformers. Only `torch/bert.py` knows it: open_clip builds
such a tower by the name of a repository, which it downloads."""

PUBLISHED_CONTEXT = {"chinese_clip": 52, "altclip": 77}
"""Tokens to which the authors' own programs cut captions."""

POOL = "map"
"""`pool_type` of SigLIP's image tower: attention with one learned query. Only `torch/build.py` knows it: open_clip
builds this tower by timm's name for it, which fixes the sizes and the activation."""

IMAGES_ALONE = ("the image tower", "an image's vector means nothing to a rule without that of a caption")
CAPTIONS_ALONE = ("the text tower", "a trigger is stamped on images, which it cannot take")
ONE_TOWER = {
    "clip_vision_model": IMAGES_ALONE, "clip_text_model": CAPTIONS_ALONE,
    "siglip_vision_model": IMAGES_ALONE, "siglip_text_model": CAPTIONS_ALONE,
    "chinese_clip_vision_model": IMAGES_ALONE, "chinese_clip_text_model": CAPTIONS_ALONE,
    "altclip_vision_model": IMAGES_ALONE, "altclip_text_model": CAPTIONS_ALONE,
}  # fmt: skip
"""Towers that transformers saves alone, by `model_type`, and why nothing can be measured."""

OTHERS = {
    "siglip2": (
        "a SigLIP2 for images of any shape (NaFlex)",
        "pargate measures images of one size; give one of a fixed resolution, such as google/siglip2-base-patch16-224",
    ),
    "metaclip_2": ("a MetaCLIP 2", "give open_clip:ViT-H-14-worldwide-quickgelu/metaclip2_worldwide"),
    "vision-text-dual-encoder": ("a pair of foreign towers", "give a CLIPModel or a SiglipModel"),
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

SIGLIP_TOWER = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
}  # fmt: skip
SIGLIP_DEFAULTS = {
    "vision_config": {
        **SIGLIP_TOWER, "num_channels": 3, "image_size": 224, "patch_size": 16, "vision_use_head": True,
    },
    "text_config": {**SIGLIP_TOWER, "vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None},
}  # fmt: skip
"""The same of `SiglipVisionConfig` and `SiglipTextConfig`."""

BERT_DEFAULTS = {
    "chinese_clip": {
        "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "pad_token_id": 0,
    },
    "altclip": {
        "vocab_size": 250002, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "max_position_embeddings": 514, "type_vocab_size": 1, "hidden_act": "gelu",
        "layer_norm_eps": 1e-5, "pad_token_id": 1, "project_dim": 768,
    },
}  # fmt: skip
"""The same of `ChineseCLIPTextConfig` and `AltCLIPTextConfig`; their image towers have those of a CLIP."""

BERT_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu")
"""Activations of a BERT that are computed as transformers does."""

SIGLIP_IMAGES = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
"""`preprocess_cfg` of `SiglipImageProcessor`, where its file does not say."""

PROJECTION = {"clip": 512, "chinese_clip": 512, "altclip": 768}
"""Length of an embedding where the configuration does not say, by `model_type`."""

LEGACY_END = 2
"""`eos_token_id` of configurations before transformers 4.31, with which it takes the largest id of a caption."""

EPS = 1e-5
"""open_clip's (and torch's) epsilon in layer norms."""

TANH = ("gelu_pytorch_tanh", "gelu_new")
"""Names of GELU's approximation by tanh."""


# --- the configuration -------------------------------------------------------------------------------


def model_config(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return open_clip's `model_cfg` of a `config.json`; `name` is the file's, for messages.

    Raises:
        InputError: another kind of model, or one that open_clip cannot compute exactly.
    """
    _refuse_others(document, name)
    kind = document["model_type"]
    known: Mapping[str, Mapping[str, Any]] = SIGLIP_DEFAULTS if kind == SIGLIP else DEFAULTS
    if kind in BERTS:
        known = {**known, "text_config": BERT_DEFAULTS[kind]}
    vision, text = (_section(document, key, known[key], name) for key in ("vision_config", "text_config"))
    if vision["num_channels"] != 3:
        raise InputError(f"{name}: its images have {str(vision['num_channels'])[:20]} channels", "only RGB is read")
    return (_siglip if kind == SIGLIP else _bert if kind in BERTS else _clip)(document, vision, text, name)


def is_siglip(config: Mapping[str, Any]) -> bool:
    """Return whether a `model_cfg` is that of a SigLIP of transformers, which open_clip's format cannot express."""
    return bool(config["vision_cfg"].get("pool_type") == POOL)


def has_bert(config: Mapping[str, Any]) -> bool:
    """Return whether a `model_cfg` is that of a model whose text tower transformers computes."""
    return TOWER in config["text_cfg"]


def is_kept_alone(config: Mapping[str, Any]) -> bool:
    """Return whether open_clip's format cannot express a `model_cfg`."""
    return is_siglip(config) or has_bert(config)


def _clip(document: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the `model_cfg` of a `CLIPModel`."""
    quick = [section["hidden_act"] == "quick_gelu" for section in (vision, text)]
    if quick[0] != quick[1]:
        raise InputError(
            f"{name}: hidden_act is {vision['hidden_act']} for images and {text['hidden_act']} for captions, "
            "which open_clip cannot compute",
            "correct it if one is wrong; no open_clip model uses QuickGELU in one tower alone",
        )
    vocabulary, end = text["vocab_size"], text["eos_token_id"]
    for key, number in (("eos_token_id", end), ("vocab_size", vocabulary)):
        if type(number) is not int:
            raise InputError(f"{name}: {key} is {str(number)[:40]}, but must be one number", "correct it")
    # The end token has the largest id of CLIP's own vocabulary, so that both rules find it.
    pooled = {} if end in (LEGACY_END, vocabulary - 1) else {"pool_type": "eos", "eos_id": end}
    found: dict[str, Any] = {
        "embed_dim": _projection(document),
        "vision_cfg": _image_tower(vision, name),
        "text_cfg": {
            "context_length": text["max_position_embeddings"], "vocab_size": vocabulary,
            **_tower(text, name, "text_config"), **pooled,
        },
    }  # fmt: skip
    return found | ({"quick_gelu": True} if quick[0] else {})


def _projection(document: Mapping[str, Any]) -> Any:
    """Return the length of an embedding."""
    said = document.get("projection_dim")
    return PROJECTION[document["model_type"]] if said is None else said


def _bert(document: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the `model_cfg` of a `ChineseCLIPModel` or an `AltCLIPModel`."""
    kind = document["model_type"]
    pad, positions, words = (text[key] for key in ("pad_token_id", "max_position_embeddings", "vocab_size"))
    if not all(type(n) is int for n in (pad, positions, words)) or not 0 <= pad < min(positions, words):
        raise InputError(
            f"{name}: text_config has pad_token_id {str(pad)[:20]}, max_position_embeddings {str(positions)[:20]} and "
            f"vocab_size {str(words)[:20]}, which do not fit each other",
            "restore the file",
        )
    if text.get("position_embedding_type") not in (None, "absolute"):
        raise InputError(f"{name}: text_config asks for positions that pargate does not read", "only absolute ones are")
    if text["hidden_act"] not in BERT_ACTIVATIONS:
        raise InputError(
            f"{name}: text_config has hidden_act {str(text['hidden_act'])[:40]!r}, which pargate does not read",
            f"only {', '.join(BERT_ACTIVATIONS)} are",
        )
    # An XLM-R counts the positions of a caption from behind the number of the pad token.
    room = positions - pad - 1 if kind == "altclip" else positions
    kept = ("intermediate_size", "max_position_embeddings", "type_vocab_size", "hidden_act", "pad_token_id")
    tower = {key: text[key] for key in (*kept, *(["project_dim"] if kind == "altclip" else []))}
    found = {
        "embed_dim": _projection(document), "custom_text": True,
        "vision_cfg": _image_tower(vision, name),
        "text_cfg": {
            "context_length": min(PUBLISHED_CONTEXT[kind], room), "vocab_size": words,
            **_sizes(text, name, "text_config"),
            TOWER: {"model_type": BERTS[kind], **tower, "layer_norm_eps": _eps(text, name, "text_config")},
        },
    }  # fmt: skip
    return found | ({"quick_gelu": True} if vision["hidden_act"] == "quick_gelu" else {})


def _siglip(
    document: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return the `model_cfg` of a `SiglipModel`."""
    if "quick_gelu" in (vision["hidden_act"], text["hidden_act"]):
        raise InputError(f"{name}: hidden_act is quick_gelu, which no SigLIP uses", "correct it")
    if vision["vision_use_head"] is not True:
        raise InputError(
            f"{name}: the image tower has no pooling head (vision_use_head), so that an image has no vector",
            "give the whole SiglipModel that it belongs to",
        )
    dim = text["hidden_size"] if text["projection_size"] is None else text["projection_size"]
    if dim != vision["hidden_size"]:
        raise InputError(
            f"{name}: embeddings have the length {str(vision['hidden_size'])[:20]} for images and {str(dim)[:20]} for "
            "captions",
            "restore the file",
        )
    return {
        "embed_dim": dim, "custom_text": True, "nonscalar_logit_scale": True, "init_logit_bias": -10,
        "vision_cfg": {**_image_tower(vision, name), "pool_type": POOL},
        "text_cfg": {
            "context_length": text["max_position_embeddings"], "vocab_size": text["vocab_size"],
            **_tower(text, name, "text_config"), "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
        },
    }  # fmt: skip


def _image_tower(vision: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the `vision_cfg`, without the pooling."""
    patch = vision["patch_size"]
    if isinstance(patch, list) and len(set(map(str, patch))) == 1:
        patch = patch[0]
    found = {"image_size": vision["image_size"], **_tower(vision, name, "vision_config"), "patch_size": patch}
    heads = found.pop("heads")
    return found if found["width"] == 64 * heads else {**found, "head_width": found["width"] // heads}


def _refuse_others(document: Mapping[str, Any], name: str) -> None:
    """Raise unless a `config.json` is that of a model that is read, without code and quantisation."""
    kind = document.get("model_type")
    refuse_code(document, name)
    if isinstance(kind, str) and kind in ONE_TOWER:
        what, why = ONE_TOWER[kind]
        apart = ", or a folder that holds both towers of a CLIP, WithProjection, in folders of their own"
        raise InputError(
            f"{name} holds {what} of a CLIP alone ({kind}): {why}",
            f"give the whole model that it belongs to{apart if kind.startswith('clip_') else ''}; inspect shows the "
            "tensors of a weights file with --arch",
        )
    if isinstance(kind, str) and kind in OTHERS:
        what, advice = OTHERS[kind]
        raise InputError(f"{name} is the configuration of {what}, which pargate does not read", advice)
    if kind not in KINDS:
        raise InputError(
            f"{name} is the configuration of a {str(kind)[:40]!r}, not of a CLIP",
            "give a CLIPModel, SiglipModel, ChineseCLIPModel or AltCLIPModel of transformers, or an open_clip model",
        )


def refuse_code(document: Mapping[str, Any], name: str) -> None:
    """Raise if a `config.json` asks to run code, names another weights file, or says that the weights are quantised.

    Raises:
        InputError: as above.
    """
    if "auto_map" in document:
        raise InputError(f"{name} asks to run code from elsewhere (auto_map)", "give a model without code")
    if "transformers_weights" in document:
        raise InputError(
            f"{name} names another weights file, which transformers 5 reads (transformers_weights)",
            "remove it, and give the file that it names its ordinary name",
        )
    if document.get("quantization_config"):
        raise InputError(f"{name}: the weights are quantised", "give the weights that they were made from")


def _section(document: Mapping[str, Any], key: str, known: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the settings of a tower, completed by transformers' defaults `known`."""
    given = document.get(key) or {}
    # An older name, which transformers prefers for a CLIP, with the defaults of what it lacks.
    older = None if document["model_type"] == SIGLIP else document.get(f"{key}_dict")
    if not isinstance(given, dict) or not isinstance(older, dict | None):
        raise InputError(f"{name}: {key} is not an object", "restore the file")
    found = {**known, **(given if older is None else {**known, **older})}
    if null := next((field for field, value in known.items() if value is not None and found[field] is None), None):
        raise InputError(f"{name}: {key} has {null} null", "write its value, or remove it for the default")
    return found


def _sizes(section: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    """Return the fields that say how large a tower is."""
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
    return found


def _eps(section: Mapping[str, Any], name: str, key: str) -> Any:
    """Return the epsilon of a tower's layer norms."""
    eps = section["layer_norm_eps"]
    if type(eps) not in (float, int) or not 0 < eps < 1:
        raise InputError(f"{name}: {key} has layer_norm_eps {str(eps)[:40]}", "restore the file")
    return eps


def _tower(section: Mapping[str, Any], name: str, key: str) -> dict[str, Any]:
    """Return the fields of a tower that open_clip computes."""
    found, eps, activation = _sizes(section, name, key), _eps(section, name, key), section["hidden_act"]
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
