"""The part that all PRMs here share: solutions are packed into few forward passes, with one score per step.

Invariant: one forward pass gives all step scores of a solution, and scores depend neither on the rest of the
batch (beyond float rounding) nor on the order of the input. Each distinct prefix of the solutions of one
question is computed once, if the model computes trees (`takes_trees`).
This file knows neither texts nor heads: a subclass makes tokens of a solution, and scores of the model's
outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from forkpoint.prms.layout import EncodedSolution
from forkpoint.prms.packing import Pack, group_rows, model_inputs, on_device, pack, tag_places, takes_trees


class PackedPRM(ABC):
    """A `Scorer` around a model that is read at one place per step."""

    def __init__(self, model: Any, name: str, pad_id: int, batch_tokens: int, packs_trees: bool) -> None:
        """`batch_tokens` bounds the padded tokens of one forward pass.

        Without `packs_trees` no solutions share prefixes.
        """
        self.model, self.name = model.eval(), name
        self._pad_id, self._batch_tokens, self._packs_trees = pad_id, batch_tokens, packs_trees
        self._longest_seen: int | None = None
        self._takes_trees_seen = False

    @abstractmethod
    def encode(self, question: str, steps: Sequence[str]) -> EncodedSolution:
        """Return the tokens of a solution, and the positions of its steps. LayoutError if they do not fit."""

    @abstractmethod
    def read(self, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor) -> torch.Tensor:
        """Return scores in [0, 1], float32 [K], at K positions (row and column of the inputs)."""

    def score(
        self,
        questions: Sequence[str],
        steps: Sequence[Sequence[str]],
        on_batch: Callable[[int], None] | None = None,
    ) -> list[list[float]]:
        """Return one score in [0, 1] per step of each solution, in the order given.

        Every solution is laid out before the first one is scored: LayoutError tells of the first that does
        not fit. `on_batch` is called after each batch with its number of solutions.
        """
        encoded = [self.encode(question, steps_S) for question, steps_S in zip(questions, steps, strict=True)]
        groups = group_rows(questions, encoded, self._batch_tokens if self._packs_trees else 1)
        if any(len(group) > 1 for group in groups) and not self._takes_trees(
            max(len(row.input_ids) for row in encoded)
        ):
            groups = [[idx] for idx in range(len(encoded))]
        packs = [pack([encoded[idx] for idx in group]) for group in groups]
        scores: list[list[float]] = [[] for _ in encoded]
        for batch in _length_sorted(packs, self._batch_tokens):
            scored = self._score_batch([packs[pack_idx] for pack_idx in batch])
            for pack_idx, pack_scores in zip(batch, scored, strict=True):
                for idx, row_scores in zip(groups[pack_idx], pack_scores, strict=True):
                    scores[idx] = row_scores
            if on_batch:
                on_batch(sum(len(groups[pack_idx]) for pack_idx in batch))
        return scores

    def num_tokens(self, question: str, steps: Sequence[str]) -> int:
        """Return the number of tokens that scoring a solution alone takes, tags included."""
        return len(self.encode(question, steps).input_ids)

    def _takes_trees(self, longest: int) -> bool:
        """Whether the model computes trees of rows of up to `longest` tokens; tested once per new size."""
        if self._longest_seen is None or longest > self._longest_seen:
            self._longest_seen, self._takes_trees_seen = longest, takes_trees(self.model, longest)
        return self._takes_trees_seen

    @torch.inference_mode()
    def _score_batch(self, packs: Sequence[Pack]) -> list[list[list[float]]]:
        """Return one score per step, by pack and row."""
        device = self.model.device
        inputs = on_device(model_inputs(packs, self._pad_id, self.model.dtype), device)
        rows_K, columns_K = tag_places(packs)
        scores_K = iter(self.read(inputs, rows_K.to(device), columns_K.to(device)).tolist())
        return [[[next(scores_K) for _ in tags] for tags in item.tags] for item in packs]


def _length_sorted(packs: Sequence[Pack], batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices in batches of similar length, longest first, so that memory runs out at once or never."""
    batch: list[int] = []
    for idx in sorted(range(len(packs)), key=lambda idx: -len(packs[idx])):
        if batch and (len(batch) + 1) * len(packs[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(idx)
    if batch:
        yield batch
