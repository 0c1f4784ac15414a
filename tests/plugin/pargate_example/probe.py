"""A probe: on how many clean images the best class is clearly ahead of the second."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pargate.core.model import Vectors
from pargate.core.results import Count, Measurement
from pargate.probes.base import Asked, Probe, Scene, Test, Views, Words

AHEAD = 0.01
"""Cosine by which the best class must be ahead."""


@dataclass
class MarginTest(Test):
    """Counts clear predictions."""

    asked: Asked
    head: Vectors
    clear: int = 0
    seen: int = 0

    def observe(self, number: int, selection: bool, views: Views) -> None:
        """Take in one block."""
        ranked = np.sort(views.clean() @ self.head.T, axis=1)
        self.clear += int((ranked[:, -1] - ranked[:, -2] >= AHEAD).sum())
        self.seen += len(ranked)

    def measurement(self) -> Measurement:
        """Return the count so far."""
        count = Count(n=self.seen, successes=self.clear)
        return Measurement(id=self.asked.id, rule=self.asked.rule, probe="margin", counts={"margin": count})


class Margin(Probe):
    """Counts the clean images on which the best class is clearly ahead of the second."""

    name = "margin"
    minima: ClassVar[Mapping[str, Words]] = {
        "margin": Words(
            "The share of images whose best class is ahead of the second by 0.01 cosine.",
            "What is decided by less changes with rounding.",
            "Leave out classes that mean nearly the same.",
        )
    }
    about = Words(
        "Counts the clean images on which the best class is clearly ahead of the second.",
        "A model that is never sure is useless for this list of classes.",
        "Give classes that the images can be told apart by.",
    )

    @classmethod
    def start(cls, asked: Asked, scene: Scene) -> MarginTest:
        """Return a test over the classes of the zero-shot head."""
        return MarginTest(asked, scene.head())
