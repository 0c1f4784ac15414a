"""CleanCLIP (Bansal et al. 2023), the baseline of PAR's paper; settings from its code and README."""

from typing import TYPE_CHECKING

from pargate.clean.methods.base import METHODS, Method

if TYPE_CHECKING:
    from torch import Tensor

    from pargate.clean.losses import Embedded


@METHODS.add("cleanclip")
class CleanClip(Method):
    """The contrastive loss, and a contrastive loss between two views of each pair (section 4, λ₁ = λ₂ = 1)."""

    name = "cleanclip"
    published = {  # noqa: RUF012 - a mapping that is read
        "lr": 1e-5, "batch_size": 64, "steps": 15_620, "schedule": "cosine", "warmup_steps": 50,
        "betas": (0.9, 0.999), "weight_decay": 0.1, "augmentation": "none", "train_logit_scale": True,
    }  # fmt: skip
    views = 2

    @classmethod
    def terms(cls, seen: "Embedded") -> "dict[str, Tensor]":
        """Return the self-supervision term."""
        from pargate.clean.losses import self_supervision

        (images, texts), (other_images, other_texts) = seen.views[:, 0], seen.views[:, 1]
        return {"self_supervision": self_supervision(images, other_images, texts, other_texts, seen.scale)}
