"""Attention over prefix trees: each path to a leaf attends as if it were alone, each node is computed once.

The nodes of a tree lie in one row, and each node belongs to one branch: the part of a leaf's path that no
earlier leaf has. For each group of branches of similar length, the keys and values of the paths are gathered,
and the branch's own queries attend to them. Unlike a mask over all pairs, this spends nothing on pairs of
nodes that do not see each other.
Invariant: without routes this is torch's own attention. Importing this file registers the name `TREES` with
transformers and changes no model.
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
"""N branches: the nodes of their paths [N, L], their own nodes [N, Q], and the mask that is added to the
scores [N, 1, Q, L]."""
Routes = tuple[tuple[Group, ...], Tensor]
"""Groups that contain every node once, and the index of each node's output among those of all groups [T]."""

MAX_STRETCH = 2
"""Length of the longest branch of a group at most, in lengths of the shortest."""


def routes_of(branches: Sequence[tuple[Sequence[int], int]], num_nodes: int, dtype: torch.dtype) -> Routes:
    """Return the routes through `num_nodes` nodes.

    A branch is given as the nodes of its whole path, and the number of its own nodes, which are the last ones
    of the path.
    """
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
    """Attend, as transformers asks of an attention function.

    Takes [B, heads, tokens, dim] and returns [B, tokens, heads, dim]; with routes, B is 1.
    """
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
        # query heads that share keys and values become further queries of these
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
            # the dtype of the query, since autocast computes in another one
            attn_mask=added_N_1_Q_L.to(query.dtype).repeat(1, 1, group_size, 1),
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
