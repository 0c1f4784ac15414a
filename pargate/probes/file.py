"""The weights file itself: its format, whether it holds a pickle, and which operators it names."""

from pargate.probes.base import FILE, PROBES, Probe, Words


@PROBES.add("file")
class File(Probe):
    """Looks at the weights file without loading it."""

    name = "file"
    needs = frozenset({"file"})
    measures = FILE
    about = Words(
        "Looks at the weights file without loading it: its format, pickles, operators.",
        "What a file can do to the machine is a question apart from what the model answers.",
        "Say in `allow` what you accept. What could really run code is refused whatever the policy says.",
    )
