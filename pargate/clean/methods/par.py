"""PAR, Perturb and Recover (Singh, Croce and Hein, arXiv 2412.00727)."""

from pargate.clean.methods.base import METHODS, PROCESSOR_BATCH, PUBLISHED, Method

PUBLISHED_TAU = 2.15
"""τ of PAR, tuned on one attack and then fixed (section 4 of the paper)."""


@METHODS.add("par")
class Par(Method):
    """A loss that pushes embeddings away from the frozen model's, while the contrastive loss keeps the accuracy."""

    name = "par"
    published = {**PUBLISHED, "perturbation": 1.0, "tau": PUBLISHED_TAU}  # noqa: RUF012 - a mapping that is read
    own = frozenset({"tau"})
    processor_batch = PROCESSOR_BATCH
