"""Attention over prefix trees: every path to a leaf attends as if it were alone, everything else is computed once per node.

A tree's nodes lie in one row, and each node belongs to one branch: the part of a leaf's path that no earlier leaf has.
Per group of branches of similar length, the keys and values of the paths are gathered, and the branch's own queries attend
to them: nothing is spent on pairs of nodes that do not see each other, as a mask over all pairs would.
Invariant: without routes it is torch's own attention. Importing this file makes the name `TREES` known to transformers and
changes no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TREES = "forkpoint_trees"

Group = tuple[Tensor, Tensor, Tensor]
"""Of N branches: the nodes of their paths [N, L], their own nodes [N, Q], and what is added to the scores [N, 1, Q, L]."""
Routes = tuple[tuple[Group, ...], Tensor]
"""Groups that have every node once, and where among their outputs, one after the other, each node's is [T]."""

MAX_STRETCH = 2
"""How many times as long as the shortest the longest branch of a group may be."""


def routes_of(branches: Sequence[tuple[Sequence[int], int]], num_nodes: int, dtype: torch.dtype) -> Routes:
    """Routes through `num_nodes` nodes; a branch is the nodes of its whole path, and how many of them, the last ones, are its own."""
    ordered = sorted(branches, key=lambda branch: -branch[1])
    groups: list[Group] = []
    place_T = torch.zeros(num_nodes, dtype=torch.long)
    num_placed, first = 0, 0
    while first < len(ordered):
        longest = ordered[first][1]
        past = next(
            (idx for idx in range(first, len(ordered)) if ordered[idx][1] * MAX_STRETCH < longest),
            len(ordered),
        )
        chosen = ordered[first:past]
        width = max(len(path) for path, _ in chosen)
        paths_N_L = torch.zeros((len(chosen), width), dtype=torch.long)
        own_N_Q = torch.zeros((len(chosen), longest), dtype=torch.long)
        for row, (path, num_own) in enumerate(chosen):
            paths_N_L[row, : len(path)] = torch.tensor(path)
            own_N_Q[row, :num_own] = paths_N_L[row, len(path) - num_own : len(path)]
            place_T[own_N_Q[row, :num_own]] = num_placed + row * longest + torch.arange(num_own)
        forks_N = torch.tensor([len(path) - num_own for path, num_own in chosen])
        depths_N_Q = forks_N[:, None] + torch.arange(longest)
        hidden_N_Q_L = torch.arange(width) > depths_N_Q[:, :, None]
        added_N_Q_L = torch.zeros(hidden_N_Q_L.shape, dtype=dtype).masked_fill_(
            hidden_N_Q_L, torch.finfo(dtype).min
        )
        groups.append((paths_N_L, own_N_Q, added_N_Q_L[:, None]))
        num_placed += own_N_Q.numel()
        first = past
    return tuple(groups), place_T


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    routes: Routes | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers asks of an attention function: [B, tokens, heads, dim] from [B, heads, tokens, dim]; with routes, B is 1."""
    if routes is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    query_T_H_D, key_T_K_D, value_T_K_D = (states[0].transpose(0, 1) for states in (query, key, value))
    num_heads, num_kv_heads = query.shape[1], key.shape[1]
    group_size = num_heads // num_kv_heads
    groups, place_T = routes
    attended = []
    for paths_N_L, own_N_Q, added_N_1_Q_L in groups:
        num_branches, num_own = own_N_Q.shape
        keys_N_K_L_D, values_N_K_L_D = (
            states.index_select(0, paths_N_L.flatten())
            .view(*paths_N_L.shape, num_kv_heads, -1)
            .transpose(1, 2)
            for states in (key_T_K_D, value_T_K_D)
        )
        # query heads that share keys and values are further queries of theirs
        query_N_K_GQ_D = (
            query_T_H_D.index_select(0, own_N_Q.flatten())
            .view(num_branches, num_own, num_kv_heads, group_size, -1)
            .permute(0, 2, 3, 1, 4)
            .reshape(num_branches, num_kv_heads, group_size * num_own, -1)
        )
        out_N_K_GQ_D = torch.nn.functional.scaled_dot_product_attention(
            query_N_K_GQ_D,
            keys_N_K_L_D,
            values_N_K_L_D,
            attn_mask=added_N_1_Q_L.to(query.dtype).repeat(
                1, 1, group_size, 1
            ),  # autocast computes in another dtype
            dropout_p=dropout,
            scale=scaling,
        )
        out_N_Q_H_D = out_N_K_GQ_D.view(num_branches, num_kv_heads, group_size, num_own, -1).permute(
            0, 3, 1, 2, 4
        )
        attended.append(out_N_Q_H_D.reshape(num_branches * num_own, num_heads, -1))
    return torch.cat(attended).index_select(0, place_T)[None], None


AttentionInterface.register(TREES, attend)
AttentionMaskInterface.register(TREES, sdpa_mask)
