"""Many solutions of one question as one row: each distinct prefix is computed once.

The rows of a question (prompt, steps, tags) are merged into a prefix tree, whose nodes are laid out depth first; a node
attends to its ancestors and itself, and its position is its depth. Each row then sees exactly the tokens at exactly the
positions that it would see alone.
Invariant: a tree attention mask is given only to models that were seen to honour it (`takes_tree_mask`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from forkpoint.prms.layout import EncodedSolution
from forkpoint.segment import num_shared


@dataclass(frozen=True, slots=True)
class Pack:
    """A prefix tree of rows, depth first; all tuples have one entry per node."""

    input_ids: tuple[int, ...]
    depths: tuple[int, ...]
    ends: tuple[int, ...]
    """One past the node's last descendant: node i is an ancestor of node j, or j itself, where i <= j < ends[i]."""
    tags: tuple[tuple[int, ...], ...]
    """Per row, the node of each step's tag."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def is_chain(self) -> bool:
        """Whether no prefix is followed by more than one token: an ordinary causal row."""
        return len(self) == 0 or self.depths[-1] == len(self) - 1


def pack(rows: Sequence[EncodedSolution]) -> Pack:
    """The prefix tree of at least one row; children keep the order in which they were first seen."""
    children: list[dict[int, int]] = [{}]
    tokens = [-1]
    paths = []
    for row in rows:
        node, path = 0, []
        for token in row.input_ids:
            child = children[node].get(token)
            if child is None:
                child = len(tokens)
                children[node][token] = child
                children.append({})
                tokens.append(token)
            node = child
            path.append(node)
        paths.append(path)
    columns = [0] * len(tokens)
    ids: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    open_nodes: list[int] = []
    stack = [(child, 0) for child in reversed(children[0].values())]
    while stack:
        node, depth = stack.pop()
        while len(open_nodes) > depth:
            ends[open_nodes.pop()] = len(ids)
        columns[node] = len(ids)
        open_nodes.append(len(ids))
        ids.append(tokens[node])
        depths.append(depth)
        ends.append(0)
        stack += [(child, depth + 1) for child in reversed(children[node].values())]
    for column in open_nodes:
        ends[column] = len(ids)
    tags = tuple(tuple(columns[path[position]] for position in row.tag_positions) for row, path in zip(rows, paths, strict=True))
    return Pack(tuple(ids), tuple(depths), tuple(ends), tags)


def group_rows(questions: Sequence[str], rows: Sequence[EncodedSolution], max_nodes: int) -> list[list[int]]:
    """Row indices in groups of one question each, whose tree has at most `max_nodes` nodes (or is a single row).

    Rows of one question are sorted by their tokens before they are cut into groups, so that neighbours share most.
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


INPUT_NAMES = ("input_ids", "attention_mask", "position_ids")
"""What `model_inputs` can hold."""


def model_inputs(packs: Sequence[Pack], pad_id: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Packs as a model's inputs, padded at the end: input_ids [B, T], and how they attend.

    Where all are chains: attention_mask [B, T] of 0 and 1. Otherwise position_ids [B, T] and an additive
    attention_mask [B, 1, T, T] in `dtype`; padding attends to itself.
    """
    length = max(len(item) for item in packs)
    input_ids_B_T = torch.full((len(packs), length), pad_id)
    for row, item in enumerate(packs):
        input_ids_B_T[row, : len(item)] = torch.tensor(item.input_ids)
    if all(item.is_chain for item in packs):
        sizes_B_1 = torch.tensor([[len(item)] for item in packs])
        return {"input_ids": input_ids_B_T, "attention_mask": (torch.arange(length) < sizes_B_1).long()}
    depths_B_T = torch.zeros((len(packs), length), dtype=torch.long)
    ends_B_T = torch.arange(1, length + 1).repeat(len(packs), 1)
    for row, item in enumerate(packs):
        depths_B_T[row, : len(item)] = torch.tensor(item.depths)
        ends_B_T[row, : len(item)] = torch.tensor(item.ends)
    column_T = torch.arange(length)
    sees_B_T_T = (column_T[None, None, :] <= column_T[None, :, None]) & (column_T[None, :, None] < ends_B_T[:, None, :])
    mask_B_T_T = torch.zeros(sees_B_T_T.shape, dtype=dtype).masked_fill_(~sees_B_T_T, torch.finfo(dtype).min)
    return {"input_ids": input_ids_B_T, "position_ids": depths_B_T, "attention_mask": mask_B_T_T[:, None]}


def tag_places(packs: Sequence[Pack]) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of every step's tag among the inputs of `model_inputs`: pack by pack, row by row, step by step, [K] each."""
    places = [(row, column) for row, item in enumerate(packs) for tags in item.tags for column in tags]
    rows_K, columns_K = torch.tensor(places).T
    return rows_K, columns_K


@torch.no_grad()
def takes_tree_mask(model: Any, longest: int) -> bool:
    """Whether the model gives the rows of a small tree the logits that they have alone.

    False for architectures that ignore a four-dimensional mask or have no attention, and where a sliding window is
    shorter than `longest`, the tokens of the longest row.
    """
    text_config = model.config.get_text_config()
    window = getattr(text_config, "sliding_window", None)
    if window is not None and getattr(text_config, "use_sliding_window", True) and window < longest:
        return False
    was_training = model.training
    model.eval()  # dropout would make any two passes differ
    try:
        vocabulary = text_config.vocab_size
        stem, ends = [3 % vocabulary, 5 % vocabulary, 7 % vocabulary], ([11 % vocabulary, 13 % vocabulary], [2 % vocabulary] * 3)
        rows = [EncodedSolution([*stem, *end], [len(stem) + len(end) - 1]) for end in ends]
        tree = pack(rows)
        packed = _logits(model, model_inputs([tree], 0, model.dtype))[0]
        for row, tags in zip(rows, tree.tags, strict=True):
            alone = _logits(model, model_inputs([pack([row])], 0, model.dtype))[0, -1]
            tolerance = (1e-4 if model.dtype == torch.float32 else 3e-2) * max(1.0, float(alone.abs().max()))
            if not torch.allclose(packed[tags[-1]], alone, atol=tolerance, rtol=0):
                return False
        return True
    except (TypeError, ValueError, RuntimeError, IndexError):  # what models raise that do not know such inputs
        return False
    finally:
        model.train(was_training)


def _logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits
    return logits.float()
