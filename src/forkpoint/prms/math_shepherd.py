"""Language models that predict `+` or `-` at the tag ` ки` after each step: Math-Shepherd and ER-PRM.

The text is the question, a space, and the steps, each followed by the tag; the score is read at the tag, by
softmax over the logits of good and bad. Checkpoints: peiyi9979/math-shepherd-mistral-7b-prm (arXiv
2312.08935) and HanningZhang/Llama3.1-Math-PRM (arXiv 2412.11006). Both were trained on steps that begin with
`Step 1: ` and so on; nothing is added to the steps that are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import AutoModelForCausalLM

from forkpoint.prms.family import Family, load_weights, max_length_of, token_pair_scores

TAG = " ки"


class MathShepherd(Family):
    """Steps on lines of their own, in the vocabulary of Mistral (tag 12902, `+` 648, `-` 387)."""

    name = "math-shepherd"
    aggregate = "min"
    separator: ClassVar[str] = "\n"
    tokens: ClassVar[tuple[str, str, str]] = ("ки", "+", "-")
    """Tag, good and bad without a space before them: SentencePiece adds it when it reads them alone."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        super().__init__(tokenizer, max_length)
        self.tag_id, self.good_id, self.bad_id = (self.one_token(text, "token") for text in self.tokens)
        self.reserved.append(TAG)

    @classmethod
    def load(cls, path_or_id: str | Path, tokenizer: Any, dtype: str) -> tuple[Any, Self]:
        model = load_weights(AutoModelForCausalLM, path_or_id, dtype, cls.name)
        return model, cls(tokenizer, max_length_of(model))

    def lay_out(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        text = f"{question} " + self.separator.join(step + TAG for step in steps)
        input_ids = list(self.tokenizer.encode(text))
        return input_ids, [position for position, token_id in enumerate(input_ids) if token_id == self.tag_id]

    def read(
        self, model: Any, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor
    ) -> torch.Tensor:
        return token_pair_scores(model, inputs, rows_K, columns_K, self.good_id, self.bad_id)


class ErPRM(MathShepherd):
    """Steps without line ends between them, in the vocabulary of Llama 3 (tag 116624, ` +` 489, ` -` 482)."""

    name = "er-prm"
    separator = ""
    tokens = (TAG, " +", " -")
