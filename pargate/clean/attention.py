"""Attention for training on processors: plain matrix products.

torch's fused attention is slow in its backward pass on a CPU where sequences are short (17 tokens of a picture, a
dozen of a caption): a step of a small ViT took a fifth to a half longer with it. On a GPU the fused form stays.
"""

from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


def use_plain(towers: nn.Module) -> None:
    """Let every self-attention in `towers` multiply plain matrices; weights and results stay what they are."""
    for module in towers.modules():
        # Keys or values of another width, or an added bias, mean cross-attention: none of the towers' blocks.
        if isinstance(module, nn.MultiheadAttention) and module._qkv_same_embed_dim and module.bias_k is None:
            module.__dict__["forward"] = MethodType(_attend, module)  # of this instance alone


def _attend(
    self: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    need_weights: bool = False,
    attn_mask: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """`forward` of self-attention: [n, length, d], or [length, n, d], in and out; `attn_mask` is added."""
    if key is not query or value is not query or need_weights or any(unused.values()):
        raise ValueError("only plain self-attention is meant to come here")
    rows = query if self.batch_first else query.transpose(0, 1)
    n, length, width = rows.shape
    heads, size = self.num_heads, width // self.num_heads
    mixed = functional.linear(rows, self.in_proj_weight, self.in_proj_bias)
    q, k, v = mixed.view(n, length, 3, heads, size).permute(2, 0, 3, 1, 4)  # each [n, heads, length, size]
    scores = (q * size**-0.5) @ k.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores + attn_mask
    seen = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, length, width)
    given = self.out_proj(seen)
    return (given if self.batch_first else given.transpose(0, 1)), None
