"""Suspicious pairs of a training set, which `pargate screen` counts; no scan of a model measures them."""

from collections.abc import Mapping
from typing import ClassVar

from pargate.core.results import Metric
from pargate.probes.base import PROBES, Probe, Words


@PROBES.add("screen")
class Screen(Probe):
    """Counts suspicious pairs of a training set."""

    name = "screen"
    maxima: ClassVar[Mapping[str, Words]] = {
        str(Metric.SUSPECTS): Words(
            "The share of a set's pairs that are suspicious or whose image cannot be read.",
            "A few poisoned pairs in ten thousand can plant a backdoor.",
            "Look at the contact sheet, mark the pairs, and go on with what is left.",
        ),
    }
    needs = frozenset({"pairs"})
    measures = "pairs"
    about = Words(
        "Counts the suspicious pairs of a training set, at a stated rate of false positives.",
        "A poisoned set plants a backdoor in every model that is trained on it.",
        "Run `pargate screen PAIRS --model MODEL --policy POLICY`. A scan of a model refuses such a policy.",
    )
