"""Embeddings of the frozen copy of the model, cached."""

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
"""Number of captions per batch."""

KEPT = 1 << 20
"""Largest number of cached vectors: 2 GB at 512 dimensions."""


class Reference:
    """The model before the cleaning. Captions are embedded once each, images once for each repeated augmentation."""

    def __init__(self, towers: Towers, viewer: Viewer, low: torch.autocast) -> None:
        """Use frozen `towers`, in the precision of `low`."""
        self._towers, self._viewer, self._low = towers, viewer, low
        self._captions: dict[str, Tensor] = {}
        self._pictures: dict[int, Tensor] = {}

    def state(self) -> dict[str, Any]:
        """Return the cached vectors as tensors, numbers and strings.

        A resumed run needs the same rows: the last bits of a caption's vector depend on its batch.
        """
        return {name: (list(kept), torch.stack(list(kept.values()))) for name, kept in self._kept() if kept}

    def load(self, state: dict[str, Any]) -> None:
        """Restore the cached vectors from `state`."""
        device = self._viewer.device
        for name, kept in self._kept():
            if name in state:
                names, rows = state[name]
                kept.update(zip(names, rows.to(device), strict=True))

    def _kept(self) -> tuple[tuple[str, dict[Any, Tensor]], ...]:
        return ("captions", self._captions), ("pictures", self._pictures)

    def embed(self, pixels: Tensor, batch: PairBatch, part: slice, keys: Keys) -> Tensor:
        """Return unit vectors of the augmented `pixels` of a part of a batch, then of its captions: [2, n, d]."""
        with torch.inference_mode(), self._low:
            images = self._images(pixels, batch, part, keys)
        # A copy outside of inference mode, so that a loss can use it.
        return torch.stack([images.clone(), self.captions(batch.captions[part])])

    def captions(self, captions: Sequence[str]) -> Tensor:
        """Return the unit vectors of captions, each embedded once: [n, d]."""
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
        # A key identifies an image and its augmentation, a number an image without augmentation.
        named = batch.numbers if self._viewer.config.augmentation == "none" else keys
        names = [int(name) for name in named[part]]
        rows = {name: row for row, name in enumerate(names)}
        return recalled(
            self._pictures, names, lambda some: self._towers.embed_images(images[[rows[name] for name in some]]), KEPT
        )
