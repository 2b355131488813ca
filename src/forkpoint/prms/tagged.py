"""Our own PRM: a causal language model that is read at step tags.

Invariant: one forward pass gives all step scores of a solution, and scores do not depend on what else is in the batch
(beyond float rounding) nor on the order of the input. Solutions of one question share what they have in common: each
distinct prefix is computed once, where the model honours a tree attention mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from forkpoint.fingerprint import fingerprint
from forkpoint.prms.layout import Layout, PRMFormat
from forkpoint.prms.packing import Pack, group_rows, model_inputs, pack, tag_places, takes_tree_mask
from forkpoint.tokenizer import load_tokenizer

GOOD_CLASS = 1
"""The entry of a two-class head that means a good step."""


class TaggedPRM:
    """A `Scorer`: softmax over good and bad at each step's tag, first entry."""

    def __init__(
        self, model: Any, tokenizer: Any, prm_format: PRMFormat, name: str, batch_tokens: int = 8192, packs_trees: bool = True
    ) -> None:
        """`batch_tokens` bounds the padded tokens of one forward pass; `packs_trees` False computes every solution alone."""
        self.name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.layout = Layout(tokenizer, prm_format)
        self._batch_tokens, self._packs_trees = batch_tokens, packs_trees
        self._longest_seen: int | None = None
        self._takes_trees_seen = False

    @property
    def format(self) -> PRMFormat:
        return self.layout.format

    @classmethod
    def load(cls, directory: str | Path, device: str = "auto", batch_tokens: int = 8192) -> Self:
        """Load a PRM saved by `forkpoint train`; `batch_tokens` bounds the padded tokens of one forward pass."""
        directory = Path(directory)
        prm_format = PRMFormat.load(directory)
        model_class = model_class_of(prm_format)
        resolved = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        model = model_class.from_pretrained(directory, dtype="auto").to(resolved)
        return cls(
            model,
            load_tokenizer(directory),
            prm_format,
            f"{directory.resolve().name}-{fingerprint(directory)}",
            batch_tokens,
        )

    def score(
        self, questions: Sequence[str], steps: Sequence[Sequence[str]], on_batch: Callable[[int], None] | None = None
    ) -> list[list[float]]:
        """One score in [0, 1] per step of each solution, in the order given.

        Every solution is laid out before the first one is scored: LayoutError names the first that does not fit.
        `on_batch` is called with the number of solutions of each batch that is done.
        """
        encoded = [self.layout.encode(question, its_steps) for question, its_steps in zip(questions, steps, strict=True)]
        groups = group_rows(questions, encoded, self._batch_tokens if self._packs_trees else 1)
        if any(len(group) > 1 for group in groups) and not self._takes_trees(max(len(row.input_ids) for row in encoded)):
            groups = [[idx] for idx in range(len(encoded))]
        packs = [pack([encoded[idx] for idx in group]) for group in groups]
        scores: list[list[float]] = [[] for _ in encoded]
        for batch in _length_sorted(packs, self._batch_tokens):
            for pack_idx, its_scores in zip(batch, self._score_batch([packs[pack_idx] for pack_idx in batch]), strict=True):
                for idx, row_scores in zip(groups[pack_idx], its_scores, strict=True):
                    scores[idx] = row_scores
            if on_batch:
                on_batch(sum(len(groups[pack_idx]) for pack_idx in batch))
        return scores

    def num_tokens(self, question: str, steps: Sequence[str]) -> int:
        """Tokens that scoring a solution alone takes, tags included."""
        return len(self.layout.encode(question, steps).input_ids)

    def _takes_trees(self, longest: int) -> bool:
        """Whether the model honours a tree mask for rows of up to `longest` tokens; looked at once per size that is new."""
        if self._longest_seen is None or longest > self._longest_seen:
            self._longest_seen, self._takes_trees_seen = longest, takes_tree_mask(self.model, longest)
        return self._takes_trees_seen

    @torch.inference_mode()
    def _score_batch(self, packs: Sequence[Pack]) -> list[list[list[float]]]:
        """Per pack, per row, one score per step."""
        inputs = model_inputs(packs, self.layout.tag_id, self.model.dtype)
        rows_K, columns_K = tag_places(packs)
        device = self.model.device
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        logits_K_2 = tag_logits(self.model, self.layout, inputs, rows_K.to(device), columns_K.to(device))
        scores_K = iter(logits_K_2.softmax(-1)[:, 0].tolist())
        return [[[next(scores_K) for _ in tags] for tags in item.tags] for item in packs]


def tag_logits(model: Any, layout: Layout, inputs: dict[str, torch.Tensor], rows_K: torch.Tensor, columns_K: torch.Tensor) -> torch.Tensor:
    """The (good, bad) logits at K places (row and column of the inputs): [K, 2], float32.

    The language model's head is computed only at columns where some row of the batch has a tag.
    """
    if layout.good_bad_ids is None:
        logits_B_T_2: torch.Tensor = model(**inputs).logits
        return logits_B_T_2[rows_K, columns_K].float()[:, [GOOD_CLASS, 1 - GOOD_CLASS]]
    kept, kept_K = torch.unique(columns_K, return_inverse=True)
    logits_B_C_V: torch.Tensor = model(**inputs, logits_to_keep=kept, use_cache=False).logits
    return logits_B_C_V[rows_K, kept_K][:, list(layout.good_bad_ids)].float()


def model_class_of(prm_format: PRMFormat) -> Any:
    """The transformers auto class whose head the format reads."""
    return AutoModelForCausalLM if prm_format.head == "tokens" else AutoModelForTokenClassification


def _length_sorted(packs: Sequence[Pack], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, so that memory runs out at once or never."""
    batch: list[int] = []
    for idx in sorted(range(len(packs)), key=lambda idx: -len(packs[idx])):
        if batch and (len(batch) + 1) * len(packs[batch[0]]) > batch_tokens:
            yield batch
            batch = []
        batch.append(idx)
    if batch:
        yield batch
