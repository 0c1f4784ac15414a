"""Attention for training: the same results as open_clip's layers give, for less work.

On processors matrix products are plain: torch's fused attention is slow in its backward pass there where sequences are
short (17 tokens of a picture, a dozen of a caption), and a step of a small ViT took a fifth to a half longer with it.
On a GPU the fused form stays. Everywhere the last attention of an image tower is asked for the token that becomes the
picture's vector, and for no other: a ninth of a step of a ViT with six blocks.
"""

from types import MethodType
from typing import Any

import torch
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional


def use_plain(towers: nn.Module) -> None:
    """Let every self-attention in `towers` multiply plain matrices; weights and results stay what they are."""
    for module in towers.modules():
        if isinstance(module, nn.MultiheadAttention) and module._qkv_same_embed_dim and module.bias_k is None:
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
    """`forward` of self-attention: [n, length, d], or [length, n, d], in and out.

    Whatever else is asked for, such as weights, or attention to another sequence, is torch's to answer.
    """
    asked = {name for name, option in options.items() if option is not None and option is not False}
    if need_weights or asked or key is not query or value is not query or query.ndim != 3 or self.dropout:
        options |= {"need_weights": need_weights, "attn_mask": attn_mask}
        given: tuple[Tensor, Tensor | None] = nn.MultiheadAttention.forward(self, query, key, value, **options)
        return given
    rows = query if self.batch_first else query.transpose(0, 1)
    n, length, width = rows.shape
    heads, size = self.num_heads, width // self.num_heads
    mixed = functional.linear(rows, self.in_proj_weight, self.in_proj_bias)
    q, k, v = mixed.view(n, length, 3, heads, size).permute(2, 0, 3, 1, 4)  # each [n, heads, length, size]
    scores = (q * size**-0.5) @ k.transpose(-1, -2)
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


def ask_one_token(visual: nn.Module) -> None:
    """Let the last attention of an image tower answer for the token that is read; weights and results stay.

    Known are open_clip's ViT whose vector is its class token's, and the attention pool of its ResNet. Any other tower
    is left as it is.
    """
    pool = getattr(visual, "attnpool", None)
    if isinstance(pool, AttentionPool2d):
        pool.__dict__["forward"] = MethodType(_pool_one, pool)
    elif isinstance(visual, VisionTransformer):
        block = visual.transformer.resblocks[-1]
        if (
            visual.attn_pool is None and visual.pool_type == "tok" and not visual.output_tokens
            and visual.transformer.batch_first and type(block) is ResidualAttentionBlock
        ):  # fmt: skip
            block.__dict__["forward"] = MethodType(_last_block, block)


def _last_block(self: Any, rows: Tensor, *unused: None, attn_mask: None = None) -> Tensor:
    """`forward` of a ViT's last block: [n, length, d] in, the class token's [n, 1, d] out."""
    normal, own = self.ln_1(rows), self.attn
    width = rows.shape[-1]
    query = functional.linear(normal[:, 0], own.in_proj_weight[:width], own.in_proj_bias[:width])
    others = functional.linear(normal, own.in_proj_weight[width:], own.in_proj_bias[width:])
    keys, values = others.chunk(2, dim=-1)
    seen = own.out_proj(_seen(query, keys, values, own.num_heads))
    first: Tensor = rows[:, :1] + self.ls_1(seen[:, None])
    return first.add(self.ls_2(self.mlp(self.ln_2(first))))


def _pool_one(self: Any, features: Tensor) -> Tensor:
    """`forward` of the attention pool: [n, d, height, width] in, what the mean's token sees, [n, out], out."""
    places = features.flatten(2).transpose(1, 2)
    rows = torch.cat([places.mean(dim=1, keepdim=True), places], dim=1) + self.positional_embedding.to(features.dtype)
    made: Tensor = self.c_proj(_seen(self.q_proj(rows[:, 0]), self.k_proj(rows), self.v_proj(rows), self.num_heads))
    return made


def _seen(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """What one query a picture, [n, d], sees of all its rows, [n, length, d] each: [n, d]."""
    n, length, width = keys.shape
    q = query.view(n, heads, 1, -1) * (width // heads) ** -0.5
    k, v = (rows.view(n, length, heads, -1).transpose(1, 2) for rows in (keys, values))
    weights = (q @ k.transpose(-1, -2)).softmax(dim=-1)
    return torch.matmul(weights, v).reshape(n, width)
