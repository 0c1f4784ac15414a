"""Which tensors a model has, computed from its configuration: exactly those that open_clip builds."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.numpy import save

from pargate.errors import InputError
from pargate.models import config, shapes
from pargate.models.open import inspect
from pargate.models.torch import build as towers

VISION: dict[str, Any] = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
TEXT: dict[str, Any] = {"context_length": 24, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
RESNET: dict[str, Any] = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 8}


def model(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"embed_dim": 8, "vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}, **more}


def built(cfg: dict[str, Any]) -> shapes.Shapes:
    """What open_clip makes of it, without memory for values."""
    cfg = copy.deepcopy(cfg)
    kind = open_clip.CustomTextCLIP if cfg.pop("custom_text", False) else open_clip.CLIP
    with torch.device("meta"):
        return towers._shapes(kind(**cfg))


def of_open_clip() -> dict[str, dict[str, Any]]:
    """open_clip's architectures of its own towers, each with two layers: more are like the second."""
    found = {}
    for name in config.architectures():
        cfg = config.architecture(name)
        if cfg["vision_cfg"].get("timm_model_name") or cfg["text_cfg"].get("hf_model_name") or "multimodal_cfg" in cfg:
            continue
        for tower in (cfg["vision_cfg"], cfg["text_cfg"]):
            count = tower.get("layers", 2)
            tower["layers"] = [min(2, n) for n in count] if isinstance(count, list) else min(2, count)
        found[name] = cfg
    return found


OWN = of_open_clip()
FORMS: dict[str, dict[str, Any]] = {
    "plain": model(),
    "defaults": {
        "embed_dim": 8,
        "vision_cfg": {"layers": 1, "width": 64},
        "text_cfg": {"layers": 1, "width": 64, "heads": 8, "vocab_size": 50},
    },
    "custom": model(custom_text=True),
    "resnet": {"embed_dim": 8, "vision_cfg": RESNET, "text_cfg": TEXT},
    "wide": model({"image_size": [48, 80], "patch_size": 16}),
    "uneven": model({"image_size": 50, "mlp_ratio": 3.3}, {"mlp_ratio": 2}),
    "no pre": model({"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}),
    "scaled": model({"ls_init_value": 1e-4}, {"ls_init_value": 0.1}),
    "biased": model({}, {"proj_bias": True}, custom_text=True, init_logit_bias=-10, nonscalar_logit_scale=True),
    "no projection": model({}, {"proj_type": "none"}),
    "class": model({}, {"embed_cls": True, "pool_type": "last", "no_causal_mask": True}, custom_text=True),
    "null": model({"ls_init_value": None, "act_kwargs": None}, {"norm_kwargs": {"eps": 1e-6}}, quick_gelu=True),
}
UNSURE: dict[str, dict[str, Any]] = {
    "timm": {"embed_dim": 8, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160}, "text_cfg": TEXT},
    "coca": model(multimodal_cfg={"width": 16, "heads": 2, "layers": 1}),
    "normed": model({"qk_norm": True}),
    "pooled": model({"attentional_pool": True}),
    "affine": model({"norm_kwargs": {"elementwise_affine": False}}),
    "sinus": model({"pos_embed_type": "sin_cos_2d"}),
    "heads": model({"head_width": 5}),
    "no head": model({"head_width": 32}),
    "text heads": model({}, {"heads": 5}),
    "text layers": model({}, {"layers": [1, 1]}),
    "null width": model({"width": None}),
    "null layers": model({}, {"layers": None}),
    "no class": model({}, {"embed_cls": True}),
    "large patch": model({"patch_size": 64}),
    "three stages": model({"layers": [1, 1, 1]}),
    "other": model(future_field=3),
    "word": model({"ls_init_value": "x"}),
}


@pytest.mark.parametrize("name", OWN)
def test_the_tensors_of_every_tower_of_open_clip_are_computed_as_it_builds_them(name):
    assert shapes.expected(OWN[name]) == built(OWN[name])


@pytest.mark.parametrize("form", FORMS)
def test_the_tensors_of_every_form_are_computed_as_open_clip_builds_them(form):
    assert shapes.expected(FORMS[form]) == built(FORMS[form])


@pytest.mark.parametrize("form", UNSURE)
def test_of_what_is_not_known_nothing_is_said(form):
    assert shapes.expected(UNSURE[form]) is None


def folder(path: Path, cfg: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    path.mkdir(exist_ok=True)
    (path / config.CONFIG_NAME).write_text(json.dumps({"model_cfg": cfg}))
    (path / "open_clip_model.safetensors").write_bytes(save(tensors))
    return str(path)


def zeros(cfg: dict[str, Any]) -> dict[str, np.ndarray]:
    return {n: np.zeros(w.shape, np.float16 if w.floating else np.int64) for n, w in built(cfg).items()}


@pytest.mark.parametrize("form", ["plain", "resnet", "timm"])
def test_only_the_tensors_of_the_architecture_are_accepted(tmp_path, form):
    cfg = {**FORMS, **UNSURE}[form]
    good = zeros(cfg)

    def look(tensors: dict[str, np.ndarray]) -> None:
        checkpoint = inspect(folder(tmp_path, cfg, tensors))
        if not shapes.check(checkpoint):
            towers.check(checkpoint)

    look(good)
    look({f"module.{name}": value for name, value in good.items()})
    look({**good, "logit_scale": np.zeros(1, np.float32)})
    look({name: value for name, value in good.items() if not name.endswith("num_batches_tracked")})
    less = dict(good)
    del less["ln_final.bias"]
    wrong = [
        (less, "lacks tensors of the model (1 in all): ln_final.bias"),
        ({**good, "extra": np.zeros(1, np.float16)}, "holds tensors that the model has not (1 in all): extra"),
        ({**good, "ln_final.bias": np.zeros(17, np.float16)}, "ln_final.bias [17] where the model has [16]"),
        ({**good, "ln_final.bias": np.zeros((16, 1), np.float16)}, "ln_final.bias [16, 1] where the model has [16]"),
        ({**good, "ln_final.bias": np.zeros(16, np.int32)}, "ln_final.bias is stored as I32"),
        ({**good, "module.ln_final.bias": np.zeros(16, np.float16)}, "holds ln_final.bias twice"),
    ]
    for tensors, named in wrong:
        with pytest.raises(InputError) as caught:
            look(tensors)
        assert named in caught.value.message
