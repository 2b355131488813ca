"""RLHFlow's PRMs: a conversation whose user turns are steps, and whose assistant answers `+` or `-`.

Checkpoints: RLHFlow/Llama3.1-8B-PRM-Mistral-Data and -Deepseek-Data. A step is read at the token that
predicts the answer to it, by softmax over `+` and `-`. All answers before are `+`, so one forward pass gives
all scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM

from forkpoint.prms.chat import assistant_header, ends_of, render
from forkpoint.prms.family import Family, load_weights, max_length_of, token_pair_scores


class RLHFlow(Family):
    """A conversation whose first turn is the question, a space and the first step."""

    name = "rlhflow"
    aggregate = "mean"

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        super().__init__(tokenizer, max_length)
        self.good_id, self.bad_id = self.one_token("+", "label"), self.one_token("-", "label")
        self._header = assistant_header(tokenizer)

    @classmethod
    def load(cls, path_or_id: str | Path, tokenizer: Any, dtype: str) -> tuple[Any, Self]:
        model = load_weights(AutoModelForCausalLM, path_or_id, dtype, cls.name)
        return model, cls(tokenizer, max_length_of(model))

    def lay_out(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        turns = [
            turn
            for step in (f"{question} {steps[0]}", *steps[1:])
            for turn in (("user", step), ("assistant", "+"))
        ]
        input_ids = list(self.tokenizer.encode(render(self.tokenizer, *turns), add_special_tokens=False))
        return input_ids, [
            end for end in ends_of(self._header, input_ids) if input_ids[end + 1] == self.good_id
        ]

    def read(
        self, model: Any, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor
    ) -> torch.Tensor:
        return token_pair_scores(model, inputs, rows_K, columns_K, self.good_id, self.bad_id)
