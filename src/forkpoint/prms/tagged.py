"""Our own PRM: a causal language model, or a two-class token classifier, that is read at step tags."""

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
"""The entry of a two-class head that means a good step."""


class TaggedPRM(PackedPRM):
    """A `Scorer`: softmax over good and bad at each step's tag, first entry."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prm_format: PRMFormat,
        name: str,
        batch_tokens: int = 8192,
        packs_trees: bool = True,
    ) -> None:
        """`batch_tokens` bounds the padded tokens of one forward pass; `packs_trees` False computes every solution alone."""
        self.tokenizer = tokenizer
        self.layout = Layout(tokenizer, prm_format)
        super().__init__(model, name, self.layout.tag_id, batch_tokens, packs_trees)

    @property
    def format(self) -> PRMFormat:
        return self.layout.format

    @classmethod
    def load(cls, directory: str | Path, device: str = "auto", batch_tokens: int = 8192) -> Self:
        """Load a PRM saved by `forkpoint train`; `batch_tokens` bounds the padded tokens of one forward pass."""
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
    """The (good, bad) logits at K places (row and column of the inputs): [K, 2], float32."""
    if layout.good_bad_ids is None:
        logits_B_T_2: torch.Tensor = model(**inputs).logits
        return logits_B_T_2[rows_K, columns_K].float()[:, [GOOD_CLASS, 1 - GOOD_CLASS]]
    return token_logits(model, inputs, rows_K, columns_K, layout.good_bad_ids)


def model_class_of(prm_format: PRMFormat) -> Any:
    """The transformers auto class whose head the format reads."""
    return AutoModelForCausalLM if prm_format.head == "tokens" else AutoModelForTokenClassification
