"""Plain fine-tuning with the contrastive loss, the baseline of PAR's paper."""

from pargate.clean.methods.base import METHODS, PROCESSOR_BATCH, PUBLISHED, Method


@METHODS.add("finetune")
class FineTune(Method):
    """The contrastive loss alone."""

    name = "finetune"
    published = PUBLISHED
    processor_batch = PROCESSOR_BATCH
