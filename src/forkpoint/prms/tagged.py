"""Our own PRM: a causal language model that is read at step tags.

Invariant: one forward pass per solution gives all its step scores, and scores do not depend on what else is in the
batch (beyond float rounding) nor on the order of the input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from forkpoint.fingerprint import fingerprint
from forkpoint.prms.layout import EncodedSolution, Layout, PRMFormat
from forkpoint.tokenizer import load_tokenizer

GOOD_CLASS = 1
"""The entry of a two-class head that means a good step."""


class TaggedPRM:
    """A `Scorer`: softmax over good and bad at each step's tag, first entry."""

    def __init__(self, model: Any, tokenizer: Any, prm_format: PRMFormat, name: str, batch_tokens: int = 8192) -> None:
        self.name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.layout = Layout(tokenizer, prm_format)
        self._batch_tokens = batch_tokens

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
        scores: list[list[float]] = [[] for _ in encoded]
        for idxs in _length_sorted(encoded, self._batch_tokens):
            batch = [encoded[idx] for idx in idxs]
            for idx, its_scores in zip(idxs, self._score_batch(batch), strict=True):
                scores[idx] = its_scores
            if on_batch:
                on_batch(len(idxs))
        return scores

    @torch.inference_mode()
    def _score_batch(self, batch: Sequence[EncodedSolution]) -> list[list[float]]:
        device = self.model.device
        length = max(len(item.input_ids) for item in batch)
        input_ids_B_T = torch.full((len(batch), length), self.layout.tag_id)
        mask_B_T = torch.zeros((len(batch), length), dtype=torch.long)
        is_tag_B_T = torch.zeros((len(batch), length), dtype=torch.bool)
        for row_idx, item in enumerate(batch):
            input_ids_B_T[row_idx, : len(item.input_ids)] = torch.tensor(item.input_ids)
            mask_B_T[row_idx, : len(item.input_ids)] = 1
            is_tag_B_T[row_idx, item.tag_positions] = True
        logits_K_2 = tag_logits(self.model, self.layout, input_ids_B_T.to(device), mask_B_T.to(device), is_tag_B_T.to(device))
        scores_K = logits_K_2.softmax(-1)[:, 0].tolist()
        ends = torch.tensor([0, *(len(item.tag_positions) for item in batch)]).cumsum(0).tolist()
        return [scores_K[start:end] for start, end in itertools.pairwise(ends)]


def tag_logits(model: Any, layout: Layout, input_ids_B_T: torch.Tensor, mask_B_T: torch.Tensor, is_tag_B_T: torch.Tensor) -> torch.Tensor:
    """The (good, bad) logits at every tag, row by row in order of position: [num_tags, 2], float32.

    The language model's head is computed only at positions where some row of the batch has a tag.
    """
    if layout.good_bad_ids is None:
        logits_B_T_2: torch.Tensor = model(input_ids=input_ids_B_T, attention_mask=mask_B_T).logits
        return logits_B_T_2[is_tag_B_T].float()[:, [GOOD_CLASS, 1 - GOOD_CLASS]]
    kept_K = is_tag_B_T.any(0).nonzero().squeeze(1)
    logits_B_K_V: torch.Tensor = model(input_ids=input_ids_B_T, attention_mask=mask_B_T, logits_to_keep=kept_K, use_cache=False).logits
    return logits_B_K_V[:, :, list(layout.good_bad_ids)].float()[is_tag_B_T[:, kept_K]]


def model_class_of(prm_format: PRMFormat) -> Any:
    """The transformers auto class whose head the format reads."""
    return AutoModelForCausalLM if prm_format.head == "tokens" else AutoModelForTokenClassification


def _length_sorted(encoded: Sequence[EncodedSolution], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, longest first, so that memory runs out at once or never."""
    order = sorted(range(len(encoded)), key=lambda idx: -len(encoded[idx].input_ids))
    batch: list[int] = []
    for idx in order:
        longest = len(encoded[batch[0] if batch else idx].input_ids)
        if batch and (len(batch) + 1) * longest > batch_tokens:
            yield batch
            batch = []
        batch.append(idx)
    if batch:
        yield batch
