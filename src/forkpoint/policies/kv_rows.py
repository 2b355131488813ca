"""Keys and values of many sequences in one buffer per layer: one row per sequence, one column per position.

A row holds position p of its sequence in column p, whatever the other rows hold. So sequences of any lengths
share a batch, a new sequence can take the row of an old one, and cached prefixes are copied in without any
shift. A forward pass works on a contiguous range of rows: each token writes its own keys and values and
attends to the columns up to its own position.
Invariant: all columns hold finite numbers, so that masked columns have a weight of exactly 0: what other rows
hold does not matter. How many they are, and whether tokens come one by one or together, matters by rounding
at most, and on a CPU in float32 not at all if the kernels of torch round alike for few and many (`attention`
says which do).
This file does not decide which sequence is in which row, and supports plain attention caches only (see
`probe`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from forkpoint.policies.attention import ROW_STEP, ROWS

BLOCK = 16
"""The number of columns is a multiple of this number."""
SMALL_PRODUCT = 400
"""Batched products with fewer multiplications than this go to another kernel of torch on a CPU, which rounds
differently; there are at least so many columns that attention has none."""


def probe(model: PreTrainedModel) -> tuple[list[Tensor], list[Tensor]] | None:
    """The keys and values of one token, per layer [1, heads, 1, dim]; None if `KVRows` cannot hold them.

    It can if the cache of every layer is a plain list of keys and values (no sliding window, no recurrent
    state), and if the model takes position ids (with ALiBi it reads them from the mask) and the masks of
    `sdpa` or `eager` attention.
    """
    config = model.config.get_text_config()
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters and not getattr(
        config, "alibi", False
    )
    if not takes_positions or config._attn_implementation not in ("sdpa", "eager", ROWS):
        return None
    cache = DynamicCache(config=model.config)
    ids_1_1 = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    model(input_ids=ids_1_1, attention_mask=torch.ones_like(ids_1_1), past_key_values=cache, use_cache=True)
    keys, values = [], []
    for layer in cache.layers:
        if type(layer) is not DynamicLayer or layer.keys is None or layer.values is None:
            return None
        keys.append(layer.keys)
        values.append(layer.values)
    return keys, values


class KVRows:
    """Buffers of keys and values, [rows, heads, columns, dim] per layer, and forward passes over rows."""

    def __init__(self, model: PreTrainedModel, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Empty buffers for `model`, with the shapes that `probe` returned; `fit` makes room."""
        self._model = model
        self.keys, self.values = [layer[:0, :, :0] for layer in keys], [layer[:0, :, :0] for layer in values]
        self._cache = Cache(layers=[_RowLayer(self, layer_idx) for layer_idx in range(len(keys))])
        self._options = (
            {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        )
        self._is_tight = model.device.type == "cpu"
        self._min_width = -(-SMALL_PRODUCT // keys[0].shape[3]) if self._is_tight else 0
        self._first_row = 0
        self._fed_rows_F = self._fed_queries_F = self._fed_columns_F = torch.empty(0, dtype=torch.long)

    @property
    def width(self) -> int:
        """The present number of columns."""
        return self.keys[0].shape[2]

    def fit(self, num_rows: int, width: int, num_kept: int) -> None:
        """Make room for `num_rows` rows of `width` columns; the first `num_kept` rows keep their content.

        On a CPU the width stays close to the longest row, because attention computes all columns and its
        batched products need buffers without gaps; elsewhere the buffers only grow, in larger steps.
        """
        needed, grown = (
            _round_up(max(width, self._min_width)),
            _round_up(self.width * (9 if self._is_tight else 12) // 8),
        )
        new_width = max(needed, grown) if needed > self.width else self.width
        if self._is_tight and needed < 0.8 * self.width:
            new_width = needed
        new_rows = max(num_rows + ROW_STEP - 1, len(self.keys[0]))
        if (new_rows, new_width) == (len(self.keys[0]), self.width):
            return
        for buffers in (self.keys, self.values):
            for layer_idx, old_R_H_W_D in enumerate(buffers):
                new_R_H_W_D = old_R_H_W_D.new_empty(
                    (new_rows, old_R_H_W_D.shape[1], new_width, old_R_H_W_D.shape[3])
                )
                kept_width = min(new_width, old_R_H_W_D.shape[2])
                new_R_H_W_D[:num_kept, :, :kept_width] = old_R_H_W_D[:num_kept, :, :kept_width]
                new_R_H_W_D[:num_kept, :, kept_width:] = 0
                new_R_H_W_D[num_kept:] = 0
                buffers[layer_idx] = new_R_H_W_D

    def blocks(self) -> Iterator[Tensor]:
        """Views of all keys, then all values, in blocks of columns: [rows, heads, blocks, `BLOCK`, dim]."""
        for buffer_R_H_W_D in (*self.keys, *self.values):
            yield buffer_R_H_W_D.view(*buffer_R_H_W_D.shape[:2], -1, BLOCK, buffer_R_H_W_D.shape[3])

    def copy(self, sources: Sequence[int], targets: Sequence[int], width: int) -> None:
        """Copy the first `width` columns of some rows to other rows; no row is both a source and a target."""
        source_F, target_F = (torch.tensor(rows, device=self._model.device) for rows in (sources, targets))
        for buffer_R_H_W_D in (*self.keys, *self.values):
            buffer_R_H_W_D[target_F, :, :width] = buffer_R_H_W_D[source_F, :, :width]

    def forward(self, first_row: int, ids_B_Q: Tensor, positions_B_Q: Tensor) -> Tensor:
        """The next-token logits [B, V] after the last of `ids_B_Q`, for the B rows from `first_row` on.

        `positions_B_Q` holds the columns of the tokens. A row may start with padding, marked by position -1,
        which is not stored and whose results are not used.
        """
        num_rows = len(ids_B_Q)
        self._first_row = first_row
        if ids_B_Q.shape[1] == 1:  # no padding, and `nonzero` would wait for the device
            self._fed_rows_F, self._fed_columns_F = (
                torch.arange(len(ids_B_Q), device=ids_B_Q.device),
                positions_B_Q[:, 0],
            )
            self._fed_queries_F = torch.zeros_like(self._fed_rows_F)
        else:
            self._fed_rows_F, self._fed_queries_F = (positions_B_Q >= 0).nonzero(as_tuple=True)
            self._fed_columns_F = positions_B_Q[self._fed_rows_F, self._fed_queries_F]
            positions_B_Q = positions_B_Q.clamp(min=0)
        if self._is_tight and num_rows % ROW_STEP:  # rows that are not stored either
            padding = (0, 0, 0, -num_rows % ROW_STEP)
            ids_B_Q, positions_B_Q = (pad(tensor, padding) for tensor in (ids_B_Q, positions_B_Q))
        columns_W, dtype = torch.arange(self.width, device=ids_B_Q.device), self.keys[0].dtype
        mask_B_1_Q_W = torch.where(
            columns_W <= positions_B_Q[:, None, :, None], 0.0, torch.finfo(dtype).min
        ).to(dtype)
        output = self._model(
            input_ids=ids_B_Q,
            attention_mask=mask_B_1_Q_W,
            position_ids=positions_B_Q,
            past_key_values=self._cache,
            use_cache=True,
            **self._options,
        )
        logits_B_V: Tensor = output.logits[:num_rows, -1]
        return logits_B_V

    def store(self, layer_idx: int, keys_B_H_Q_D: Tensor, values_B_H_Q_D: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values of one layer; return all of the layer, each [B, heads, columns, dim]."""
        rows = slice(self._first_row, self._first_row + len(keys_B_H_Q_D))
        views = self.keys[layer_idx][rows], self.values[layer_idx][rows]
        for view_B_H_W_D, new_B_H_Q_D in zip(views, (keys_B_H_Q_D, values_B_H_Q_D), strict=True):
            # indexed dimensions come first, so both sides are [tokens fed, heads, dim]
            view_B_H_W_D[self._fed_rows_F, :, self._fed_columns_F] = new_B_H_Q_D[
                self._fed_rows_F, :, self._fed_queries_F
            ]
        return views


def _round_up(width: int) -> int:
    return -(-width // BLOCK) * BLOCK


class _RowLayer(DynamicLayer):  # type: ignore[no-untyped-call] # transformers' __init_subclass__
    """A layer of a transformers cache that reads and writes the rows of a `KVRows`."""

    def __init__(self, rows: KVRows, layer_idx: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rows, self._layer_idx = rows, layer_idx

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self._rows.store(self._layer_idx, key_states, value_states)

    def get_seq_length(self) -> int:
        return self._rows.width
