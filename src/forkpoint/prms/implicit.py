"""Implicit PRMs: a step's score is how much more probable the text is to a policy than to its reference.

    q_t = beta * sum over tokens i <= t of [ln pi(y_i) - ln pi_ref(y_i)]
    score = sigmoid(q_t)                                                       (arXiv 2412.01981)

Checkpoints: PRIME-RL/EurusPRM-Stage1 and -Stage2 (arXiv 2502.01456), against Qwen/Qwen2.5-Math-7B-Instruct.
The sum begins and ends as in the script of the model card: a step ends one token past its separator, the last
step at the end-of-turn token. The score of a whole solution, beta times its log-ratio, is that of an outcome
reward model: sigmoid(q) is its probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from forkpoint.checkpoint import load_tokenizer
from forkpoint.errors import LayoutError
from forkpoint.prms.chat import assistant_header, ends_of, render
from forkpoint.prms.family import Family, load_weights, max_length_of

REFERENCE = "Qwen/Qwen2.5-Math-7B-Instruct"
SEPARATOR = "\n\n"


class PolicyAndReference(nn.Module):
    """Two language models with the same vocabulary."""

    def __init__(self, policy: Any, reference: Any) -> None:
        super().__init__()
        self.policy, self.reference = policy, reference

    @property
    def device(self) -> torch.device:
        device: torch.device = self.policy.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.policy.dtype
        return dtype


class Implicit(Family):
    """A conversation: the question, and an answer whose steps are joined by an empty line."""

    name = "implicit"
    aggregate = "min"
    batch_tokens = 1024  # both models' logits are needed at every token
    packs_trees = False  # log-ratios are summed along the row

    def __init__(self, tokenizer: Any, max_length: int, beta: float = 0.001) -> None:
        super().__init__(tokenizer, max_length)
        self._beta = beta
        self._header = assistant_header(tokenizer)

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        tokenizer: Any,
        dtype: str,
        reference: str | Path = REFERENCE,
        beta: float = 0.001,
    ) -> tuple[Any, Self]:
        """`reference` is the model that the PRM was trained from, in a directory or on the hub."""
        try:
            reference_tokens = load_tokenizer(reference).get_vocab()
            model = PolicyAndReference(
                load_weights(AutoModelForCausalLM, path_or_id, dtype, cls.name),
                load_weights(AutoModelForCausalLM, reference, dtype, cls.name),
            )
        except OSError as error:
            raise FileNotFoundError(
                f"an implicit PRM needs its reference model; {reference} cannot be loaded: {error}"
            ) from error
        own_tokens = {
            token: idx
            for token, idx in tokenizer.get_vocab().items()
            if token not in tokenizer.get_added_vocab()
        }
        differing = [token for token, idx in own_tokens.items() if reference_tokens.get(token) != idx]
        if differing:
            raise LayoutError(
                f"{reference} cannot be the reference: "
                f"{len(differing)} tokens, such as {differing[0]!r}, differ"
            )
        return model, cls(tokenizer, min(max_length_of(model.policy), max_length_of(model.reference)), beta)

    def lay_out(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        positions = []
        for num_steps in range(1, len(steps) + 1):
            text = self._text(question, steps[:num_steps]).strip() + (
                SEPARATOR if num_steps < len(steps) else ""
            )
            positions.append(len(self._ids(text)) - 1)
        return self._ids(self._text(question, steps)), positions

    def read(
        self, model: Any, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor
    ) -> torch.Tensor:
        ratios_B_T = _log_probabilities(model.policy, inputs) - _log_probabilities(model.reference, inputs)
        for row, row_ids in enumerate(inputs["input_ids"].tolist()):
            ratios_B_T[row, : ends_of(self._header, row_ids)[0]] = 0
        return (self._beta * ratios_B_T.cumsum(-1))[rows_K, columns_K].sigmoid()

    def _text(self, question: str, steps: Sequence[str]) -> str:
        return render(self.tokenizer, ("user", question), ("assistant", SEPARATOR.join(steps)))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def _log_probabilities(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return ln p of every token given those before it, 0 for the first: [B, T], float32."""
    logits_B_T_V = model(**inputs, use_cache=False).logits[:, :-1].float()
    taken_B_T = logits_B_T_V.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
    return nn.functional.pad(taken_B_T - logits_B_T_V.logsumexp(-1), (1, 0))
