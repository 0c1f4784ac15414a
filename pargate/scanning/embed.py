"""Blocks of carriers as a model sees them, computed once and kept in the store of vectors."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pargate.core import zeroshot
from pargate.core.model import Checkpoint, Encoder, Vectors
from pargate.core.stamp import Stamp
from pargate.errors import InputError
from pargate.files import BlockStore
from pargate.images.classes import ClassList
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Block
from pargate.models.layouts import LAYOUTS
from pargate.triggers import TRIGGERS, Trigger, control
from pargate.version import __version__


@dataclass(slots=True)
class Eye:
    """An open model together with the store of what it has seen."""

    encoder: Encoder
    checkpoint: Checkpoint
    store: BlockStore
    passes: int = 0
    """Images that went through the image tower; what came from the store does not count."""

    def key(self, **parts: Any) -> dict[str, Any]:
        """All that determines some vectors, for the store."""
        # The version stands for the code: another release computes its own vectors.
        spec = asdict(self.encoder.spec)
        layouts = [plugin.key for plugin in LAYOUTS.plugins()]
        if layouts:
            parts["layouts"] = layouts
        return {"pargate": __version__, "model": self.checkpoint.digest, "spec": spec, **parts}

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of texts: float32 [m, d].

        Raises:
            InputError: one is not finite; no image would ever be near it, and every rule would hold.
        """
        key = self.key(texts=list(texts))
        found = self.store.load(key)
        if found is None:
            found = self.encoder.encode_texts(texts)
            self.store.save(key, found)
        broken = int((~np.isfinite(found).all(axis=1)).sum())
        if broken:
            raise InputError(
                f"{self.checkpoint.source}: its text tower gives {broken} of {len(found)} vectors that are not finite",
                "check the weights",
            )
        return found

    def head(self, classes: ClassList) -> Vectors:
        """Zero-shot head: float32 [classes, d]."""
        return zeroshot.head(self, classes.names, classes.templates)


@dataclass(frozen=True, slots=True)
class Eyes:
    """The models of a scan, open, with their zero-shot heads."""

    model: Eye
    head: Vectors
    """[classes, d]."""
    reference: Eye | None
    reference_head: Vectors | None
    activation_note: str
    """Why this activation, where it was not known."""
    precision_note: str
    """Why this precision, where it was to be found out."""


@dataclass(slots=True)
class BlockViews:
    """One block; implements `probes.base.Views`."""

    block: Block
    carriers: LabelledImages
    model: Eye
    reference: Eye | None
    seed: int
    _seen: dict[str, Vectors] = field(default_factory=dict)
    _put: dict[bool, Any] = field(default_factory=dict)
    _stamps: dict[str, Stamp] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[np.int64]:
        """int64 [n], −1 where unknown."""
        return self.carriers.labels[self.block.rows]

    @property
    def captions(self) -> list[str | None]:
        """Caption of each carrier, or None."""
        return [self.carriers.items[row].caption for row in self.block.rows]

    @property
    def digests(self) -> Sequence[str]:
        """Digest of each carrier's bytes."""
        return self.block.digests

    def clean(self, *, reference: bool = False) -> Vectors:
        """float32 [n, d]: the carriers as they are."""
        return self._vectors("clean", None, reference, lambda: None)

    def stamped(self, trigger: Trigger, *, reference: bool = False) -> Vectors:
        """float32 [n, d]: with the trigger."""
        return self._vectors(f"trigger {trigger.id}", trigger, reference, lambda: self._stamp(trigger))

    def control(self, trigger: Trigger) -> Vectors:
        """float32 [n, d]: with the trigger's control."""
        return self._vectors(
            f"control of {trigger.id}",
            trigger,
            False,
            lambda: control(trigger, self._stamp(trigger), self._size, self.digests, self.seed),
        )

    @property
    def _size(self) -> tuple[int, int]:
        _, height, width, _ = self.block.pixels.shape
        return height, width

    def _stamp(self, trigger: Trigger) -> Stamp:
        if trigger.id not in self._stamps:
            self._stamps = {trigger.id: trigger.draw(self._size, self.digests, self.seed)}
        return self._stamps[trigger.id]

    def _vectors(
        self, view: str, trigger: Trigger | None, reference: bool, stamp: Callable[[], Stamp | None]
    ) -> Vectors:
        name = f"{reference} {view}"
        if name in self._seen:
            return self._seen[name]
        eye = self.reference if reference else self.model
        if eye is None:
            raise RuntimeError("a probe asked for the reference, but there is none")
        plugin = TRIGGERS.plugin(trigger.kind) if trigger else None
        code = {"plugin": plugin.key} if plugin else {}
        key = eye.key(images=list(self.digests), view=view, seed=self.seed if trigger else None, **code)
        found = eye.store.load(key)
        if found is None:
            if reference not in self._put:
                self._put[reference] = eye.encoder.put(self.block.pixels)
            found = eye.encoder.encode_images(self._put[reference], stamp())
            eye.passes += len(found)
            eye.store.save(key, found)
        self._seen[name] = found
        return found
