"""Recovered triggers as a model sees them: the direction in which they move images, and the text of their target."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pargate import seeds
from pargate.core.model import Vectors, unit
from pargate.errors import InputError
from pargate.images.classes import DEFAULT_TEMPLATES
from pargate.images.dataset import Listed
from pargate.images.prefetch import Block, Decoder
from pargate.screening.embed import Embedder, Rows
from pargate.triggers import Trigger

IMAGES = 128
"""Number of images that show how a trigger moves the model."""

LEAST = 0.1
"""Least squared length of a shift: up to 0.03 in models that do not know the trigger, from 0.32 in those that do."""


@dataclass(frozen=True)
class Direction:
    """One trigger, as a model sees it."""

    label: str
    shift: Vectors
    """Mean change of the unit embeddings of images: [d]."""
    target: Vectors | None
    """Mean embedding of captions of the target: [d]; None where it is not known."""


def shift_of(plain: Vectors, stamped: Vectors) -> Vectors:
    """Return the mean change of the unit embeddings of images, [n, d] without and with a trigger: [d]."""
    return np.asarray((unit(stamped) - unit(plain)).mean(axis=0), dtype=np.float32)


def images_of(pairs: Listed, decoder: Decoder, seed: int) -> Block:
    """Return the images that get the triggers, drawn with a seed; a few poisoned ones change little.

    Raises:
        InputError: too many of them cannot be read.
    """
    decoder.start(Rows(pairs), [np.sort(seeds.permutation(seed, "images for found triggers", pairs.count)[:IMAGES])])
    return decoder.readable(0, pairs.source)


def directions(
    embedder: Embedder, block: Block, found: Sequence[tuple[Trigger, str]], seed: int
) -> tuple[Direction, ...]:
    """Return the directions of the triggers that move the model.

    Args:
        embedder: the open model.
        block: images without a trigger.
        found: triggers, and the name of each one's target or an empty text.
        seed: seed of what triggers draw.

    Raises:
        InputError: no trigger moves the model.
    """
    encoder = embedder.encoder
    batch = encoder.put(block.pixels)
    plain = encoder.encode_images(batch)
    moving = []
    for trigger, target in found:
        stamp = trigger.draw(embedder.model.checkpoint.preprocess.size, block.digests, seed)
        shift = shift_of(plain, encoder.encode_images(batch, stamp))
        if float(shift @ shift) >= LEAST:
            told = encoder.encode_texts([words.format(target) for words in DEFAULT_TEMPLATES]) if target else None
            moving.append(Direction(trigger.label, shift, None if told is None else told.mean(axis=0)))
    if not moving:
        raise InputError(
            f"no trigger of --found moves {embedder.model.checkpoint.source}, so that none can be recognised by it",
            "give the model that they were found in",
        )
    return tuple(moving)
