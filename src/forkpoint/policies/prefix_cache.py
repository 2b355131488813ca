"""A cache of the keys and values of token prefixes, on the device of the model and limited in bytes.

A prefix is stored as a chain of blocks of `BLOCK` tokens in a tree: chains share the blocks on which they
agree, and a lookup compares the tokens themselves, so hashes cannot collide. All blocks are in one
preallocated pool.
Invariant: every block in the pool can be reached from the root, because a block was always used at least as
recently as its children and the least recently used block is dropped first.
This file knows no models; it copies blocks out of a `KVRows` and back into it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from forkpoint.policies.kv_rows import BLOCK, KVRows


@dataclass(eq=False, slots=True)
class _Block:
    token_ids: tuple[int, ...]
    pool_idx: int
    parent: _Block | None
    children: dict[tuple[int, ...], _Block] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """The longest stored prefix of some tokens; the last block may hold more tokens than match."""

    pool_idxs: tuple[int, ...] = ()
    num_tokens: int = 0


class PrefixCache:
    """Blocks of keys and values, found by their tokens; the least recently used ones are dropped first."""

    def __init__(self, max_bytes: int, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """A pool of at most `max_bytes` for layers with the shapes of the given keys and values.

        If that is less than one block, the cache stays empty.
        """
        shapes = [(layer.shape[1], BLOCK, layer.shape[3]) for layer in (*keys, *values)]
        block_bytes = sum(torch.Size(shape).numel() for shape in shapes) * keys[0].element_size()
        self.num_blocks = max_bytes // block_bytes
        # on a CPU, `empty` takes memory only as blocks are used
        self._pools = [keys[0].new_empty((self.num_blocks, *shape)) for shape in shapes]
        self._root = _Block((), -1, None)
        self._by_age: OrderedDict[_Block, None] = OrderedDict()

    def __len__(self) -> int:
        """The number of blocks in use."""
        return len(self._by_age)

    def match(self, token_ids: Sequence[int]) -> Match:
        """The longest prefix of `token_ids` whose keys and values are stored; it may end inside a block."""
        chain = self._chain(token_ids)
        num_tokens = len(chain) * BLOCK
        rest = tuple(token_ids[num_tokens : num_tokens + BLOCK])
        last = chain[-1] if chain else self._root
        best = max(last.children.values(), key=lambda child: _num_common(child.token_ids, rest), default=None)
        if best is not None and (num_common := _num_common(best.token_ids, rest)) > 0:
            chain.append(best)
            num_tokens += num_common
        self._touch(chain)
        return Match(tuple(block.pool_idx for block in chain), num_tokens)

    def load(self, rows: KVRows, matches: Mapping[int, Match]) -> None:
        """Copy matches into their rows.

        The columns of the last block that lie behind a match hold no meaningful values.
        """
        places = [
            (idx, row, block_idx)
            for row, match in matches.items()
            for block_idx, idx in enumerate(match.pool_idxs)
        ]
        if places:
            idxs_F, rows_F, blocks_F = torch.tensor(places, device=self._pools[0].device).T
            for pool_N_H_C_D, buffer_R_H_B_C_D in zip(self._pools, rows.blocks(), strict=True):
                buffer_R_H_B_C_D[rows_F, :, blocks_F] = pool_N_H_C_D[idxs_F]

    def insert(self, rows: KVRows, ids_by_row: Mapping[int, Sequence[int]]) -> None:
        """Store the keys and values of all whole blocks in rows; known blocks are not copied again."""
        places: dict[int, tuple[int, int]] = {}
        for row, token_ids in ids_by_row.items():
            for block_idx, pool_idx in self._grow(token_ids).items():
                # in a small pool, a later sequence may take the place of an earlier one
                places[pool_idx] = (row, block_idx)
        if places:
            idxs_F = torch.tensor(list(places), device=self._pools[0].device)
            rows_F, blocks_F = torch.tensor(list(places.values()), device=self._pools[0].device).T
            for pool_N_H_C_D, buffer_R_H_B_C_D in zip(self._pools, rows.blocks(), strict=True):
                pool_N_H_C_D[idxs_F] = buffer_R_H_B_C_D[rows_F, :, blocks_F]

    def _grow(self, token_ids: Sequence[int]) -> dict[int, int]:
        """Complete the chain of `token_ids`, as far as the pool allows.

        Returns the place in the pool of every new block, by the index of the block in the chain.
        """
        num_blocks = min(len(token_ids) // BLOCK, self.num_blocks)
        chain = self._chain(token_ids[: num_blocks * BLOCK])
        self._touch(chain)
        new: dict[int, int] = {}
        for block_idx in range(len(chain), num_blocks):
            parent = chain[-1] if chain else self._root
            block = _Block(
                tuple(token_ids[block_idx * BLOCK : (block_idx + 1) * BLOCK]), self._free_idx(), parent
            )
            parent.children[block.token_ids] = block
            self._by_age[block] = None
            chain.append(block)
            new[block_idx] = block.pool_idx
        self._touch(chain)
        return new

    def _chain(self, token_ids: Sequence[int]) -> list[_Block]:
        """The stored blocks with which `token_ids` starts, in order."""
        chain: list[_Block] = []
        block = self._root
        for start in range(0, len(token_ids) - BLOCK + 1, BLOCK):
            child = block.children.get(tuple(token_ids[start : start + BLOCK]))
            if child is None:
                break
            chain.append(block := child)
        return chain

    def _touch(self, chain: Sequence[_Block]) -> None:
        """Mark the blocks of a chain as used, the first block most recently."""
        for block in reversed(chain):
            self._by_age.move_to_end(block)

    def _free_idx(self) -> int:
        """An unused place in the pool, or that of the least recently used block if all places are in use."""
        if len(self._by_age) < self.num_blocks:
            return len(self._by_age)
        oldest, _ = self._by_age.popitem(last=False)
        assert oldest.parent is not None and not oldest.children, "the least recently used block has children"
        del oldest.parent.children[oldest.token_ids]
        return oldest.pool_idx


def _num_common(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of tokens that two sequences share at their start."""
    num = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        num += 1
    return num
