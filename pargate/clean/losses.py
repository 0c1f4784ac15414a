"""The losses of PAR and of its baselines, as functions of embeddings.

Embeddings are float [n, d] with rows of unit length, of all pairs of a step over all ranks, so that the gradient does
not depend on the number of ranks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Embedded:
    """The embeddings of one step's pairs over all ranks. Rows have unit length."""

    views: Tensor
    """[2, views, n, d]: images, then captions; the second view is CleanCLIP's."""
    reference: Tensor | None
    """[2, n, d]: the frozen model's embeddings of the first view, without universal perturbations."""
    captions: Tensor | None
    """[m, d]: the frozen model's embeddings of many captions."""
    mixed: Tensor | None
    """int64 [n]: number of the universal perturbation in the first view, −1 for none."""
    scale: Tensor
    """Logit scale, a scalar."""


def clip(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric contrastive loss, a scalar; row i of `images` belongs to row i of `texts`.

    L_CLIP = ½ (CE(image → text) + CE(text → image)) on scale · ⟨image, text⟩ (Radford et al. 2021).
    """
    logits = scale * images @ texts.T
    return (_own_row(logits) + _own_row(logits.T)) / 2


def _own_row(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def shift(embeddings: Tensor, reference: Tensor) -> Tensor:
    """Return S, the mean squared distance from the frozen model's embeddings, a scalar in [0, 4] (PAR, section 3).

    For unit rows it is 2 − 2 · mean cosine.
    """
    return (embeddings - reference).square().sum(dim=1).mean()


def perturbation(image_shift: Tensor, text_shift: Tensor, tau: float) -> Tensor:
    """Return L_PERT = ½ (1[S_φ ≤ τ] S_φ + 1[S_ψ ≤ τ] S_ψ), a scalar (PAR, section 3).

    Above τ a term is the constant 0, without a gradient; exactly at τ it counts, as in PAR's code.
    """
    zero = image_shift.new_zeros(())
    return (torch.where(image_shift > tau, zero, image_shift) + torch.where(text_shift > tau, zero, text_shift)) / 2


def common_shift(images: Tensor, reference: Tensor, mixed: Tensor) -> Tensor:
    """Return the mean squared common shift of the universal perturbations, a scalar in [0, 4].

    The common shift of a perturbation is the mean of `images` − `reference` over its rows. A backdoor shifts all images
    to one place; the shifts of a mere disturbance cancel out.

    Args:
        images: embeddings of images, some with a perturbation.
        reference: embeddings of the same images without perturbations.
        mixed: int64 [n], number of each row's perturbation, −1 for none; numbers with one row do not count.
    """
    rows = mixed >= 0
    counts = torch.bincount(mixed[rows])
    sums = images.new_zeros(len(counts), images.shape[1]).index_add(0, mixed[rows], (images - reference)[rows])
    several = counts > 1
    means = sums[several] / counts[several, None]
    return means.square().sum() / max(1, len(means))


def distillation(images: Tensor, trusted: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """Return the mean over images of KL(softmax(s · trusted · captionsᵀ) ‖ softmax(s · images · captionsᵀ)), a scalar.

    Distillation is by Hinton et al. (2015).

    Args:
        images: embeddings of images.
        trusted: the frozen model's embeddings of the same images without a perturbation.
        captions: the frozen model's embeddings of many captions, [m, d].
        scale: the logit scale s.
    """
    wanted = functional.log_softmax(scale * trusted @ captions.T, dim=1)
    found = functional.log_softmax(scale * images @ captions.T, dim=1)
    return functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def self_supervision(images: Tensor, other_images: Tensor, texts: Tensor, other_texts: Tensor, scale: Tensor) -> Tensor:
    """Return CleanCLIP's second term, a scalar: the contrastive loss between the two views, in one direction each."""
    return (_own_row(scale * images @ other_images.T) + _own_row(scale * texts @ other_texts.T)) / 2
