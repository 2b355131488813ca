"""Packs many solutions of one question into one row, in which each distinct prefix is computed once.

The rows of a question (prompt, steps, tags) are merged into a prefix tree, whose nodes are laid out depth
first; a node attends to its ancestors and itself, and its position is its depth. Each row then sees exactly
the tokens at exactly the positions that it would see alone.
Invariant: trees are given only to models that passed a test of computing them correctly (`takes_trees`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from forkpoint.prms.layout import EncodedSolution
from forkpoint.prms.tree_attention import TREES, routes_of
from forkpoint.steps import num_shared


@dataclass(frozen=True, slots=True)
class Pack:
    """A prefix tree of rows; a branch is the part that a row adds to the rows before it."""

    input_ids: tuple[int, ...]
    """One token per node."""
    branches: tuple[tuple[int, int], ...]
    """The first node of each branch, and the number of nodes from the root that it shares with the branch
    before it."""
    tags: tuple[tuple[int, ...], ...]
    """The node of each step's tag, by row, in the order given."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def is_chain(self) -> bool:
        """Whether no prefix is followed by more than one token: an ordinary causal row."""
        return len(self.branches) == 1

    def paths(self) -> Iterator[tuple[list[int], int]]:
        """Yield, for each branch, the nodes from the root to its end, and how many of them are its own."""
        path: list[int] = []
        ends = [first for first, _ in self.branches[1:]] + [len(self)]
        for (first, num_before), end in zip(self.branches, ends, strict=True):
            path = [*path[:num_before], *range(first, end)]
            yield path, end - first

    def depths(self) -> list[int]:
        """Return the depth of each node; the root has depth 0."""
        return [
            num_before + idx
            for (_, num_before), (_, num_own) in zip(self.branches, self.paths(), strict=True)
            for idx in range(num_own)
        ]


def pack(rows: Sequence[EncodedSolution]) -> Pack:
    """Return the prefix tree of at least one row.

    Sorted by their tokens, rows share most with their neighbours.
    """
    tags: list[tuple[int, ...]] = [()] * len(rows)
    ids: list[int] = []
    branches: list[tuple[int, int]] = []
    path: list[int] = []
    last: Sequence[int] = ()
    for row_idx in sorted(range(len(rows)), key=lambda idx: rows[idx].input_ids):
        row = rows[row_idx]
        shared = num_shared(row.input_ids, last)
        if shared < len(row.input_ids):
            branches.append((len(ids), shared))
            path = [*path[:shared], *range(len(ids), len(ids) + len(row.input_ids) - shared)]
            ids += row.input_ids[shared:]
            last = row.input_ids
        tags[row_idx] = tuple(path[position] for position in row.tag_positions)
    return Pack(tuple(ids), tuple(branches), tuple(tags))


def group_rows(questions: Sequence[str], rows: Sequence[EncodedSolution], max_nodes: int) -> list[list[int]]:
    """Return row indices in groups of one question; a group's tree has up to `max_nodes` nodes, or one row.

    Rows of one question are sorted by their tokens before they are cut into groups, so that neighbours share
    most.
    """
    by_question: dict[str, list[int]] = {}
    for idx, question in enumerate(questions):
        by_question.setdefault(question, []).append(idx)
    groups = []
    for idxs in by_question.values():
        idxs.sort(key=lambda idx: rows[idx].input_ids)
        group: list[int] = []
        num_nodes, last = 0, None
        for idx in idxs:
            ids = rows[idx].input_ids
            added = len(ids) - (num_shared(ids, last) if last is not None else 0)
            if group and num_nodes + added > max_nodes:
                groups.append(group)
                group, num_nodes, added = [], 0, len(ids)
            group.append(idx)
            num_nodes += added
            last = ids
        groups.append(group)
    return groups


INPUT_NAMES = ("input_ids", "attention_mask", "position_ids", "routes")
"""The names of the inputs that `model_inputs` may return."""


def model_inputs(packs: Sequence[Pack], pad_id: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return packs as the inputs of a model.

    If all packs are chains: input_ids and attention_mask [B, T], one row per pack, padded at the end.
    Otherwise the packs follow each other in one row without padding: input_ids and position_ids [1, T],
    `routes` in `dtype` (see `tree_attention`), and an attention_mask without columns, with which every
    attention fails that ignores the routes.
    """
    if all(item.is_chain for item in packs):
        length = max(len(item) for item in packs)
        input_ids_B_T = torch.full((len(packs), length), pad_id)
        for row, item in enumerate(packs):
            input_ids_B_T[row, : len(item)] = torch.tensor(item.input_ids)
        sizes_B_1 = torch.tensor([[len(item)] for item in packs])
        return {"input_ids": input_ids_B_T, "attention_mask": (torch.arange(length) < sizes_B_1).long()}
    branches = []
    num_nodes = 0
    for item in packs:
        branches += [([num_nodes + node for node in path], num_own) for path, num_own in item.paths()]
        num_nodes += len(item)
    return {
        "input_ids": torch.tensor([[token for item in packs for token in item.input_ids]]),
        "position_ids": torch.tensor([[depth for item in packs for depth in item.depths()]]),
        "attention_mask": torch.zeros((1, 1, 1, 0), dtype=dtype),
        "routes": routes_of(branches, num_nodes, dtype),
    }


def tag_places(packs: Sequence[Pack]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return row and column, [K] each, of every step's tag in the inputs of `model_inputs`.

    Tags are in the order of packs, rows and steps.
    """
    in_one_row = not all(item.is_chain for item in packs)
    places = []
    num_before = 0
    for idx, item in enumerate(packs):
        places += [
            (0, num_before + node) if in_one_row else (idx, node) for tags in item.tags for node in tags
        ]
        num_before += len(item)
    rows_K, columns_K = torch.tensor(places).T
    return rows_K, columns_K


@torch.no_grad()
def takes_trees(model: Any, longest: int) -> bool:
    """Whether the model computes trees: rows of a small tree get the logits that they have alone.

    If so, the model's attention is set to `TREES`. False for a model without attention, for one that does not
    pass its arguments on to the attention function or uses another one than torch's, and for one with a
    sliding window shorter than `longest`, the number of tokens of the longest row.
    """
    text_config = model.config.get_text_config()
    window = getattr(text_config, "sliding_window", None)
    if window is not None and getattr(text_config, "use_sliding_window", True) and window < longest:
        return False
    before = text_config._attn_implementation
    if before not in ("sdpa", "eager", TREES):
        return False
    was_training = model.training
    model.eval()  # dropout would make any two passes differ
    is_right = False
    try:
        model.set_attn_implementation(TREES)
        is_right = _computes_trees(model, text_config.vocab_size)
    except (TypeError, ValueError, RuntimeError, IndexError):  # raised by models that do not know such inputs
        pass
    finally:
        model.train(was_training)
        if not is_right:
            model.set_attn_implementation(before)
    return is_right


def _computes_trees(model: Any, num_tokens: int) -> bool:
    stem, ends = (
        [3 % num_tokens, 5 % num_tokens, 7 % num_tokens],
        ([11 % num_tokens, 13 % num_tokens], [2 % num_tokens] * 3),
    )
    rows = [EncodedSolution([*stem, *end], [len(stem) + len(end) - 1]) for end in ends]
    tree = pack(rows)
    packed = _logits(model, model_inputs([tree], 0, model.dtype))[0]
    for row, tags in zip(rows, tree.tags, strict=True):
        alone = _logits(model, model_inputs([pack([row])], 0, model.dtype))[0, -1]
        tolerance = (1e-4 if model.dtype == torch.float32 else 3e-2) * max(1.0, float(alone.abs().max()))
        if not torch.allclose(packed[tags[-1]], alone, atol=tolerance, rtol=0):
            return False
    return True


def on_device(inputs: Any, device: torch.device) -> Any:
    """Move inputs of `model_inputs`, or any part of them, to a device."""
    if isinstance(inputs, torch.Tensor):
        return inputs.to(device)
    if isinstance(inputs, dict):
        return {name: on_device(value, device) for name, value in inputs.items()}
    return tuple(on_device(item, device) for item in inputs)


def _logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    logits: torch.Tensor = model(**on_device(inputs, model.device)).logits
    return logits.float()
