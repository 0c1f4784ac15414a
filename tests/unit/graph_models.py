"""Tiny random models of every kind, exported once for all tests."""

import copy
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from pargate.core.model import Checkpoint
from pargate.export import folder
from pargate.models.open import open_model
from pargate.models.torch.encoder import OpenClipEncoder

VISION: dict[str, Any] = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}

MODELS: dict[str, dict[str, Any]] = {
    "vit": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "resnet": {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": TEXT,
    },
    "custom": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {**VISION, "image_size": [32, 48], "ls_init_value": 0.1},
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407, "proj_bias": True},
    },
    "siglip": {
        "embed_dim": 16,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
        "text_cfg": {**TEXT, "pool_type": "last", "no_causal_mask": True},
    },
    "coca": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
    },
}

NAMES = ("dog", "cat", "banana", "fire truck")
TEMPLATES = ("a photo of a {}.", "a {}.")


def checkpoint(path: Path, name: str) -> str:
    """A folder with a random model of which every value was drawn."""
    torch.manual_seed(0)
    config = copy.deepcopy(MODELS[name])
    custom = config.pop("custom_text", False)
    kind = open_clip.CLIP if not custom else open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    model = kind(**config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter.nan_to_num_(0, 0, 0).clamp_(-1, 1).add_(torch.randn_like(parameter) * 0.1)
        for key, buffer in model.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer))
    path.mkdir()
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODELS[name]}))
    state = {key: value.contiguous().clone() for key, value in model.state_dict().items()}
    save_file(state, path / "open_clip_model.safetensors")
    return str(path)


@functools.cache
def _place() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def opened(name: str) -> tuple[OpenClipEncoder, Checkpoint]:
    """A model by torch, on the processor."""
    with open_model(checkpoint(Path(_place().name) / name, name)) as found:
        return found.encoder(device="cpu"), found.checkpoint


@functools.cache
def exported(name: str) -> Path:
    """Its graphs in float32. Not to be changed: copy them."""
    return write(name, Path(_place().name) / f"{name}-graphs")["fp32"]


def write(name: str, target: Path, **options: Any) -> Any:
    """Its graphs, written to `target`."""
    torch.set_num_threads(1)
    encoder, found = opened(name)
    target.mkdir()
    return folder.write(encoder, found, target, classes=NAMES, templates=TEMPLATES, **options)
