"""Models of transformers: towers of any size, code and links, in one folder and in two."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_texts import DOCUMENTS
from hostile_texts import VALUES as ALL
from made import Case

BERT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "pad_token_id",
    "max_position_embeddings", "type_vocab_size", "project_dim", "layer_norm_eps", "hidden_act",
)  # fmt: skip
VIT = ("num_hidden_layers", "image_size", "projection_dim")
CLIP_TEXT = ("hidden_size", "vocab_size", "eos_token_id")

VALUES = {name: ALL[name] for name in ("a billion", "10^30", "negative", "a truth", "a long list", "steering")}

PICKLE = b"\x80\x04cos\nsystem\n(X\x09\0\0\0touch ran\x85R."

TOWERS = {"image_encoder": "CLIPVisionModelWithProjection", "text_encoder": "CLIPTextModelWithProjection"}
TYPES = {"image_encoder": "clip_vision_model", "text_encoder": "clip_text_model"}


def weights() -> bytes:
    """A safetensors file with one number."""
    header = json.dumps({"logit_scale": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


def alone(place: Path, kind: str, files: dict[str, bytes] | None = None, **text: Any) -> list[str]:
    """A folder of a model with a text tower of transformers, with other settings of it, or other files."""
    folder = place / "model"
    folder.mkdir()
    settings = {"model_type": kind, "text_config": text, "vision_config": {}}
    given = {"config.json": json.dumps(settings).encode(), "vocab.txt": b"[PAD]\n", "model.safetensors": weights()}
    for name, content in {**given, **(files or {})}.items():
        (folder / name).write_bytes(content)
    return ["inspect", "model"]


def pair(place: Path, files: dict[str, bytes] | None = None, **changes: dict[str, Any]) -> list[str]:
    """A folder with two towers, with other settings of them, or other files."""
    for name, kind in TOWERS.items():
        folder = place / "model" / name
        folder.mkdir(parents=True)
        settings = {"architectures": [kind], "model_type": TYPES[name], **changes.get(name, {})}
        (folder / "config.json").write_text(json.dumps(settings))
        (folder / "model.safetensors").write_bytes(weights())
    for name, content in (files or {}).items():
        (place / "model" / name).write_bytes(content)
    return ["inspect", "model"]


def linked(place: Path) -> list[str]:
    """Two towers, of which one lies elsewhere."""
    arguments = pair(place)
    (place / "model" / "text_encoder").rename(place / "elsewhere")
    (place / "model" / "text_encoder").symlink_to(place / "elsewhere")
    return arguments


def many(place: Path) -> list[str]:
    """Two towers among thousands of folders."""
    arguments = pair(place)
    for number in range(3000):
        (place / "model" / f"a{number}").mkdir()
    return arguments


def cases() -> Iterator[Case]:
    for name, value in VALUES.items():
        for key in BERT:
            for kind in ("chinese_clip", "altclip") if name == "a billion" else ("altclip",):
                yield Case(
                    f"{kind}: {key} is {name}",
                    lambda place, kind=kind, key=key, value=value: alone(place, kind, **{key: value}),
                    (2,),
                )
        for tower, keys in (("image_encoder", VIT), ("text_encoder", CLIP_TEXT)):
            for key in keys:
                yield Case(
                    f"two towers: {key} of {tower} is {name}",
                    lambda place, tower=tower, key=key, value=value: pair(place, **{tower: {key: value}}),
                    (2,),
                )
    for name, content in DOCUMENTS.items():
        files = {"tokenizer_config.json": content}
        yield Case(f"altclip: tokenizer: {name}", lambda place, files=files: alone(place, "altclip", files), (2,))
        for tower in TOWERS:
            files = {f"{tower}/config.json": content}
            yield Case(f"two towers: {tower}: {name}", lambda place, files=files: pair(place, files), (2,))
    for tower in TOWERS:
        files = {f"{tower}/pytorch_model.bin": PICKLE}
        yield Case(
            f"two towers: code beside {tower}, and another kind of tower",
            lambda place, files=files, tower=tower: pair(place, files, **{tower: {"model_type": "evil"}}),
            (1,),
            "bare pickle",
        )
        yield Case(
            f"two towers: code beside {tower}", lambda place, files=files: pair(place, files), (1,), "bare pickle"
        )
        code = {tower: {"auto_map": {"AutoModel": "evil.Model"}}}
        yield Case(f"two towers: code for {tower}", lambda place, code=code: pair(place, **code), (2,), "auto_map")
    yield Case("two towers: a link elsewhere", linked, (2,))
    yield Case("two towers: thousands of folders", many, (2,))
