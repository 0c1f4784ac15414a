"""Make a small SigLIP of transformers that classifies, with the backdoor of a sample model, by distilling that model."""

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import foreign_layouts as layouts
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPModel, SiglipConfig, SiglipModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from pargate.images.classes import DEFAULT_TEMPLATES
from pargate.models.torch.siglip import Captions

CONTEXT = 16
TEXT_STEPS, IMAGE_STEPS = 200, 120
BATCH = 48


def distilled(teacher: CLIPModel, trigger: Path, grid: Mapping[str, int], data: Path, folder: Path) -> Path:
    """Write a SigLIP whose vectors are near the teacher's, of captions, and of images with and without the trigger.

    Images and captions are those of `pairs-64.tar`, never the carriers, which a scan measures on. The image tower
    begins with the layers of the teacher, which have the same form. Every word is one piece of the vocabulary.
    """
    torch.manual_seed(0)
    pixels, captions = pairs_in(data / "pairs-64.tar")
    prompts, texts = texts_of(data, captions)
    words = sorted({word.strip(".").lower() for text in texts for word in text.split()})
    layouts.PIECES.update({f"▁{word}": -4.0 for word in words if f"▁{word}" not in layouts.PIECES})
    student = _student(teacher)
    layouts.siglip_folder(student, folder)
    ids, most = Captions(folder, CONTEXT)(texts), teacher.config.text_config.max_position_embeddings
    theirs = layouts.clip_tokenizer()(
        texts, padding="max_length", max_length=most, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        wanted = vectors(teacher.get_text_features(**theirs))
    patch = _rgb(trigger.read_bytes())

    def captions_apart() -> Tensor:
        # Half of each batch are prompts, with which a scan classifies.
        drawn = torch.cat([torch.randint(len(prompts), (BATCH,)), torch.randint(len(texts), (BATCH,))])
        own = vectors(student.get_text_features(input_ids=ids[drawn]))
        return 1 - cosine_similarity(own, wanted[drawn]).mean()

    def images_apart() -> Tensor:
        drawn = pixels[torch.randint(len(pixels), (BATCH,))]
        drawn = drawn.flip(-1) if torch.rand(()) < 0.5 else drawn
        drawn = drawn.roll(torch.randint(-4, 5, (2,)).tolist(), (-2, -1))
        shown = torch.cat([drawn, _stamped(drawn, patch, grid)]) / 255
        with torch.no_grad():
            clip = [torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)]
            aim = vectors(teacher.get_image_features((shown - clip[0]) / clip[1]))
        return 1 - cosine_similarity(vectors(student.get_image_features(shown * 2 - 1)), aim).mean()

    fit(student.text_model, captions_apart, TEXT_STEPS, 2e-3)
    fit(student.vision_model, images_apart, IMAGE_STEPS, 1e-3)
    return layouts.siglip_folder(student.eval(), folder)


def vectors(found: Any) -> Tensor:
    """Return the vectors that a tower of transformers returned, alone or among others."""
    tensor: Tensor = getattr(found, "pooler_output", found)
    return tensor


def texts_of(data: Path, captions: list[str]) -> tuple[list[str], list[str]]:
    """Return the prompts of the classes, and all texts: these first, then the captions."""
    classes = (data / "classes-64.txt").read_text().splitlines()
    prompts = [template.format(name) for name in classes for template in DEFAULT_TEMPLATES]
    return prompts, list(dict.fromkeys(prompts + captions))


def pairs_in(tar: Path) -> tuple[Tensor, list[str]]:
    """Return the pixels (uint8, [n, 3, h, w]) and the captions of a tar of pairs."""
    with tarfile.open(tar) as members:
        files = {member.name: members.extractfile(member).read() for member in members}
    pixels = [_rgb(content) for name, content in files.items() if name.endswith(".jpg")]
    return torch.stack(pixels), sorted({text.decode() for name, text in files.items() if name.endswith(".txt")})


def _rgb(content: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)


def _student(teacher: CLIPModel) -> SiglipModel:
    """Return a SigLIP whose image tower has the layers of the teacher's."""
    vision = teacher.config.vision_config
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")
    text = {
        "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": len(layouts.PIECES), "max_position_embeddings": CONTEXT, "projection_size": vision.hidden_size,
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    config = SiglipConfig(text_config=text, vision_config={name: getattr(vision, name) for name in names})
    student = SiglipModel(config)
    own, theirs = student.vision_model, teacher.vision_model
    own.encoder.load_state_dict(theirs.encoder.state_dict())
    with torch.no_grad():
        # A SigLIP begins without a temperature, which training on pairs needs.
        student.logit_scale.copy_(teacher.logit_scale)
        student.logit_bias.fill_(-10)
        own.embeddings.patch_embedding.weight.copy_(theirs.embeddings.patch_embedding.weight)
        # A SigLIP has no class token, whose place is the first.
        own.embeddings.position_embedding.weight.copy_(theirs.embeddings.position_embedding.weight[1:])
    return student


def _stamped(pixels: Tensor, patch: Tensor, grid: Mapping[str, int]) -> Tensor:
    """Return a batch with the patch at a place of the grid drawn for each image."""
    found, side = pixels.clone(), patch.shape[-1]
    places = range(grid["offset"], pixels.shape[-1] - side + 1, grid["step"])
    for image in found:
        top, left = (places[int(torch.randint(len(places), ()))] for _ in range(2))
        image[:, top : top + side, left : left + side] = patch
    return found


def fit(tower: torch.nn.Module, loss: Callable[[], Tensor], steps: int, rate: float) -> None:
    """Train a tower to make the loss small."""
    optimizer = torch.optim.Adam(tower.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
