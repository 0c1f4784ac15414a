"""Adapters of PEFT, written as it writes them, and what it makes of them by its definition."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

PREFIX = "base_model.model."

Factors = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""A [r, in, …] and B [out, r, …] by the name of the module."""

Weights = Mapping[str, torch.Tensor]


def factors(weights: Weights, modules: Sequence[str], r: int = 4) -> Factors:
    """Random factors for modules with these weights."""
    draw = torch.Generator().manual_seed(3)
    found = {}
    for name in modules:
        out, *inside = weights[f"{name}.weight"].shape
        a = torch.randn((r, *inside), generator=draw) / math.prod(inside) ** 0.5
        found[name] = (a, 0.1 * torch.randn((out, r, *[1] * (len(inside) - 1)), generator=draw))
    return found


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """B·A in the shape of the weight; a convolution's factors are matrices over its inputs and places."""
    return (b.flatten(1) @ a.flatten(1)).reshape(len(b), *a.shape[1:])


def plus(weights: Weights, given: Factors, scaling: float) -> dict[str, torch.Tensor]:
    """Weights with the products added `scaling` times."""
    changed = {f"{name}.weight": product(*pair) for name, pair in given.items()}
    return {name: weight + scaling * changed[name] if name in changed else weight for name, weight in weights.items()}


def settings(**changes: Any) -> dict[str, Any]:
    """An `adapter_config.json` as PEFT 0.21 saves it."""
    off = ["alora_invocation_tokens", "arrow_config", "auto_mapping", "base_model_name_or_path", "corda_config",
           "eva_config", "exclude_modules", "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform",
           "lora_ga_config", "megatron_config", "modules_to_save", "monteclora_config", "revision", "target_parameters",
           "task_type", "trainable_token_indices", "use_bdlora", "velora_config"]  # fmt: skip
    return {
        "peft_type": "LORA", "peft_version": "0.21.2", "inference_mode": True, "r": 4, "lora_alpha": 8,
        "lora_dropout": 0.1, "bias": "none", "init_lora_weights": True, "megatron_core": "megatron.core",
        "qalora_group_size": 16, "alpha_pattern": {}, "rank_pattern": {}, "loftq_config": {}, "use_dora": False,
        "use_rslora": False, "use_qalora": False, "lora_bias": False, "fan_in_fan_out": False,
        "ensure_weight_tying": False, "target_modules": ["q_proj"], **dict.fromkeys(off), **changes,
    }  # fmt: skip


def write(folder: Path, given: Factors, others: Weights | None = None, pickled: bool = False, **changes: Any) -> Path:
    """An adapter's folder; `others` are further tensors by their names in the base, `changes` other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.lora_{letter}.weight": part for name, pair in given.items()
               for letter, part in zip("AB", pair, strict=True)}  # fmt: skip
    tensors = {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in {**tensors, **(others or {})}.items()}
    if pickled:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({".".join(name.split(".")[-2:]) for name in given})
    (folder / "adapter_config.json").write_text(json.dumps(settings(**{"target_modules": targets, **changes})))
    return folder
