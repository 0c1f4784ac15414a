"""The second views of CleanCLIP: images under AutoAugment, captions under EDA.

Two things differ from CleanCLIP's code. The two operations of EDA that need a dictionary of synonyms, which would have
to be downloaded, use words of the caption itself. And random draws follow from keys, so that a run can be repeated.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from pargate.seeds import Keys, image_keys, integers, uniform

SHARE = 0.1
"""Share of a caption's words that each operation of EDA changes, at least one (CleanCLIP's code)."""


def auto_augmented(pixels: NDArray[np.uint8], keys: Keys) -> NDArray[np.uint8]:
    """Return uint8 [n, H, W, 3], each image under a policy of AutoAugment for ImageNet (Cubuk et al. 2019)."""
    policy = AutoAugment(AutoAugmentPolicy.IMAGENET)
    given = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    with torch.random.fork_rng(devices=[]):  # the policy draws from the process's random stream
        rows = []
        for image, key in zip(given, keys, strict=True):
            # torch.manual_seed would also keep a stack trace of every call.
            torch.default_generator.manual_seed(int(key) >> 1)
            rows.append(policy(image))
    return np.ascontiguousarray(torch.stack(rows).permute(0, 2, 3, 1).numpy())


def reworded(captions: Sequence[str], seed: int) -> list[str]:
    """Return captions under one of EDA's operations each (Wei and Zou 2019), drawn once as in CleanCLIP."""
    digests = [hashlib.sha256(caption.encode()).hexdigest() for caption in captions]
    keys = image_keys(seed, "words", digests)
    operations = integers(keys, 1, 4)[:, 0]
    return [
        _changed(caption, int(operation), key)
        for caption, operation, key in zip(captions, operations, keys, strict=True)
    ]


def _changed(caption: str, operation: int, key: np.uint64) -> str:
    words = caption.split()
    if len(words) < 2:
        return caption
    times = max(1, round(SHARE * len(words)))
    row = np.array([key])
    if operation == 3:  # deletion, word by word
        kept = [word for word, u in zip(words, uniform(row, len(words), 1)[0], strict=True) if u >= SHARE]
        return " ".join(kept or words[:1])
    for a, b in integers(row, 2 * times, len(words), 1)[0].reshape(times, 2):
        match operation:
            case 0:
                words[a] = words[b]
            case 1:
                words.insert(a, words[b])
            case 2:
                words[a], words[b] = words[b], words[a]
    return " ".join(words)
