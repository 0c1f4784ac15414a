"""The losses of PAR and of its baselines, as functions of embeddings.

Embeddings are float [n, d] with rows of unit length, of all pairs of a step, whichever device they came from: with
every rank looking at all rows, the gradient of two ranks is that of one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Embedded:
    """The pairs of one step, of all ranks, as the towers see them. Rows have unit length."""

    views: Tensor
    """[2, views, n, d]: pictures, then captions; the second view is CleanCLIP's."""
    reference: Tensor | None
    """[2, n, d]: what the frozen model says of the first view, without universal perturbations."""
    captions: Tensor | None
    """[m, d]: what it says of many captions."""
    mixed: Tensor | None
    """int64 [n]: which universal picture was mixed into the first view; −1 where none was."""
    scale: Tensor
    """The logit scale, a scalar."""


def clip(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Symmetric contrastive loss, a scalar: row i of `images` belongs to row i of `texts` and to no other.

    L_CLIP = ½ (CE(image → text) + CE(text → image)) on scale · ⟨image, text⟩ (Radford et al. 2021).
    """
    logits = scale * images @ texts.T
    return (_own_row(logits) + _own_row(logits.T)) / 2


def _own_row(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def shift(embeddings: Tensor, reference: Tensor) -> Tensor:
    """S: mean squared distance from the frozen model's embeddings, a scalar in [0, 4] (PAR, section 3).

    Squared over the dimensions' sum, so for unit rows it is 2 − 2 · mean cosine.
    """
    return (embeddings - reference).square().sum(dim=1).mean()


def perturbation(image_shift: Tensor, text_shift: Tensor, tau: float) -> Tensor:
    """L_PERT = ½ (1[S_φ ≤ τ] S_φ + 1[S_ψ ≤ τ] S_ψ), a scalar (PAR, section 3).

    Beyond τ a term is the constant 0, without a gradient; exactly at τ it counts, as in PAR's code.
    """
    zero = image_shift.new_zeros(())
    return (torch.where(image_shift > tau, zero, image_shift) + torch.where(text_shift > tau, zero, text_shift)) / 2


def common_shift(images: Tensor, reference: Tensor, mixed: Tensor) -> Tensor:
    """How far each universal picture carries all that it is mixed into the same way; a scalar in [0, 4].

    Squared length of the mean of `images` − `reference` over the rows with the same number in `mixed`, the mean over
    the numbers that more than one row has. `reference` is of the same pictures without anything mixed in; `mixed` is
    int64 [n], −1 where nothing is. A backdoor carries everything to one place; what merely disturbs carries each
    picture elsewhere, and cancels out.
    """
    rows = mixed >= 0
    counts = torch.bincount(mixed[rows])
    sums = images.new_zeros(len(counts), images.shape[1]).index_add(0, mixed[rows], (images - reference)[rows])
    several = counts > 1
    means = sums[several] / counts[several, None]
    return means.square().sum() / max(1, len(means))


def distillation(images: Tensor, trusted: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """How far pictures, as they are told apart by captions, are from what the frozen model says; a scalar, ≥ 0.

    KL(softmax(s · trusted · captionsᵀ) ‖ softmax(s · images · captionsᵀ)), the mean over pictures (Hinton et al. 2015).
    `trusted`: the frozen model's rows of the same pictures without a perturbation, where a backdoor sleeps;
    `captions`: its rows of many captions, [m, d].
    """
    wanted = functional.log_softmax(scale * trusted @ captions.T, dim=1)
    found = functional.log_softmax(scale * images @ captions.T, dim=1)
    return functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def self_supervision(images: Tensor, other_images: Tensor, texts: Tensor, other_texts: Tensor, scale: Tensor) -> Tensor:
    """CleanCLIP's second term, a scalar: each picture and caption finds its own other view, one direction each."""
    return (_own_row(scale * images @ other_images.T) + _own_row(scale * texts @ other_texts.T)) / 2
