"""Attention by plain matrix products, for training on CPUs.

On a CPU, the backward pass of torch's fused attention is slow for short sequences (17 tokens of an image, a dozen of a
caption): a step of a small ViT took a fifth to a half longer. On a GPU, the fused form is used.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def use_plain(towers: nn.Module) -> None:
    """Replace every attention in `towers` by plain matrix products, with the same weights and results."""
    for module in towers.modules():
        if (
            isinstance(module, nn.MultiheadAttention) and module._qkv_same_embed_dim and module.bias_k is None
            and "in_proj_bias" in dict(module.named_parameters(recurse=False))
        ):  # fmt: skip
            module.__dict__["forward"] = MethodType(_attend, module)  # for this instance only


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
    """Replace `forward` of attention: [n, length, d], or [length, n, d], in and out.

    Other uses, such as returning weights, or keys that are not the values, are passed on to torch.
    """
    asked = {name for name, option in options.items() if option is not None and option is not False}
    if need_weights or asked or value is not key or query.ndim != 3 or self.dropout:
        options |= {"need_weights": need_weights, "attn_mask": attn_mask}
        given: tuple[Tensor, Tensor | None] = nn.MultiheadAttention.forward(self, query, key, value, **options)
        return given
    rows, others = (x if self.batch_first else x.transpose(0, 1) for x in (query, key))
    n, length, width = rows.shape

    def heads(x: Tensor, part: slice) -> Tensor:
        """Return a part of the three projections: [1 to 3, n, heads, length, size]."""
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
    """Return a mask as numbers to add; torch also allows boolean masks, and masks for each text and head."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(mask, -torch.inf)
    return mask.view_as(scores) if mask.ndim == 3 else mask
