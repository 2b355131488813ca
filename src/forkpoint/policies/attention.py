"""Attention for decoding in rows: that of torch, except on a CPU.

There `scaled_dot_product_attention` computes one small matrix product per row and head; two batched products
over the whole buffer take about half the time, provided that the buffer has no gaps. They also round the same
way for one new token per row as for many: products with fewer than `ROW_STEP` queries are padded, because
they take other paths through the libraries.
Invariant: the result equals that of torch up to rounding; on a CPU in float32 that of a token is the same to
the last bit, whatever the other rows hold and however many tokens come with it. Importing this file registers
the name `ROWS` with transformers and changes no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROWS = "forkpoint_rows"
ROW_STEP = 4
"""On a CPU, products of matrices have a multiple of this number of rows, or more: fewer round differently."""
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
    num_rows, num_heads, num_tokens, _ = query.shape
    step = max(ROW_STEP, MAX_SCORES // (num_rows * num_heads * key.shape[2]))
    attended = [
        _attend(
            query[:, :, start : start + step], key, value, attention_mask[:, :, start : start + step], scaling
        )
        for start in range(0, num_tokens, step)
    ]
    return torch.cat(attended, dim=1), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    num_rows, num_heads, num_tokens, dim = query.shape
    num_kv_heads = key.shape[1]
    group = num_heads // num_kv_heads
    # the query heads of a group share keys and values
    query_B_K_M_D = query.reshape(num_rows, num_kv_heads, group * num_tokens, dim)
    mask_B_1_M_W = mask.expand(num_rows, 1, num_tokens, -1).repeat(1, 1, group, 1)
    num_queries = group * num_tokens
    if num_queries < ROW_STEP:
        padding = (0, 0, 0, ROW_STEP - num_queries)
        query_B_K_M_D, mask_B_1_M_W = pad(query_B_K_M_D, padding), pad(mask_B_1_M_W, padding)
    scores_B_K_M_W = torch.matmul(query_B_K_M_D, key.transpose(2, 3))
    scores_B_K_M_W = scores_B_K_M_W.float().mul_(dim**-0.5 if scaling is None else scaling).add_(mask_B_1_M_W)
    weights_B_K_M_W = torch.softmax(scores_B_K_M_W, dim=-1).to(value.dtype)
    attended_B_K_M_D = torch.matmul(weights_B_K_M_W, value)[:, :, :num_queries]
    return attended_B_K_M_D.reshape(num_rows, num_heads, num_tokens, value.shape[-1]).transpose(1, 2)


AttentionInterface.register(ROWS, attend)
AttentionMaskInterface.register(ROWS, sdpa_mask)
