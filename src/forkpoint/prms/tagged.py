"""The PRM that forkpoint trains: a causal language model or a token classifier, read at step tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from forkpoint.checkpoint import device_named, fingerprint, load_tokenizer
from forkpoint.prms.family import load_weights, token_logits
from forkpoint.prms.layout import EncodedSolution, Layout, PRMFormat
from forkpoint.prms.packed import PackedPRM

GOOD_CLASS = 1
"""The index of a good step in a head of two classes."""


class TaggedPRM(PackedPRM):
    """A `Scorer` whose score is the probability of good against bad, by softmax, at each step's tag."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prm_format: PRMFormat,
        name: str,
        batch_tokens: int = 8192,
        packs_trees: bool = True,
    ) -> None:
        """`batch_tokens` bounds the padded tokens of one forward pass.

        Without `packs_trees` no solutions share prefixes.
        """
        self.tokenizer = tokenizer
        self.layout = Layout(tokenizer, prm_format)
        super().__init__(model, name, self.layout.tag_id, batch_tokens, packs_trees)

    @property
    def format(self) -> PRMFormat:
        return self.layout.format

    @classmethod
    def load(cls, directory: str | Path, device: str = "auto", batch_tokens: int = 8192) -> Self:
        """Load a PRM saved by `forkpoint train`; `batch_tokens` bounds the padded tokens of one pass."""
        directory = Path(directory)
        prm_format = PRMFormat.load(directory)
        model = load_weights(model_class_of(prm_format), directory, "auto", "forkpoint").to(
            device_named(device)
        )
        return cls(
            model,
            load_tokenizer(directory),
            prm_format,
            f"{directory.resolve().name}-{fingerprint(directory)}",
            batch_tokens,
        )

    def encode(self, question: str, steps: Sequence[str]) -> EncodedSolution:
        return self.layout.encode(question, steps)

    def read(self, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor) -> torch.Tensor:
        return tag_logits(self.model, self.layout, inputs, rows_K, columns_K).softmax(-1)[:, 0]


def tag_logits(
    model: Any, layout: Layout, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor
) -> torch.Tensor:
    """Return the (good, bad) logits at K positions (row and column of the inputs): [K, 2], float32."""
    if layout.good_bad_ids is None:
        logits_B_T_2: torch.Tensor = model(**inputs).logits
        return logits_B_T_2[rows_K, columns_K].float()[:, [GOOD_CLASS, 1 - GOOD_CLASS]]
    return token_logits(model, inputs, rows_K, columns_K, layout.good_bad_ids)


def model_class_of(prm_format: PRMFormat) -> Any:
    """Return the transformers auto class with the head that the format reads."""
    return AutoModelForCausalLM if prm_format.head == "tokens" else AutoModelForTokenClassification
