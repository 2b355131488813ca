"""Skywork-o1-Open-PRM: a Qwen2 with a value head, read at the line end after each step.

Checkpoints: Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B and -7B (repository
SkyworkAI/skywork-o1-prm-inference). Lines are tokenized apart and each line end is one token. A step of
several lines is read at its last one; the authors' script reads each line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from forkpoint.prms.family import Family, load_weights, max_length_of


class ValueHead(nn.Module):
    """A linear layer that gives one number per token."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.summary = nn.Linear(hidden_size, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.summary(hidden)
        return value


class Qwen2ForPrmModel(Qwen2PreTrainedModel):
    """A value head on the last hidden states."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.v_head = ValueHead(config.hidden_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, use_cache: bool = False, **inputs: Any) -> TokenClassifierOutput:
        """Return logits [B, T, 1]; takes the inputs of `Qwen2Model`."""
        return TokenClassifierOutput(
            logits=self.v_head(self.model(**inputs, use_cache=use_cache).last_hidden_state)
        )


class Skywork(Family):
    """The question and the steps as lines."""

    name = "skywork"
    aggregate = "mean"

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        super().__init__(tokenizer, max_length)
        self._newline_id = self.one_token("\n", "line end")

    @classmethod
    def load(cls, path_or_id: str | Path, tokenizer: Any, dtype: str) -> tuple[Any, Self]:
        model = load_weights(Qwen2ForPrmModel, path_or_id, dtype, cls.name)
        return model, cls(tokenizer, max_length_of(model))

    def lay_out(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        input_ids = list(
            self.tokenizer.encode(
                (self.tokenizer.bos_token or "") + question + "\n", add_special_tokens=False
            )
        )
        positions = []
        for step in steps:
            for line in step.split("\n"):
                input_ids += [*self.tokenizer.encode(line, add_special_tokens=False), self._newline_id]
            positions.append(len(input_ids) - 1)
        return input_ids, positions

    def read(
        self, model: Any, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor
    ) -> torch.Tensor:
        hidden_B_T_D: torch.Tensor = model.model(**inputs, use_cache=False).last_hidden_state
        values_K_1: torch.Tensor = model.v_head(hidden_B_T_D[rows_K, columns_K])
        return values_K_1.float().sigmoid()[:, 0]
