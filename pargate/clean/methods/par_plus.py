"""par-plus: universal perturbations search for a backdoor, and the model unlearns what they find (docs/cleaning.md)."""

from pargate.clean.methods.base import METHODS, PUBLISHED, SMALL_BATCH, Method, Settings, Sizes

RATE = 0.8
"""Share of PAR's learning rate."""


@METHODS.add("par-plus")
class ParPlus(Method):
    """A loss that removes the common shifts of universal perturbations; anchor and distillation keep the accuracy."""

    name = "par-plus"
    published = {  # noqa: RUF012 - a mapping that is read
        **PUBLISHED, "schedule": "cosine", "warmup_steps": 10, "distillation": 1.0, "unlearning": 1.5,
        "anchor": 2.0, "universal": 12, "averaging": 0.97,
    }  # fmt: skip
    other = "par"

    @classmethod
    def sized(cls, sizes: Sizes, usual: Settings) -> Settings:
        """Return the settings for these sizes; drawn pairs need other terms (docs/evidence.md)."""
        rate, _ = usual["lr"]
        found = {**usual, "lr": (rate * RATE, f"{RATE:g} of PAR's: it never has to carry embeddings as far")}
        if sizes.drawn:
            batch, _ = usual["batch_size"]
            found |= {
                "contrastive": (0.0, "drawn pairs say too little about photographs to tell them apart by"),
                "distillation": (0.0, "drawn captions tell photographs apart as little"),
                "unlearning": (4.0, "on drawn images, only the common shift shows a backdoor"),
                "batch_size": (min(batch, SMALL_BATCH), "with more drawn pairs in a step a model lost more accuracy"),
                "universal": (8, "each must be in several images of a step to show its common shift"),
                "towers": ("image", "without the contrastive loss nothing moves the other"),
                "augmentation": ("strong", "drawn images are more alike than photographs"),
            }
        return found
