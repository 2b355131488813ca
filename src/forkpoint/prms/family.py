"""A family of public PRMs: the text that it reads, the position of each step, and the score there.

A family lays a solution out as its authors do; `FamilyPRM` runs any family, one forward pass per solution for
all steps.
Invariant: there is exactly one position per step, or `LayoutError`. Special tokens inside a text, a tag that
is not one token, fewer or more positions than steps, more tokens than the model reads, and missing or unknown
weights are all refused, since a score read at the wrong position looks like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from forkpoint.checkpoint import load_pretrained
from forkpoint.errors import LayoutError, TooLongError
from forkpoint.prms.layout import EncodedSolution, PRMFormat
from forkpoint.prms.longest_token import longest_token, refuse_long_text
from forkpoint.prms.packed import PackedPRM
from forkpoint.select import Aggregate
from forkpoint.steps import Segmentation

HARMLESS = ("lm_head.", "rotary_emb.inv_freq")
"""Name parts of weights that a checkpoint may hold although no PRM needs them."""


class Family(ABC):
    """How one kind of PRM reads solutions; its separator replaces white space around a step."""

    name: ClassVar[str]
    aggregate: ClassVar[Aggregate]
    """The aggregate of step scores that the family's authors use."""
    threshold: ClassVar[float] = 0.5
    """Steps with a lower score count as wrong."""
    segmentation: ClassVar[Segmentation] = "newline"
    batch_tokens: ClassVar[int] = 8192
    """Padded tokens of one forward pass at most."""
    packs_trees: ClassVar[bool] = True
    """Whether a score depends only on the tokens before its position, and through the model's attention
    alone."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self._longest_token = longest_token(tokenizer)
        self.reserved = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        """Texts that a question or a step must not contain."""

    @classmethod
    @abstractmethod
    def load(cls, path_or_id: str | Path, tokenizer: Any, dtype: str) -> tuple[Any, Self]:
        """Load the model in a directory or on the hub, and bind the family to its tokenizer.

        Subclasses may take options. LayoutError if the weights or the tokenizer are not those of the family.
        """

    @abstractmethod
    def lay_out(self, question: str, steps: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return token ids, and the position of each step's score; steps come without outer white space."""

    @abstractmethod
    def read(
        self, model: Any, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor
    ) -> torch.Tensor:
        """Return scores in [0, 1], float32 [K], at K positions (row and column of the inputs)."""

    def encode(self, question: str, steps: Sequence[str]) -> EncodedSolution:
        """Lay a solution out and check it.

        LayoutError if there are no steps, if a text contains a reserved token, or if positions do not fit
        steps; TooLongError if the solution has more tokens than the model reads.
        """
        if not steps:
            raise LayoutError("a solution without steps cannot be scored; give at least one step")
        steps = [step.strip() for step in steps]
        # a chat template may drop white space around the question
        num_characters = len(question.strip()) + sum(map(len, steps))
        refuse_long_text(num_characters, self._longest_token, self.max_length)
        for where, text in [
            ("the question", question),
            *((f"step {number}", step) for number, step in enumerate(steps, start=1)),
        ]:
            for token in self.reserved:
                if token in f" {text}":
                    raise LayoutError(
                        f"{where} contains {token!r}, which has a meaning of its own in the {self.name} "
                        "layout: remove it"
                    )
        input_ids, positions = self.lay_out(question, steps)
        if len(positions) != len(steps):
            raise LayoutError(
                f"the {self.name} layout gives {len(positions)} places for {len(steps)} steps with this "
                "tokenizer: some text runs into a tag or looks like one, "
                "so no score could be told from another"
            )
        if len(input_ids) > self.max_length:
            raise TooLongError(
                f"the solution takes {len(input_ids)} tokens in the {self.name} layout, and the model reads "
                f"{self.max_length}; a cut would lose steps, so it is refused: leave it out"
            )
        return EncodedSolution(input_ids, positions)

    def one_token(self, text: str, what: str) -> int:
        """Return the id of a text that must be one known token. LayoutError if it is not."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
            raise LayoutError(
                f"the {what} {text!r} of the {self.name} family is {ids} for this tokenizer "
                "and must be one token"
            )
        return int(ids[0])


class FamilyPRM(PackedPRM):
    """A `Scorer` that reads a model as its family does."""

    def __init__(self, model: Any, family: Family, name: str, batch_tokens: int | None = None) -> None:
        """`batch_tokens` bounds the padded tokens of one forward pass; None takes the family's number."""
        super().__init__(
            model, name, 0, family.batch_tokens if batch_tokens is None else batch_tokens, family.packs_trees
        )
        self.family = family

    @property
    def format(self) -> PRMFormat:
        """How its steps are cut and their scores aggregated; the family lays the text out."""
        return PRMFormat(
            segmentation=self.family.segmentation,
            aggregate=self.family.aggregate,
            max_length=self.family.max_length,
        )

    def encode(self, question: str, steps: Sequence[str]) -> EncodedSolution:
        return self.family.encode(question, steps)

    def read(self, inputs: dict[str, Any], rows_K: torch.Tensor, columns_K: torch.Tensor) -> torch.Tensor:
        return self.family.read(self.model, inputs, rows_K, columns_K)


def load_weights(model_class: Any, path_or_id: str | Path, dtype: str, family: str) -> Any:
    """Load a transformers model whose weights are exactly those of the checkpoint.

    LayoutError if weights are missing or left over: a head with random weights gives numbers too.
    """
    model, found = load_pretrained(model_class, path_or_id, dtype=dtype, output_loading_info=True)
    missing = sorted(found["missing_keys"])
    left_over = sorted(key for key in found["unexpected_keys"] if not any(part in key for part in HARMLESS))
    if missing or left_over:
        what = " and ".join(
            f"{verb} {', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''}"
            for verb, keys in (("lacks", missing), ("also holds", left_over))
            if keys
        )
        raise LayoutError(
            f"{path_or_id} is no PRM of the {family} family: it {what}; name the family that it is of"
        )
    return model


def max_length_of(model: Any) -> int:
    """Return how many tokens the model reads at most."""
    return int(model.config.get_text_config().max_position_embeddings)


def token_logits(
    model: Any,
    inputs: dict[str, Any],
    rows_K: torch.Tensor,
    columns_K: torch.Tensor,
    token_ids: Sequence[int],
) -> torch.Tensor:
    """Return a language model's logits of some tokens at K positions: [K, tokens], float32.

    The language model's head is computed only at columns at which some row of the batch is read.
    """
    kept, kept_K = torch.unique(columns_K, return_inverse=True)
    logits_B_C_V: torch.Tensor = model(**inputs, logits_to_keep=kept, use_cache=False).logits
    return logits_B_C_V[rows_K, kept_K][:, list(token_ids)].float()


def token_pair_scores(
    model: Any,
    inputs: dict[str, Any],
    rows_K: torch.Tensor,
    columns_K: torch.Tensor,
    good_id: int,
    bad_id: int,
) -> torch.Tensor:
    """Return the probability of a good against a bad token, by softmax, at K positions: [K], float32."""
    return token_logits(model, inputs, rows_K, columns_K, (good_id, bad_id)).softmax(-1)[:, 0]
