"""Attention for training on processors: plain matrix products.

torch's fused attention is slow in its backward pass on a CPU where sequences are short (17 tokens of a picture, a
dozen of a caption): a step of a small ViT took a fifth to a half longer with it. On a GPU the fused form stays.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def use_plain(towers: nn.Module) -> None:
    """Let every attention in `towers` multiply plain matrices; weights and results stay what they are."""
    for module in towers.modules():
        if (
            isinstance(module, nn.MultiheadAttention) and module._qkv_same_embed_dim and module.bias_k is None
            and "in_proj_bias" in dict(module.named_parameters(recurse=False))
        ):  # fmt: skip
            module.__dict__["forward"] = MethodType(_attend, module)  # of this instance alone


def _attend(
    self: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """`forward` of attention: [n, length, d], or [length, n, d], in and out.

    Whatever else is asked for, such as weights, or keys that are not the values, is torch's to answer.
    """
    asked = {name for name, option in options.items() if option is not None and option is not False}
    if need_weights or asked or value is not key or query.ndim != 3 or self.dropout:
        options |= {"need_weights": need_weights, "attn_mask": attn_mask}
        given: tuple[Tensor, Tensor | None] = nn.MultiheadAttention.forward(self, query, key, value, **options)
        return given
    rows, others = (x if self.batch_first else x.transpose(0, 1) for x in (query, key))
    n, length, width = rows.shape

    def heads(x: Tensor, part: slice) -> Tensor:
        """[1 to 3, n, heads, length, size] of a part of the three projections."""
        mixed = functional.linear(x, self.in_proj_weight[part], self.in_proj_bias[part])
        return mixed.view(n, x.shape[1], -1, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)

    if query is key:
        q, k, v = heads(rows, slice(None))
    else:
        (q,), (k, v) = heads(rows, slice(width)), heads(others, slice(width, None))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores + _added(attn_mask, scores)
    seen = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, length, width)
    made = self.out_proj(seen)
    return (made if self.batch_first else made.transpose(0, 1)), None


def _added(mask: Tensor, scores: Tensor) -> Tensor:
    """A mask as numbers to add: torch also takes one of what to leave out, and one for each text and head."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(mask, -torch.inf)
    return mask.view_as(scores) if mask.ndim == 3 else mask
