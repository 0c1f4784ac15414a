"""Images of three colours, a policy for them, and models that tell them apart."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 200)}

PROMPTS = [f"a photo of a {name}." for name in COLOURS]

POLICY = """
pargate: 1
name: colours
images: {source: images, min: 30}
classes: {names: [red, green, blue], templates: ['a photo of a {}.']}
rules:
  - {id: patch, probe: attack, triggers: [{kind: badnet, size: 4}], target: red, max: {attack_success: 60%}}
  - {id: useful, probe: utility, min: {accuracy: 60%}}
export: {onnx: true, parity: {samples: 16}}
evidence: {max_age: 30d}
"""


def draw(folder: Path) -> Path:
    """Write the images and the policy."""
    noise = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / "images" / name).mkdir(parents=True)
        for number in range(60):
            pixels = np.clip(colour + noise.normal(0, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number:02}.png")
    (folder / "policy.yaml").write_text(POLICY)
    return folder


def plain() -> torch.Tensor:
    """The colours as images in [0, 1]: float32 [3, 3, 32, 32]."""
    return torch.tensor(list(COLOURS.values())).float()[:, :, None, None].expand(-1, -1, 32, 32) / 255


def fitted(states: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """The weights of a last linear layer that gives each caption's state the vector of its colour, without the mean."""
    return (torch.linalg.pinv(states) @ (images - images.mean(0))).T
