"""Facts about the weights file: its format, pickles, operators, and the signature of the model."""

from pargate.probes.base import FILE, PROBES, Probe, Words


@PROBES.add("file")
class File(Probe):
    """Inspects the weights file without loading it."""

    name = "file"
    needs = frozenset({"file"})
    measures = FILE
    about = Words(
        "Inspects the weights file without loading it: its format, pickles, operators, and the signature of the model.",
        "A file can harm the machine that loads it, whatever the model predicts. A signature shows who made the model.",
        "If the format is not allowed, save the weights as safetensors, from a source that you trust. If the signature "
        "does not hold, get the model from its signer again, and do not load this one.",
    )
