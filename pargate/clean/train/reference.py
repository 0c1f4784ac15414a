"""The frozen twin of the model that is cleaned: what it says of pictures and captions, computed as seldom as can be."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pargate.clean.train import augment
from pargate.clean.train.towers import Towers
from pargate.clean.train.views import Viewer, recalled
from pargate.images.prefetch import PairBatch
from pargate.seeds import Keys

AT_A_TIME = 256
"""Captions that are embedded together."""

KEPT = 1 << 20
"""Vectors that are kept: 2 GB at 512 dimensions."""


class Reference:
    """The model as it was. Captions are embedded once each; pictures once for each augmentation that comes again."""

    def __init__(self, towers: Towers, viewer: Viewer, low: torch.autocast) -> None:
        """`towers` are never trained; `low` is the arithmetic that may be used for them."""
        self._towers, self._viewer, self._low = towers, viewer, low
        self._captions: dict[str, Tensor] = {}
        self._pictures: dict[int, Tensor] = {}

    def state(self) -> dict[str, Any]:
        """What is kept, as tensors, numbers and words.

        A run that goes on needs the very rows: the same caption in other company gives others in their last bits.
        """
        return {name: (list(kept), torch.stack(list(kept.values()))) for name, kept in self._kept() if kept}

    def load(self, state: dict[str, Any]) -> None:
        """Keep what `state` has."""
        device = self._viewer.device
        for name, kept in self._kept():
            if name in state:
                names, rows = state[name]
                kept.update(zip(names, rows.to(device), strict=True))

    def _kept(self) -> tuple[tuple[str, dict[Any, Tensor]], ...]:
        return ("captions", self._captions), ("pictures", self._pictures)

    def embed(self, pixels: Tensor, batch: PairBatch, part: slice, keys: Keys) -> Tensor:
        """[2, n, d], unit rows: `pixels`, a part of a batch as the viewer augmented it, then its captions."""
        with torch.inference_mode(), self._low:
            pictures = self._images(pixels, batch, part, keys)
        # Out of inference mode, so that a loss may be taken of it.
        return torch.stack([pictures.clone(), self.captions(batch.captions[part])])

    def captions(self, captions: Sequence[str]) -> Tensor:
        """[n, d], unit rows, each caption embedded once."""
        with torch.inference_mode(), self._low:
            found = recalled(self._captions, captions, self._read, KEPT)
        return found.clone()

    def _read(self, captions: Sequence[str]) -> Tensor:
        parts = [captions[i : i + AT_A_TIME] for i in range(0, len(captions), AT_A_TIME)]
        return torch.cat([self._towers.embed_texts(self._viewer.tokens(some)) for some in parts])

    def _images(self, pixels: Tensor, batch: PairBatch, part: slice, keys: Keys) -> Tensor:
        images = augment.normalised(pixels, self._viewer.rule)
        if not self._viewer.repeats:
            return self._towers.embed_images(images)
        # A key names a picture and its augmentation, a number a picture that has none.
        named = batch.numbers if self._viewer.config.augmentation == "none" else keys
        names = [int(name) for name in named[part]]
        rows = {name: row for row, name in enumerate(names)}
        return recalled(
            self._pictures, names, lambda some: self._towers.embed_images(images[[rows[name] for name in some]]), KEPT
        )
