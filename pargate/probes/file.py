"""Facts about the weights file: its format, whether it holds a pickle, and which operators it uses."""

from pargate.probes.base import FILE, PROBES, Probe, Words


@PROBES.add("file")
class File(Probe):
    """Inspects the weights file without loading it."""

    name = "file"
    needs = frozenset({"file"})
    measures = FILE
    about = Words(
        "Inspects the weights file without loading it: its format, pickles, operators.",
        "A file can harm the machine that loads it, whatever the model predicts.",
        "List in `allow` what you accept. A file that could run code is refused under every policy.",
    )
