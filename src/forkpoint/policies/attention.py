"""Attention for decoding in rows: that of torch, except on a CPU.

There `scaled_dot_product_attention` computes one small matrix product per row and head; two batched products
over the whole buffer take about half the time, provided that the buffer has no gaps. They also round the same
way for one new token per row as for many: if fewer than `NUM_QUERIES` heads share keys, there is a product
for each head and token, else one product for many.
Invariant: the result equals that of torch up to rounding. Whether that of a token is the same to the last bit
however many rows and tokens come with it is up to the kernels of the matrix products. On a CPU in float32 it
is with MKL's kernels for AVX-512 and those that MKL takes on AMD's processors; it is not with its kernels for
AVX2 and SSE 4.2 on Intel's. Importing this file registers the name `ROWS` with transformers and changes no
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROWS = "forkpoint_rows"
ROW_STEP = 4
"""On a CPU, passes work on a multiple of this number of rows: products of fewer rows round differently."""
NUM_QUERIES = 4
"""Products with at least this number of queries round the same way, and products with one query do."""
MAX_SCORES = 1 << 24
"""The most attention weights that are computed at a time; it bounds the memory of long prompts."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function for transformers: [B, heads, tokens, dim] becomes [B, tokens, heads, dim]."""
    is_plain = not dropout and kwargs.get("position_bias") is None and query.device.type == "cpu"
    if not is_plain or attention_mask is None or not attention_mask.is_floating_point():
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    num_rows, num_heads, num_tokens, dim = query.shape
    num_kv_heads = key.shape[1]
    # the query heads of a group share keys and values
    query_B_K_G_Q_D = query.reshape(num_rows, num_kv_heads, -1, num_tokens, dim)
    group, scale = query_B_K_G_Q_D.shape[2], dim**-0.5 if scaling is None else scaling
    heads, num_together = [slice(0, group)], max(1, MAX_SCORES // (num_rows * num_heads * key.shape[2]))
    if group < NUM_QUERIES:
        heads, num_together = [slice(head, head + 1) for head in range(group)], 1
    attended = [
        torch.cat([_attend(query_B_K_G_Q_D[:, :, head, part], key, value, mask, scale) for head in heads], 2)
        for part, mask in _parts(num_tokens, num_together, attention_mask)
    ]
    attended_B_K_G_Q_D = torch.cat(attended, dim=3)
    return attended_B_K_G_Q_D.reshape(num_rows, num_heads, num_tokens, -1).transpose(1, 2), None


def _parts(num_tokens: int, num_together: int, mask: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The tokens that are attended to together, with their part of the mask."""
    for start in range(0, num_tokens, num_together):
        part = slice(start, start + num_together)
        yield part, mask[:, :, part]


def _attend(query_B_K_G_Q_D: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    num_rows, num_kv_heads, group, num_tokens, dim = query_B_K_G_Q_D.shape
    query_B_K_M_D = query_B_K_G_Q_D.reshape(num_rows, num_kv_heads, group * num_tokens, dim)
    mask_B_1_M_W = mask if num_tokens == 1 else mask.repeat(1, 1, group, 1)
    scores_B_K_M_W = torch.matmul(query_B_K_M_D, key.transpose(2, 3)).float().mul_(scale).add_(mask_B_1_M_W)
    weights_B_K_M_W = torch.softmax(scores_B_K_M_W, dim=-1).to(value.dtype)
    return torch.matmul(weights_B_K_M_W, value).reshape(num_rows, num_kv_heads, group, num_tokens, -1)


AttentionInterface.register(ROWS, attend)
AttentionMaskInterface.register(ROWS, sdpa_mask)
