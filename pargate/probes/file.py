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
        "List in `allow` what you accept; a file that could run code is refused under every policy. Name in "
        "`signed_by` the signer that you trust. If the signature does not hold, get the model from that signer again.",
    )
