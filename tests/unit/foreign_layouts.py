"""The layouts in which people have a CLIP, each written by the tools that write it."""

import argparse
import importlib
import importlib.util
import json
import random
import shutil
import struct
import sys
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import torch
import transformers
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AutoTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)
from transformers import tokenization_utils_sentencepiece as backend
from transformers.convert_slow_tokenizer import import_protobuf

from pargate.models.tokenizer import END, START, clips_vocabulary, vocabulary

NAMES = {START: "<|startoftext|>", END: "<|endoftext|>"}
"""The two tokens that transformers writes in another way."""


def with_pillow(model: str, name: str) -> Any:
    """Return transformers' image processor that computes with Pillow, such as `with_pillow("clip", "CLIP")`."""
    home = f"transformers.models.{model}.image_processing_"
    try:
        return getattr(importlib.import_module(f"{home}pil_{model}"), f"{name}ImageProcessorPil")
    except ModuleNotFoundError:  # older versions give the name without an ending to this one
        return getattr(importlib.import_module(f"{home}{model}"), f"{name}ImageProcessor")


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


def towers_apart(model: CLIPModel, folder: Path) -> Path:
    """The towers in folders of their own, as a pipeline of diffusers keeps them."""
    settings = model.config
    for name, kind, section, part in (
        ("image_encoder", CLIPVisionModelWithProjection, settings.vision_config, "visual_projection"),
        ("text_encoder", CLIPTextModelWithProjection, settings.text_config, "text_projection"),
    ):
        tower = kind(type(section).from_dict({**section.to_dict(), "projection_dim": settings.projection_dim}))
        source = "vision_model" if part == "visual_projection" else "text_model"
        getattr(tower, source).load_state_dict(getattr(model, source).state_dict())
        getattr(tower, part).load_state_dict(getattr(model, part).state_dict())
        tower.save_pretrained(folder / name)
    processor(settings.vision_config.image_size).save_pretrained(folder / "feature_extractor")
    clip_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableUnCLIPPipeline"}))
    return folder


FROM_TRANSFORMERS: dict[str, Callable[[CLIPModel, Path], Path]] = {
    "transformers, safetensors": transformers_folder,
    "transformers, shards": sharded,
    "transformers, pytorch_model.bin": pickled,
    "transformers, checkpoint-500": trainer,
    "sentence-transformers": sentence,
    "two towers": towers_apart,
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


# --- SigLIP ------------------------------------------------------------------------------------------


def siglip_model(size: int = 32, words: int = 120, context: int = 16, **changes: Any) -> SiglipModel:
    """A small `SiglipModel` with random weights of the usual size; `changes` are settings of both towers."""
    torch.manual_seed(0)
    tower = {"intermediate_size": 100, "num_hidden_layers": 2, **changes}
    vision = {"hidden_size": 64, **tower, "num_attention_heads": 2, "image_size": size, "patch_size": 16}
    text = {
        "hidden_size": 96, **tower, "num_attention_heads": 4, "vocab_size": words, "max_position_embeddings": context,
        "projection_size": vision["hidden_size"], "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


PIECES = {
    "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0,
    **{word: -2 - 0.1 * n for n, word in enumerate(["▁", "▁a", "▁photo", "▁of", "▁cat", "▁dog", "s", "ing", "▁the"])},
    **{letter: -6 - 0.01 * n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789éσς")},
}  # fmt: skip
"""A vocabulary in the order of SigLIP's: each piece with the logarithm of its probability."""


def spiece() -> bytes:
    """The vocabulary as sentencepiece writes it."""
    proto = import_protobuf().ModelProto()
    for number, (word, score) in enumerate(PIECES.items()):
        proto.pieces.add(piece=word, score=score, type=(3, 3, 2)[number] if number < 3 else 1)
    proto.trainer_spec.model_type, proto.trainer_spec.unk_id = 1, 2
    content: bytes = proto.SerializeToString()
    return content


def siglip_folder(model: SiglipModel, folder: Path) -> Path:
    """A folder as `SiglipProcessor` and `SiglipModel` save it, with SigLIP's own kind of vocabulary."""
    model.save_pretrained(folder)
    side = model.config.vision_config.image_size
    SiglipImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    (folder / "spiece.model").write_bytes(spiece())
    settings = {
        "tokenizer_class": "SiglipTokenizer", "model_max_length": model.config.text_config.max_position_embeddings,
        "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>", "model_input_names": ["input_ids"],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def siglip2_folder(model: SiglipModel, folder: Path) -> Path:
    """The same with SigLIP2's kind of vocabulary, in a `tokenizer.json`."""
    siglip_folder(model, folder)
    (folder / "spiece.model").unlink()
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz0123456789.,ég", "▁a", "ca"]
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    Siglip2Tokenizer(ids, [("▁", "a"), ("c", "a")], padding_side="right", add_eos_token=True).save_pretrained(folder)
    return folder


SIGLIPS: dict[str, Callable[[SiglipModel, Path], Path]] = {"SigLIP": siglip_folder, "SigLIP2": siglip2_folder}
"""Layouts of a `SiglipModel`, by name."""


class Pieces:
    """sentencepiece's `SentencePieceProcessor` for `PIECES`, by its definition: the most probable pieces of a text."""

    def Load(self, file: str) -> None:  # noqa: N802 - its name there
        self._words = list(PIECES)

    def get_piece_size(self) -> int:
        return len(self._words)

    def piece_to_id(self, word: str) -> int:
        return self._words.index(word) if word in PIECES else 2

    def IdToPiece(self, number: int) -> str:  # noqa: N802
        return self._words[number]

    def encode(self, text: str, out_type: type = str) -> list[str]:
        text = "▁" + "▁".join(part for part in text.split(" ") if part)
        text = text.rstrip("▁")
        normal = dict(list(PIECES.items())[3:])
        unknown = min(normal.values()) - 10
        best: list[tuple[float, list[str]]] = [(0.0, [])]
        for end in range(1, len(text) + 1):
            ways = [
                (best[begin][0] + normal.get(text[begin:end], unknown), [*best[begin][1], text[begin:end]])
                for begin in range(end)
                if text[begin:end] in normal or end - begin == 1
            ]
            best.append(max(ways, key=lambda way: way[0]))
        found: list[str] = []
        for piece in best[-1][1]:
            if found and piece not in normal and found[-1] not in normal:
                found[-1] += piece  # neighbours that are unknown are one
            else:
                found.append(piece)
        return found


def siglip_tokenizer(folder: Path) -> Any:
    """transformers' own tokenizer of a SigLIP; where sentencepiece is needed and missing, `Pieces` takes its place."""
    if importlib.util.find_spec("sentencepiece") or not (folder / "spiece.model").is_file():
        return AutoTokenizer.from_pretrained(folder)
    stand_in = types.ModuleType("sentencepiece")
    stand_in.SentencePieceProcessor = lambda **options: Pieces()  # type: ignore[attr-defined]
    place = Path(transformers.__file__).parent / "models" / "siglip" / "tokenization_siglip.py"
    spec = importlib.util.spec_from_file_location("transformers.models.siglip.own", place)
    assert spec is not None and spec.loader is not None
    own = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {"sentencepiece": stand_in}):
        spec.loader.exec_module(own)
        own.requires_backends = lambda *asked: None  # type: ignore[attr-defined]
        with mock.patch.multiple(backend, requires_backends=own.requires_backends, spm=stand_in, create=True):
            return own.SiglipTokenizer.from_pretrained(folder)


# --- Chinese CLIP and AltCLIP ------------------------------------------------------------------------


def bert_model(kind: str, words: int = 120, size: int = 32, **changes: Any) -> Any:
    """A small `ChineseCLIPModel` or `AltCLIPModel` with random weights; `changes` are settings of the text tower."""
    torch.manual_seed(0)
    model, config, more = BERT_CLASSES[kind]
    tower = {"num_hidden_layers": 2, "intermediate_size": 100}
    vision = {**tower, "hidden_size": 64, "num_attention_heads": 2, "image_size": size, "patch_size": 16}
    text = {
        **tower, **more, "hidden_size": 48, "num_attention_heads": 4, "vocab_size": words,
        "max_position_embeddings": 80, **changes,
    }  # fmt: skip
    made = model(config(text_config=text, vision_config=vision, projection_dim=24)).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.1 * torch.randn_like(weight)
        for part in made.modules():
            if isinstance(part, torch.nn.Embedding) and part.padding_idx is not None:
                part.weight[part.padding_idx] = 0  # as transformers makes it, also when it loads a model
    return made


BERT_CLASSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "chinese_clip": (ChineseCLIPModel, ChineseCLIPConfig, {}),
    "altclip": (AltCLIPModel, AltCLIPConfig, {"project_dim": 40}),
}
"""Classes of a model and of its settings, and settings that only its text tower has, by `model_type`."""

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    *"一只猫狗的照片红绿蓝色图两鸟在草地上跑、。", *"abcdefghijklmnopqrstuvwxyz",
    *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"), *"0123456789.,!'", "photo", "cat", "dog",
    "red", "green", "blue", "##s", "of",
]  # fmt: skip
"""A vocabulary in the order of BERT's."""


def chinese_folder(model: Any, folder: Path) -> Path:
    """A folder as the authors published theirs: a `vocab.txt`, and nothing that says how long a caption is."""
    model.save_pretrained(folder)
    processor(model.config.vision_config.image_size).save_pretrained(folder)
    words = list(dict.fromkeys(WORDS))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return folder


def changed(folder: Path, target: Path, file: str = "config.json", **changes: Any) -> Path:
    """A copy with other settings in a file; a key such as `text_config__hidden_act` leads into a section."""
    shutil.copytree(folder, target)
    document = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        (document[section] if section else document)[name] = value
    (target / file).write_text(json.dumps(document))
    return target


PIECES_OF_XLM = {
    "<unk>": 0.0, "<s>": 0.0, "</s>": 0.0,
    **{word: -2 - 0.1 * n for n, word in enumerate(["▁", "▁a", "▁photo", "▁of", "▁cat", "s", "ing", "猫", "▁red"])},
    **{letter: -6 - 0.01 * n for n, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789éABC狗一只的照片、.!'")},
}  # fmt: skip
"""A vocabulary in the order of XLM-R's: each piece with the logarithm of its probability."""


def map_of_characters() -> bytes:
    """A table that replaces "D" by "d", as sentencepiece compiles it: a double array of 256 units, and the texts."""
    units = [0] * 256
    units[ord("D")] = ord("D") | 1 << 8 | (ord("D") ^ 0x80) << 10  # label, that a value follows, and where
    return struct.pack("<I256I", 4 * len(units), *units) + b"d\0"  # the value at 0x80 is the place of "d": 0


def alt_folder(model: Any, folder: Path) -> Path:
    """A folder with the vocabulary of an XLM-R as sentencepiece writes it."""
    model.save_pretrained(folder)
    processor(model.config.vision_config.image_size).save_pretrained(folder)
    proto = import_protobuf().ModelProto()
    for number, (word, score) in enumerate(PIECES_OF_XLM.items()):
        proto.pieces.add(piece=word, score=score, type=(2, 3, 3)[number] if number < 3 else 1)
    proto.trainer_spec.model_type, proto.trainer_spec.unk_id = 1, 0
    proto.normalizer_spec.precompiled_charsmap = map_of_characters()
    (folder / "sentencepiece.bpe.model").write_bytes(proto.SerializeToString())
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def saved_folder(model: Any, folder: Path) -> Path:
    """The same as transformers saves it, with a `tokenizer.json` and the weights in a pickle with their constants."""
    kind = model.config.model_type
    BERTS[kind](model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=24)
    for name in ("vocab.txt", "sentencepiece.bpe.model", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    inner = "text_model.roberta" if kind == "altclip" else "text_model"
    constants = {f"{inner}.embeddings.position_ids": torch.arange(80)[None]}
    torch.save({**published_names(model.state_dict()), **constants}, folder / "pytorch_model.bin")
    return folder


def published_names(weights: Weights) -> dict[str, torch.Tensor]:
    """Weights under the names that lie on the hub, whatever the layers are called inside transformers."""
    return {
        name.replace("roberta.encoder.layers.", "roberta.encoder.layer."): weight for name, weight in weights.items()
    }


BERTS: dict[str, Callable[[Any, Path], Path]] = {"chinese_clip": chinese_folder, "altclip": alt_folder}
"""Layouts with a text tower of transformers, by `model_type`."""
