"""Label in a plain loop over prefixes, as research scripts do.

The scripts are those of Math-Shepherd (arXiv 2312.08935) and ER-PRM (2412.11006). Each prefix is one request:
its completions are the `num_return_sequences` of one `generate` call of transformers, which starts from the
prompt. No prefix reuses keys and values of another, and calls run one after another. `label_in_batches` is
the most that `generate` allows without another engine: equal prefixes once, and several of similar length per
call, padded on the left. Nothing is journaled, so a stopped run cannot be continued.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from forkpoint.grading.grade import grade_all


@dataclass(frozen=True, slots=True)
class Start:
    """A prefix to complete and judge."""

    ids: tuple[int, ...]
    """Token ids of the prompt and the solution so far."""
    text: str
    """The text of the solution so far."""
    answer: str
    grader: str
    max_tokens: int
    """Largest number of tokens of a completion."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of completing some prefixes, with the share of right completions of each."""

    shares: list[float]
    num_sampled_tokens: int


@dataclass(frozen=True)
class Loop:
    """A model and its tokenizer; completions are drawn from the untruncated softmax at a temperature."""

    model: PreTrainedModel
    tokenizer: Any
    num_rollouts: int = 16
    temperature: float = 1.0

    def label_one_by_one(self, starts: Sequence[Start]) -> Found:
        """Complete every prefix in turn, including repeated ones."""
        found = [self._label([start]) for start in starts]
        return Found([item.shares[0] for item in found], sum(item.num_sampled_tokens for item in found))

    def label_in_batches(self, starts: Sequence[Start], num_rows: int) -> Found:
        """Complete distinct prefixes in order of length, `num_rows // num_rollouts` at a time."""
        distinct = sorted(set(starts), key=lambda start: len(start.ids))
        size = max(1, num_rows // self.num_rollouts)
        found = [self._label(distinct[first : first + size]) for first in range(0, len(distinct), size)]
        shares = dict(zip(distinct, (share for item in found for share in item.shares), strict=True))
        return Found([shares[start] for start in starts], sum(item.num_sampled_tokens for item in found))

    def _label(self, starts: Sequence[Start]) -> Found:
        """Call `generate` once; a row is cut at its end token, and at the token limit of its prefix."""
        eos_id, pad_id = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        width = max(len(start.ids) for start in starts)
        ids_B_T = torch.tensor(
            [[pad_id] * (width - len(start.ids)) + list(start.ids) for start in starts],
            device=self.model.device,
        )
        mask_B_T = torch.tensor(
            [[0] * (width - len(start.ids)) + [1] * len(start.ids) for start in starts],
            device=self.model.device,
        )
        output_N_T = self.model.generate(  # type: ignore[operator]
            input_ids=ids_B_T,
            attention_mask=mask_B_T,
            max_new_tokens=max(start.max_tokens for start in starts),
            do_sample=True,
            temperature=self.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=self.num_rollouts,
        )
        shares, num_sampled_tokens = [], 0
        rows = output_N_T[:, width:].tolist()
        for idx, start in enumerate(starts):
            completions = [
                row[: start.max_tokens]
                for row in rows[idx * self.num_rollouts : (idx + 1) * self.num_rollouts]
            ]
            ended = [row[: row.index(eos_id) + 1] if eos_id in row else row for row in completions]
            texts = self.tokenizer.batch_decode(
                ended, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            verdicts = grade_all([(start.answer, start.text + text) for text in texts], start.grader)
            shares.append(sum(verdict.is_correct for verdict in verdicts) / len(verdicts))
            num_sampled_tokens += sum(map(len, ended))
        return Found(shares, num_sampled_tokens)
