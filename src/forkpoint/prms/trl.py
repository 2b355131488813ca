"""TRL's stepwise PRMs, PURE among them: a token classifier, read at the separator after each step.

Question, steps and separators are tokenized apart and joined as ids, as TRL's PRM trainer did (it was removed
from TRL in 2026; arXiv 2211.14275). PURE is jinachris/PURE-PRM-7B (arXiv 2504.15275); its reward p(good) -
p(bad) in [-1, 1] is 2 * score - 1 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForTokenClassification

from forkpoint.errors import LayoutError
from forkpoint.prms.family import Family, load_weights, max_length_of

GOOD_NAMES = frozenset({"label_1", "true", "good", "correct", "right", "positive", "+", "1"})
"""Names in lower case that class 1 may have in the checkpoint's configuration; any other name is refused."""


class TRL(Family):
    """Two classes, of which 1 is good, at the last token of the separator."""

    name = "trl"
    aggregate = "min"
    default_separator = "\n"

    def __init__(self, tokenizer: Any, max_length: int, separator: str | None = None) -> None:
        """`separator` is the `step_separator` of TRL's training, which checkpoints do not record."""
        super().__init__(tokenizer, max_length)
        separator = self.default_separator if separator is None else separator
        self._separator_ids = tokenizer.encode(separator, add_special_tokens=False)
        if not self._separator_ids:
            raise LayoutError(f"the separator {separator!r} has no tokens; steps are read at its last one")

    @classmethod
    def load(
        cls, path_or_id: str | Path, tokenizer: Any, dtype: str, separator: str | None = None
    ) -> tuple[Any, Self]:
        model = load_weights(AutoModelForTokenClassification, path_or_id, dtype, cls.name)
        labels = model.config.id2label
        if len(labels) != 2 or str(labels[1]).lower() not in GOOD_NAMES:
            raise LayoutError(
                f"{path_or_id} has the classes {labels}; the {cls.name} family has two, of which 1 is good"
            )
        return model, cls(tokenizer, max_length_of(model), separator)

    def lay_out(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        bos = self.tokenizer.bos_token_id
        input_ids = [
            *([] if bos is None else [bos]),
            *self.tokenizer.encode(question, add_special_tokens=False),
        ]
        positions = []
        for step in steps:
            input_ids += [*self.tokenizer.encode(step, add_special_tokens=False), *self._separator_ids]
            positions.append(len(input_ids) - 1)
        return input_ids, positions

    def read(
        self, model: Any, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor
    ) -> torch.Tensor:
        logits_B_T_2: torch.Tensor = model(**inputs, use_cache=False).logits
        return logits_B_T_2[rows_K, columns_K].float().softmax(-1)[:, 1]


class Pure(TRL):
    """Steps are separated by empty lines."""

    name = "pure"
    default_separator = "\n\n"
