"""Embed one caption with many endings.

A causal text tower that pools at the end token computes the beginning of a caption without looking at what follows. So
one sequence holds the beginning once and many endings behind it: an attention mask hides the endings from each other,
and each has the positions that it would have alone.
"""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pargate import memory
from pargate.core.model import Vectors
from pargate.models.torch import build as towers
from pargate.models.torch.encoder import CAPTIONS, OpenClipEncoder, embed, pools_at_the_end

PACKED = 64
"""Tokens of the endings in one sequence, at most."""


def packs(encoder: OpenClipEncoder) -> bool:
    """Return whether many endings fit into one sequence: the tower is causal and pools at the end token."""
    return pools_at_the_end(encoder.text) and encoder.text.get_parameter("positional_embedding").ndim == 2


def embed_endings(encoder: OpenClipEncoder, beginning: list[int], endings: NDArray[np.int64]) -> Vectors:
    """Return the unit vectors of the token ids of `beginning` with each ending: float32 [n, d].

    Args:
        encoder: a model whose tower `packs`.
        beginning: token ids from the start token on, at least one.
        endings: int64 [n, k], token ids up to the end token; at most the context with the beginning.

    Raises:
        OperationalError: memory ran out.
    """
    count, length = endings.shape
    each = max(1, PACKED // length)
    rows = -(-count // each)
    filled = np.concatenate([endings, np.repeat(endings[-1:], rows * each - count, axis=0)]) if count else endings
    begun = np.tile(np.asarray(beginning, dtype=np.int64), (rows, 1))
    ids = torch.from_numpy(np.concatenate([begun, filled.reshape(rows, each * length)], axis=1))
    # A shallow copy shares the weights. With this name of the pooling it returns the vectors of all tokens.
    tower = copy.copy(encoder.text)
    setattr(tower, "text_pool_type" if hasattr(tower, "visual") else "pool_type", "none")
    places = tower.get_parameter("positional_embedding")
    lent = {
        "positional_embedding": places[_positions(len(beginning), length, each)],
        "attn_mask": _mask(len(beginning), length, each).to(places),
    }
    ends = len(beginning) + length * torch.arange(1, each + 1) - 1
    found = []
    doing, advice = f"encoding {count} endings of a caption", "use a device with more memory"
    with memory.guard(doing, advice), torch.inference_mode(), towers.exact_arithmetic():
        for part in torch.split(ids, CAPTIONS[encoder.device.type]):
            vectors = embed(tower, part.to(encoder.device), lent)[:, ends]
            found.append(functional.normalize(vectors.flatten(0, 1).float(), dim=-1).cpu().numpy())
    return np.concatenate(found)[:count] if found else np.empty((0, encoder.spec.dim), dtype=np.float32)


def _positions(begun: int, length: int, each: int) -> Tensor:
    """Return the position of each token: that of the beginning, and for each ending those behind it."""
    return torch.cat([torch.arange(begun), (begun + torch.arange(length)).repeat(each)])


def _mask(begun: int, length: int, each: int) -> Tensor:
    """Return the mask that is added to attention: 0 for the beginning and the own ending up to the token, else −inf."""
    ending = torch.cat([torch.full((begun,), -1), torch.arange(each).repeat_interleave(length)])
    seen = (ending[None] == -1) | (ending[None] == ending[:, None])
    return torch.where(seen.tril(), 0.0, -torch.inf)
