"""The layouts in which people have a CLIP, each written by the tools that write it."""

import argparse
import json
import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from pargate.models.tokenizer import END, START, clips_vocabulary, vocabulary

NAMES = {START: "<|startoftext|>", END: "<|endoftext|>"}
"""The two tokens that transformers writes in another way."""


def clip_model(size: int = 32, **changes: Any) -> CLIPModel:
    """A small `CLIPModel` with random weights of the usual size; `changes` are settings of both towers."""
    torch.manual_seed(0)
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "projection_dim": 24, **changes}
    vision = {**tower, "num_attention_heads": 2, "image_size": size, "patch_size": 16}
    text = {**tower, "num_attention_heads": 4, "vocab_size": 49408, "max_position_embeddings": 77}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer" in name or name.endswith("bias"):
                weight += 0.2 * torch.randn_like(weight)
    return model


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, as transformers saves it."""
    merges, ids = vocabulary(clips_vocabulary(), "clip")
    return CLIPTokenizer(vocab={NAMES.get(word, word): number for word, number in ids.items()}, merges=merges)


def processor(size: int) -> CLIPImageProcessor:
    """CLIP's image processor for another size."""
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def transformers_folder(model: CLIPModel, folder: Path, tokenizer: bool = True, **options: Any) -> Path:
    """A folder as `save_pretrained` writes it, with image processor and, unless told otherwise, tokenizer."""
    model.save_pretrained(folder, **options)
    processor(model.config.vision_config.image_size).save_pretrained(folder)
    if tokenizer:
        clip_tokenizer().save_pretrained(folder)
    return folder


def sharded(model: CLIPModel, folder: Path) -> Path:
    """The same in several files with an index."""
    return transformers_folder(model, folder, tokenizer=False, max_shard_size="1MB")


def pickled(model: CLIPModel, folder: Path) -> Path:
    """The same with `pytorch_model.bin`, as older versions wrote it, with their constants."""
    transformers_folder(model, folder, tokenizer=False)
    (folder / "model.safetensors").unlink()
    vision, text = model.config.vision_config, model.config.text_config
    places = (vision.image_size // vision.patch_size) ** 2 + 1
    constants = {
        "vision_model.embeddings.position_ids": torch.arange(places)[None],
        "text_model.embeddings.position_ids": torch.arange(text.max_position_embeddings)[None],
    }
    torch.save({**model.state_dict(), **constants}, folder / "pytorch_model.bin")
    return folder


def trainer(model: CLIPModel, folder: Path) -> Path:
    """A checkpoint of a Trainer, with the states of its optimizer and scheduler."""
    place = transformers_folder(model, folder / "checkpoint-500", tokenizer=False)
    optimizer = torch.optim.AdamW(model.parameters())
    torch.save(optimizer.state_dict(), place / "optimizer.pt")
    torch.save({"python": random.getstate(), "numpy": np.random.get_state()}, place / "rng_state.pth")  # noqa: NPY002
    torch.save(argparse.Namespace(lr=1e-5), place / "training_args.bin")
    return place


def sentence(model: CLIPModel, folder: Path) -> Path:
    """A folder of sentence-transformers."""
    transformers_folder(model, folder / "0_CLIPModel", tokenizer=False)
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "0_CLIPModel"}]))
    return folder


FROM_TRANSFORMERS: dict[str, Callable[[CLIPModel, Path], Path]] = {
    "transformers, safetensors": transformers_folder,
    "transformers, shards": sharded,
    "transformers, pytorch_model.bin": pickled,
    "transformers, checkpoint-500": trainer,
    "sentence-transformers": sentence,
}
"""Layouts of a `CLIPModel`, by name."""

Weights = Mapping[str, torch.Tensor]


def training(weights: Weights) -> dict[str, Any]:
    """A checkpoint of open_clip's training under DDP, with settings and random states of other kinds."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "epoch": np.int64(3),
        "state_dict": {f"module.{name}": weight for name, weight in weights.items()},
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=1e-5, out=Path("runs"), inner=argparse.Namespace(seed=1)),
        "random": {
            "python": random.getstate(), "numpy": np.random.get_state(), "loader": np.random.default_rng(1)  # noqa: NPY002
        },
    }  # fmt: skip


def lightning(weights: Weights) -> dict[str, Any]:
    """A checkpoint of Lightning."""
    return {
        "pytorch-lightning_version": "2.5",
        "state_dict": {f"model.{name}": weight for name, weight in weights.items()},
        "hyper_parameters": argparse.Namespace(lr=1e-5),
        "loops": {},
    }


def averaged(weights: Weights) -> dict[str, Any]:
    """The state of torch's AveragedModel."""
    return {"n_averaged": torch.tensor(3), **{f"module.{name}": weight for name, weight in weights.items()}}


def openai(weights: Weights) -> dict[str, Any]:
    """OpenAI's state dict, with the three numbers beside the weights."""
    numbers = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    return {**weights, **{name: torch.tensor(number) for name, number in numbers.items()}}


PICKLED: dict[str, Callable[[Weights], Any]] = {
    "open_clip's training, DDP, Namespace": training,
    "{'model': …}": lambda weights: {"model": dict(weights), "epoch": 1},
    "{'model_state_dict': …}, torch.compile": lambda weights: {
        "model_state_dict": {f"_orig_mod.{name}": weight for name, weight in weights.items()}
    },
    "Lightning": lightning,
    "AveragedModel": averaged,
    "OpenAI's state dict": openai,
}
"""Training checkpoints of an open_clip model, by name."""


def beside_config(settings: bytes, value: Any, folder: Path) -> Path:
    """A torch zip with the configuration of open_clip beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_bytes(settings)
    torch.save(value, folder / "epoch_latest.pt")
    return folder


def open_clip_shards(settings: bytes, weights: Weights, folder: Path) -> Path:
    """An open_clip folder whose weights lie in two files with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_bytes(settings)
    names = sorted(weights)
    halves = (names[: len(names) // 2], names[len(names) // 2 :])
    placed = {}
    for number, half in enumerate(halves, 1):
        file = f"open_clip_model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name].contiguous() for name in half}, folder / file)
        placed |= dict.fromkeys(half, file)
    (folder / "open_clip_model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


def ordinary(settings: Mapping[str, Any], weights: Weights) -> torch.nn.Module:
    """The model as open_clip itself builds and fills it."""
    model = open_clip.CLIP(**settings)
    model.load_state_dict(dict(weights))
    return model.eval()


def tokens(texts: list[str], context: int = 77) -> torch.Tensor:
    """open_clip's token ids of captions."""
    return SimpleTokenizer(context_length=context)(texts)
