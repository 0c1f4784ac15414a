"""What each method minimises, from the embeddings of one step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from pargate.clean import losses
from pargate.clean.config import CleanConfig


@dataclass(frozen=True, slots=True)
class Embedded:
    """The pairs of one step, of all ranks, as the towers see them. Rows have unit length."""

    views: Tensor
    """[2, views, n, d]: pictures, then captions; what is in a view is the objective's to know."""
    reference: Tensor | None
    """[2, n, d]: what the frozen model says of the first view."""
    scale: Tensor
    """The logit scale, a scalar."""


Terms = dict[str, Tensor]
"""What is logged; `contrastive` is always there."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A method's loss, and what it needs to see."""

    views: int
    """How many views of each pair are embedded."""
    needs_reference: bool
    loss: Callable[[Embedded], tuple[Tensor, Terms]]


def objective(config: CleanConfig) -> Objective:
    """The objective of a configuration's method."""
    match config.method:
        case "par" | "par-plus":
            return Objective(1, True, lambda seen: par(seen, config.tau or 0.0))
        case "cleanclip":
            return Objective(2, False, cleanclip)
        case "finetune":
            return Objective(1, False, finetune)
        case _:
            assert_never(config.method)


def par(seen: Embedded, tau: float) -> tuple[Tensor, Terms]:
    """L_PAR = L_CLIP − L_PERT (PAR, section 3)."""
    assert seen.reference is not None
    (images,), (texts,) = seen.views
    contrastive = losses.clip(images, texts, seen.scale)
    image_shift, text_shift = losses.shift(images, seen.reference[0]), losses.shift(texts, seen.reference[1])
    loss = contrastive - losses.perturbation(image_shift, text_shift, tau)
    return loss, {"contrastive": contrastive, "image_shift": image_shift, "text_shift": text_shift}


def finetune(seen: Embedded) -> tuple[Tensor, Terms]:
    """L_CLIP alone."""
    (images,), (texts,) = seen.views
    contrastive = losses.clip(images, texts, seen.scale)
    return contrastive, {"contrastive": contrastive}


def cleanclip(seen: Embedded) -> tuple[Tensor, Terms]:
    """L_CLIP + L_uni (CleanCLIP, Bansal et al. 2023, section 4, λ₁ = λ₂ = 1)."""
    (images, other_images), (texts, other_texts) = seen.views
    contrastive = losses.clip(images, texts, seen.scale)
    uni = losses.self_supervision(images, other_images, texts, other_texts, seen.scale)
    return contrastive + uni, {"contrastive": contrastive, "self_supervision": uni}
