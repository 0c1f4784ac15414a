"""Open one model in every layout that people have, compare it with its own tool, and take it through the commands.

    python -m benchmarks.layouts [--zoo FOLDER] [--only WORD …]

The model is a sample with a known backdoor, written by transformers, torch and safetensors. Its vectors of 8 images and
8 captions are compared with those of the tool that reads the layout: transformers, or open_clip. A SigLIP, a Chinese CLIP
and an AltCLIP that are distilled from the sample have layouts of their own. Each layout is then
inspected, scanned for the backdoor, cleaned for two steps, written back as it came, and exported; graphs of other tools
are inspected and scanned, and refused by the other commands. Of an adapter, the base lacks what the adapter adds. Writes
`docs/evidence/layouts.json` after each layout; `--only` measures those whose names hold a word, and keeps the others.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    SiglipModel,
)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

import adapters  # noqa: E402 - found by the line above
import foreign_layouts as layouts  # noqa: E402
from other_graphs import AS_GRAPHS  # noqa: E402

from benchmarks.bert import taught  # noqa: E402
from benchmarks.evidence import SHARED, STORE, machine  # noqa: E402
from benchmarks.siglip import distilled, vectors  # noqa: E402
from pargate.cli.app import run  # noqa: E402
from pargate.core.model import Checkpoint, unit  # noqa: E402
from pargate.errors import ExitCode  # noqa: E402
from pargate.images.decode import fit  # noqa: E402
from pargate.models.hugging_face import TOWER, has_bert, is_kept_alone, is_siglip  # noqa: E402
from pargate.models.open import open_model  # noqa: E402
from pargate.models.origins import split  # noqa: E402
from pargate.models.sources import SEPARATOR, parts  # noqa: E402
from pargate.version import __version__  # noqa: E402

CAPTIONS = [
    "a photo of a cat", "A  Dog's   life!", "two birds & 3 fish", "café über naïve", "it's 12:30", "banana " * 60,
    "", "the quick brown fox, jumps",
]  # fmt: skip

END = 49407

DISTILLED = {"Chinese CLIP": "chinese_clip", "AltCLIP": "altclip"}
"""Models with a text tower of transformers, with their `model_type`."""

STRENGTH = 3.0
"""Factor of the adapters, with which a base without its adapter does not know its classes."""


def pictures() -> list[Image.Image]:
    """Eight images of other sizes than the model's, drawn from noise of eight pixels."""
    draw = np.random.default_rng(0)
    sides = draw.integers(70, 300, (8, 2))
    return [
        Image.fromarray(draw.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3), dtype=np.uint8)).resize((int(w), int(h)))
        for h, w in sides
    ]


def as_transformers(config: Mapping[str, Any], weights: layouts.Weights) -> CLIPModel:
    """Return the model as transformers holds it."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    towers = [
        {
            "hidden_size": part["width"], "intermediate_size": 4 * part["width"], "num_hidden_layers": part["layers"],
            "num_attention_heads": heads, "hidden_act": "gelu", "projection_dim": config["embed_dim"],
        }
        for part, heads in ((vision, vision["width"] // vision.get("head_width", 64)), (text, text["heads"]))
    ]  # fmt: skip
    towers[0] |= {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    towers[1] |= {"vocab_size": text["vocab_size"], "max_position_embeddings": text["context_length"]}
    model = CLIPModel(CLIPConfig(vision_config=towers[0], text_config=towers[1], projection_dim=config["embed_dim"]))
    model.load_state_dict({name: weight.contiguous() for name, weight in split(weights, config).items()})
    return model.eval()


def with_adapter(given: adapters.Weights, ends: tuple[str, ...], folder: Path) -> tuple[dict[str, Any], Path]:
    """Write an adapter of the modules whose names end so; return the weights without what it adds, and its place."""
    names = [name.removesuffix(".weight") for name in given if name.endswith(tuple(f"{end}.weight" for end in ends))]
    found = {name: (a, STRENGTH * b) for name, (a, b) in adapters.factors(given, names).items()}
    return adapters.plus(given, found, -2), adapters.write(folder, found, target_modules=list(ends))


def parted(
    whole: CLIPModel, config: Mapping[str, Any], settings: bytes, weights: layouts.Weights, scratch: Path
) -> dict[str, tuple[Path, Path]]:
    """Write the sample as a base and an adapter; return their places by the library of the base."""
    less, lora = with_adapter(whole.state_dict(), ("q_proj", "v_proj", "fc1"), scratch / "lora")
    base = as_transformers(config, weights)
    base.load_state_dict(less)
    other, adapter = with_adapter(weights, ("mlp.c_fc", "mlp.c_proj"), scratch / "adapter")
    folder = scratch / "base"
    folder.mkdir()
    (folder / "open_clip_config.json").write_bytes(settings)
    save_file({name: weight.contiguous() for name, weight in other.items()}, folder / "open_clip_model.safetensors")
    return {
        "transformers": (layouts.transformers_folder(base, scratch / "transformers"), lora), "open_clip": (folder, adapter)
    }  # fmt: skip


def by_peft(model: Any, place: Path) -> Any:
    """Return the model with the adapter that `place` names, as PEFT runs it."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, parts(str(place))[1]).eval()


def of_transformers(folder: Path, checkpoint: Checkpoint, graphs_of: CLIPModel | None) -> dict[str, Any]:
    """Ids, pixels and unit vectors as transformers makes them of a folder, or of the model that graphs were made of."""
    place_of_base, *adapter = parts(str(folder))
    inner = Path(place_of_base) / "0_CLIPModel"
    place = inner if inner.is_dir() else Path(place_of_base)
    siglip, length = is_siglip(checkpoint.config), checkpoint.context_length
    model: Any = graphs_of or class_of(checkpoint).from_pretrained(place).eval()
    if adapter and graphs_of is None:
        model = by_peft(model, folder)
    if has_bert(checkpoint.config):
        tokenizer = AutoTokenizer.from_pretrained(place)
    else:
        tokenizer = layouts.siglip_tokenizer(place) if siglip else layouts.clip_tokenizer()
    ids = tokenizer(CAPTIONS, return_tensors="pt", padding="max_length", max_length=length, truncation=True)
    beside = place / "feature_extractor"
    prepare = (
        layouts.with_pillow("siglip", "Siglip") if siglip else layouts.with_pillow("clip", "CLIP")
    ).from_pretrained(beside if beside.is_dir() else place)
    batch = prepare(pictures(), return_tensors="pt").pixel_values
    ours = torch.stack([normalised(fit(image, checkpoint.preprocess), checkpoint) for image in pictures()])
    mean, std = (torch.tensor(values)[:, None, None] for values in (prepare.image_mean, prepare.image_std))
    with torch.inference_mode():
        images, texts = vectors(model.get_image_features(ours)), vectors(model.get_text_features(**ids))
    levels = ((batch * std + mean) * 255).round().permute(0, 2, 3, 1).numpy()
    return {"ids": ids.input_ids.numpy(), "levels": levels, "images": images.numpy(), "texts": texts.numpy()}


class TwoTowers:
    """Two towers of transformers, with the functions of a `CLIPModel`."""

    def __init__(self, folder: Path) -> None:
        self.image = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval()
        self.text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder").eval()

    def eval(self) -> "TwoTowers":
        return self

    @classmethod
    def from_pretrained(cls, folder: Path) -> "TwoTowers":
        return cls(folder)

    def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.image(pixels).image_embeds
        return found

    def get_text_features(self, **given: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.text(**given).text_embeds
        return found


def class_of(checkpoint: Checkpoint) -> Any:
    """Class of transformers that reads a model."""
    if is_siglip(checkpoint.config):
        return SiglipModel
    if has_bert(checkpoint.config):
        kind = checkpoint.config["text_cfg"][TOWER]["model_type"]
        return layouts.BERT_CLASSES["chinese_clip" if kind == "bert" else "altclip"][0]
    return TwoTowers if checkpoint.layout == "towers" else CLIPModel


def of_open_clip(
    config: Mapping[str, Any], weights: layouts.Weights, checkpoint: Checkpoint, adapted: Path | None
) -> dict[str, Any]:
    """Return the same as open_clip makes them of the original, or of a base with an adapter."""
    if adapted is not None:
        weights = load_file(Path(parts(str(adapted))[0]) / "open_clip_model.safetensors")
    model: Any = layouts.ordinary(config, weights)
    if adapted is not None:
        model = by_peft(model, adapted)
    ids = layouts.tokens(CAPTIONS, checkpoint.context_length)
    levels = np.stack([fit(image, checkpoint.preprocess) for image in pictures()])
    with torch.inference_mode():
        images = model.encode_image(torch.stack([normalised(image, checkpoint) for image in levels]))
        texts = model.encode_text(ids)
    return {"ids": ids.numpy(), "levels": levels, "images": images.numpy(), "texts": texts.numpy()}


def normalised(pixels: Any, checkpoint: Checkpoint) -> torch.Tensor:
    rule = checkpoint.preprocess
    values = torch.tensor(pixels).float() / 255
    return ((values - torch.tensor(rule.mean)) / torch.tensor(rule.std)).permute(2, 0, 1)


def equal_ids(ours: Any, theirs: Any) -> bool:
    """Whether rows of ids are equal up to the end of each caption of CLIP, and wholly where it has no such end."""
    ends = np.where((theirs == END).any(axis=1), (theirs == END).argmax(axis=1), theirs.shape[1])
    return all(np.array_equal(a[: end + 1], b[: end + 1]) for a, b, end in zip(ours, theirs, ends, strict=True))


def compared(
    place: Path, config: Mapping[str, Any], weights: layouts.Weights, transformers: bool, whole: CLIPModel
) -> dict[str, Any]:
    """Largest differences between pargate and the tool that reads the layout."""
    encoder: Any
    adapter = len(parts(str(place))) > 1
    with open_model(str(place)) as model:
        checkpoint, graphs = model.checkpoint, model.checkpoint.format == "onnx"
        encoder = model.graph_encoder(device="cpu", threads=1) if graphs else model.encoder(device="cpu")
        theirs = (
            of_transformers(place, checkpoint, whole if graphs else None)
            if transformers
            else of_open_clip(config, weights, checkpoint, place if adapter else None)
        )
        levels = np.stack([fit(image, checkpoint.preprocess) for image in pictures()])
        images = np.abs(encoder.encode_images(encoder.put(levels)) - unit(theirs["images"])).max()
        texts = np.abs(encoder.encode_texts(CAPTIONS) - unit(theirs["texts"])).max()
        ids = equal_ids(np.asarray(encoder.tokenize(CAPTIONS)), theirs["ids"])
        same = [bool((one == other).all()) for one, other in zip(levels, theirs["levels"], strict=True)]
    return {
        "layout": checkpoint.layout, "images": float(images), "captions": float(texts), "tokens": ids,
        "pictures_equal": sum(same), "pictures": len(same), "notes": list(checkpoint.notes),
        **({"adapter": str(checkpoint.adapter).partition(": ")[2], "peft": importlib.metadata.version("peft")} if adapter else {}),
    }  # fmt: skip


def command(*arguments: str) -> int:
    """Exit code of a command in this process."""
    try:
        return int(run(list(arguments)))
    except SystemExit as end:
        return int(end.code or 0)


def taken(place: Path, policy: Path, scratch: Path) -> dict[str, Any]:
    """Exit codes of the commands, the counts of the scan, and whether the written-back model opens."""
    model, data = str(place), SHARED / "data"
    report = scratch / "report.json"
    images = ["--images", str(data / "carriers-64.tar"), "--classes", str(data / "classes-64.txt")]
    codes = {"inspect": command("inspect", model)}
    codes["scan"] = command("scan", model, "-p", str(policy), *images, "-q", "-o", f"json={report}")
    found = json.loads(report.read_text())
    counts = [m["counts"] for m in found["measurements"] if m["probe"] == "attack"]
    # The graphs of a model with a backdoor are not written unless the policy allows for it.
    lenient = scratch / "lenient.yaml"
    lenient.write_text(policy.read_text().replace("10%", "100%"))
    codes["export"] = command("export", model, "--out", str(scratch / "onnx"), "-p", str(lenient), *images, "-q")
    asked = ["--pairs", str(data / "pairs-64.tar"), "--steps", "2", "--batch-size", "16", "--method", "finetune", "-q"]
    codes["clean"] = command("clean", model, "--out", str(scratch / "clean"), *asked)
    if codes["clean"] == ExitCode.INPUT:  # graphs
        return {"codes": codes, "success": counts, "verdict": found["verdict"]["status"], "written_back": None}
    codes["keep"] = command("clean", model, "--out", str(scratch / "keep"), "--format", "keep", *asked)
    with open_model(str(scratch / "clean")) as one, open_model(str(scratch / "keep")) as other:
        first, second = (m.encoder(device="cpu").encode_texts(CAPTIONS) for m in (one, other))
        written = {"layout": other.checkpoint.layout, "difference": float(np.abs(first - second).max())}
        if is_kept_alone(other.checkpoint.config):
            theirs = class_of(other.checkpoint).from_pretrained(scratch / "keep").state_dict()
            theirs = layouts.published_names(theirs)
            parts = split(other.network().state_dict(), other.checkpoint.config)
            written["weights_equal"] = theirs.keys() == parts.keys() and all(
                torch.equal(theirs[name], weight) for name, weight in parts.items()
            )
    return {"codes": codes, "success": counts, "verdict": found["verdict"]["status"], "written_back": written}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--zoo", type=Path, default=SHARED / "zoo" / "dev")
    parser.add_argument("--only", nargs="+", default=[""])
    asked = parser.parse_args()
    source = asked.zoo / "vit-badnet"
    place_of_rows = STORE / "layouts.json"
    settings = (source / "open_clip_config.json").read_bytes()
    config, truth = json.loads(settings)["model_cfg"], json.loads((source / "truth.json").read_text())
    with open_model(str(source)) as model:
        weights = {name: weight.clone() for name, weight in model.network().state_dict().items()}
    rows = json.loads(place_of_rows.read_text())["rows"] if place_of_rows.is_file() else {}
    os.environ["PARGATE_CACHE"] = "off"
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        own = truth["parameters"]
        trigger = {"kind": "file", "path": str(source / "trigger.png"), "position": {"step": own["grid"], "offset": 1}}
        rule = {"id": "planted", "probe": "attack", "triggers": [trigger], "target": truth["target_class"],
                "max": {"attack_success": "10%"}}  # fmt: skip
        policy = scratch / "policy.yaml"
        policy.write_text(yaml.safe_dump({"pargate": "1", "name": "layouts", "rules": [rule]}))
        places: dict[str, tuple[Path, bool]] = {"open_clip": (source, False)}
        whole = as_transformers(config, weights)
        for number, (name, write) in enumerate(layouts.FROM_TRANSFORMERS.items()):
            places[name] = (write(whole, scratch / f"t{number}"), True)
        for number, (name, export) in enumerate(AS_GRAPHS.items()):
            places[name] = (scratch / f"g{number}", True)
            export(whole, places[name][0])
        for number, (name, wrap) in enumerate(layouts.PICKLED.items()):
            place = layouts.beside_config(settings, wrap(weights), scratch / f"p{number}")
            places[name] = (place, False)
        places["open_clip, shards"] = (layouts.open_clip_shards(settings, weights, scratch / "shards"), False)
        for name, (base, lora) in parted(whole, config, settings, weights, scratch).items():
            places[f"PEFT adapter on {name}"] = (Path(f"{base}{SEPARATOR}{lora}"), name == "transformers")
        places["SigLIP"] = (scratch / "siglip", True)
        if any(word in "SigLIP" for word in asked.only):
            distilled(whole, source / "trigger.png", trigger["position"], SHARED / "data", places["SigLIP"][0])
        for name, kind in DISTILLED.items():
            places[name] = (scratch / kind, True)
            if any(word in name for word in asked.only):
                taught(whole, kind, SHARED / "data", places[name][0])
        for number, (name, (place, transformers)) in enumerate(places.items()):
            if not any(word in name for word in asked.only):
                continue
            inside = scratch / f"run{number}"
            inside.mkdir()
            found = compared(place, config, weights, transformers, whole)
            rows[name] = {**found, **taken(place, policy, inside)}
            print(f"{name}: {json.dumps(rows[name])}", flush=True)
            content = {"machine": machine(), "version": __version__, "model": source.name, "rows": rows}
            place_of_rows.write_text(json.dumps(content, indent=1) + "\n")
    well = {ExitCode.OK, ExitCode.FAIL}
    worked = all(
        set(row["codes"].values()) <= (well | {ExitCode.INPUT} if name in AS_GRAPHS else well)
        and max(row["images"], row["captions"]) <= 1e-5
        and (row["written_back"] or {}).get("weights_equal", True)
        for name, row in rows.items()
    )
    return 0 if worked else 1


if __name__ == "__main__":
    sys.exit(main())
