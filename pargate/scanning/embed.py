"""Embeddings of blocks of images, computed once and cached on disk."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from pargate.core import zeroshot
from pargate.core.model import Checkpoint, Encoder, EncoderSpec, Precision, Vectors
from pargate.core.stamp import Stamp
from pargate.errors import InputError, OpenedOtherwise
from pargate.files import BlockStore
from pargate.images.classes import ClassList
from pargate.images.labelled import LabelledImages
from pargate.images.prefetch import Block
from pargate.models.layouts import LAYOUTS
from pargate.triggers import TRIGGERS, Trigger, control
from pargate.version import __version__

if TYPE_CHECKING:
    from pargate.models.torch.encoder import OpenClipEncoder


@dataclass(frozen=True, slots=True)
class Later:
    """A model that an earlier run opened, and that is opened again only when a vector is missing."""

    spec: EncoderSpec
    """The encoder of the earlier run."""
    key: list[Any]
    """The key of the cache under which the spec is kept."""
    load: "Callable[[], OpenClipEncoder]"
    """Opens the model in fp32."""

    def into_precision(self, precision: Precision) -> "Later":
        """Return the model in another precision."""
        return replace(self, spec=replace(self.spec, precision=precision))


@dataclass(slots=True)
class CachedEncoder:
    """An open model together with the cache of its vectors."""

    given: Encoder | Later
    checkpoint: Checkpoint
    store: BlockStore
    passes: int = 0
    """Images that went through the image tower; vectors from the cache do not count."""

    @property
    def spec(self) -> EncoderSpec:
        """Everything about the encoder that can change a vector."""
        return self.given.spec

    @property
    def encoder(self) -> Encoder:
        """The open model, which may have to be opened first.

        Raises:
            OpenedOtherwise: this machine opens it in another way than an earlier run did; this is forgotten then.
        """
        if isinstance(self.given, Later):
            encoder: Encoder = self.given.load().into_precision(cast(Precision, self.given.spec.precision))
            if encoder.spec != self.given.spec:
                self.store.forget(self.given.key)
                raise OpenedOtherwise(
                    f"{self.checkpoint.source} was opened on {self.given.spec.device} with {self.given.spec.backend} "
                    f"when the cache was written, and now on {encoder.spec.device} with {encoder.spec.backend}",
                    "run the command again",
                )
            self.given = encoder
        return self.given

    def into_precision(self, precision: Precision) -> None:
        """Convert the image tower of a checkpoint of torch, now or when it is opened."""
        given = cast("OpenClipEncoder | Later", self.given)  # graphs keep theirs
        self.given = given.into_precision(precision)

    def key(self, **parts: Any) -> dict[str, Any]:
        """Return the cache key of some vectors: everything that determines them."""
        # The version stands for the code: another release computes its own vectors.
        spec = asdict(self.spec)
        layouts = [plugin.key for plugin in LAYOUTS.plugins()]
        if layouts:
            parts["layouts"] = layouts
        return {"pargate": __version__, "model": self.checkpoint.digest, "spec": spec, **parts}

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return the unit vectors of texts: float32 [m, d].

        Raises:
            InputError: a vector is not finite. No image would ever be near it, so every rule would hold.
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
        """Return the zero-shot head: float32 [classes, d]."""
        return zeroshot.head(self, classes.names, classes.templates)


@dataclass(frozen=True, slots=True)
class ModelPair:
    """The open models of a scan, with their zero-shot heads."""

    model: CachedEncoder
    head: Vectors
    """[classes, d]."""
    reference: CachedEncoder | None
    reference_head: Vectors | None
    activation_note: str
    """Reason for the activation, where the checkpoint does not name it."""
    precision_note: str
    """Reason for the precision, where the user did not name it."""
    tuned: bool = False
    """Whether the reference is a fine-tuned copy of the model, and not trusted."""


@dataclass(slots=True)
class BlockViews:
    """One block; implements `probes.base.Views`."""

    block: Block
    images: LabelledImages
    model: CachedEncoder
    reference: CachedEncoder | None
    seed: int
    _seen: dict[str, Vectors] = field(default_factory=dict)
    _put: dict[bool, Any] = field(default_factory=dict)
    _stamps: dict[str, Stamp] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels: int64 [n], −1 where unknown."""
        return self.images.labels[self.block.rows]

    @property
    def captions(self) -> list[str | None]:
        """The caption of each image, or None."""
        return [self.images.items[row].caption for row in self.block.rows]

    @property
    def digests(self) -> Sequence[str]:
        """The digest of each image's bytes."""
        return self.block.digests

    def clean(self, *, reference: bool = False) -> Vectors:
        """Return the vectors of the images without a trigger: float32 [n, d]."""
        return self._vectors("clean", None, reference, lambda: None)

    def stamped(self, trigger: Trigger, *, reference: bool = False) -> Vectors:
        """Return the vectors of the images with the trigger: float32 [n, d]."""
        return self._vectors(f"trigger {trigger.id}", trigger, reference, lambda: self._stamp(trigger))

    def control(self, trigger: Trigger) -> Vectors:
        """Return the vectors of the images with the trigger's control: float32 [n, d]."""
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
        cached = self.reference if reference else self.model
        if cached is None:
            raise RuntimeError("a probe asked for the reference, but there is none")
        plugin = TRIGGERS.plugin(trigger.kind) if trigger else None
        code = {"plugin": plugin.key} if plugin else {}
        key = cached.key(images=list(self.digests), view=view, seed=self.seed if trigger else None, **code)
        found = cached.store.load(key)
        if found is None:
            if reference not in self._put:
                self._put[reference] = cached.encoder.put(self.block.pixels)
            found = cached.encoder.encode_images(self._put[reference], stamp())
            cached.passes += len(found)
            cached.store.save(key, found)
        self._seen[name] = found
        return found
