"""Qwen2.5-Math-PRM: a Qwen2 with a two-layer head, read at `<extra_0>` after each step.

Checkpoints: Qwen/Qwen2.5-Math-PRM-7B, -72B and Qwen2.5-Math-7B-PRM800K (arXiv 2501.07301). The modelling code
is here, so no code of a checkpoint is executed; vLLM serves checkpoints of this layout as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from forkpoint.prms.chat import render
from forkpoint.prms.family import Family, load_weights, max_length_of

TAG = "<extra_0>"
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """Linear, ReLU, Linear on the last hidden states; two classes, of which 1 is good."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, 2)
        )
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, use_cache: bool = False, **inputs: Any) -> TokenClassifierOutput:
        """Return logits [B, T, 2]; takes the inputs of `Qwen2Model`."""
        return TokenClassifierOutput(
            logits=self.score(self.model(**inputs, use_cache=use_cache).last_hidden_state)
        )


class QwenPRM(Family):
    """ChatML: a system prompt, the question, and an answer whose steps each end in `<extra_0>`."""

    name = "qwen"
    aggregate = "min"

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        super().__init__(tokenizer, max_length)
        self.tag_id = self.one_token(TAG, "step tag")
        self.reserved.append(TAG)

    @classmethod
    def load(cls, path_or_id: str | Path, tokenizer: Any, dtype: str) -> tuple[Any, Self]:
        model = load_weights(Qwen2ForProcessRewardModel, path_or_id, dtype, cls.name)
        return model, cls(tokenizer, max_length_of(model))

    def lay_out(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        answer = "".join(step + TAG for step in steps)
        text = render(self.tokenizer, ("system", SYSTEM), ("user", question), ("assistant", answer))
        input_ids = list(self.tokenizer.encode(text))
        return input_ids, [position for position, token_id in enumerate(input_ids) if token_id == self.tag_id]

    def read(
        self, model: Any, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor
    ) -> torch.Tensor:
        hidden_B_T_D: torch.Tensor = model.model(**inputs, use_cache=False).last_hidden_state
        logits_K_2: torch.Tensor = model.score(hidden_B_T_D[rows_K, columns_K])
        return logits_K_2.float().softmax(-1)[:, 1]
