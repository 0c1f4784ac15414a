"""The loss of one step, from the embeddings of its image-text pairs."""

import torch
from torch import Tensor

from pargate.clean import losses
from pargate.clean.config import CleanConfig
from pargate.clean.losses import Embedded
from pargate.clean.methods.base import METHODS

Terms = dict[str, Tensor]
"""Terms of the loss by name, for the log; `contrastive` is always among them."""


def needs_reference(config: CleanConfig) -> bool:
    """Return whether the loss needs the frozen model's embeddings of each pair."""
    return any((config.perturbation, config.distillation, config.anchor, config.unlearning))


def loss(config: CleanConfig, seen: Embedded) -> tuple[Tensor, Terms]:
    """Return the weighted sum of the terms of a configuration, a scalar, and the terms.

    PAR: L_CLIP − L_PERT (section 3). CleanCLIP: L_CLIP + L_uni (Bansal et al. 2023, section 4, λ₁ = λ₂ = 1). par-plus:
    the common shifts of universal perturbations and the mean shift of the other images, weighted; with real pairs also
    L_CLIP and distillation.
    """
    images, texts = seen.views[:, 0]
    contrastive = losses.clip(images, texts, seen.scale)
    total, terms = config.contrastive * contrastive, {"contrastive": contrastive}
    if config.perturbation:
        assert seen.reference is not None
        image_shift, text_shift = losses.shift(images, seen.reference[0]), losses.shift(texts, seen.reference[1])
        total = total - config.perturbation * losses.perturbation(image_shift, text_shift, config.tau or 0.0)
        terms |= {"image_shift": image_shift, "text_shift": text_shift}
    if config.distillation:
        assert seen.reference is not None and seen.captions is not None
        distillation = losses.distillation(images, seen.reference[0], seen.captions, seen.scale)
        total = total + config.distillation * distillation
        terms["distillation"] = distillation
    if config.anchor or config.unlearning:
        assert seen.reference is not None
        mixed = images.new_full((len(images),), -1, dtype=torch.int64) if seen.mixed is None else seen.mixed
        plain, frozen = mixed < 0, seen.reference[0]
        common = losses.common_shift(images, frozen, mixed)
        still = losses.shift(images[plain], frozen[plain]) if plain.any() else images.new_zeros(())
        total = total + config.unlearning * common + config.anchor * still
        terms |= {"common_shift": common, "plain_shift": still}
    for name, term in METHODS[config.method].terms(seen).items():
        total = total + term
        terms[name] = term
    return total, terms
