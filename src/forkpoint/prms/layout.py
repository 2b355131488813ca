"""How a solution cut into steps becomes the tokens that a PRM reads, and where its scores are.

The prompt is the question in a template; every step is followed by the step tag; a step's score is read at its tag.
Invariant: prompt, steps and tags are tokenised apart and joined as ids, so there is exactly one tag per step, each at a
known position, whatever the text holds. What does not fit (a tag that is not one token, a text longer than the limit) is
refused with `LayoutError`: a score read at the wrong place looks like any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from forkpoint.errors import LayoutError, TooLongError
from forkpoint.select import AGGREGATES, Aggregate
from forkpoint.steps import SEGMENTATIONS, AnchorRule, Segmentation

Head = Literal["tokens", "classifier"]
FORMAT_FILE = "forkpoint_prm.json"
NUM_KNOWN_TEXTS = 1 << 14
"""Texts whose tokens a layout remembers."""


@dataclass(frozen=True)
class PRMFormat:
    """Everything that must be the same when a PRM is trained and when it is used; saved beside the weights."""

    tag: str = " ки"
    """Follows every step; must be one token (the default is the tag of Math-Shepherd and ER-PRM)."""
    good: str = "+"
    """With head `tokens`: the token whose logit against `bad` is the score; must be one token."""
    bad: str = "-"
    head: Head = "tokens"
    """`tokens`: softmax over the two tokens' logits of the language model's head. `classifier`: a two-class head."""
    template: str = "{question}\n"
    """The prompt, with {question} in it."""
    max_length: int = 2048
    """Tokens of prompt, steps and tags at most; a longer solution is refused, never cut."""
    segmentation: Segmentation = "newline"
    """How the steps that it was trained on were cut."""
    rule: AnchorRule = field(default_factory=AnchorRule)
    """The anchor rule, where the segmentation is `entropy`."""
    aggregate: Aggregate = "min"
    """The aggregate to use where none is asked for."""

    def __post_init__(self) -> None:
        if self.head not in ("tokens", "classifier"):
            raise ValueError(f"head {self.head!r} is unknown; choose from tokens, classifier")
        if self.segmentation not in SEGMENTATIONS:
            raise ValueError(
                f"segmentation {self.segmentation!r} is unknown; choose from {', '.join(SEGMENTATIONS)}"
            )
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"aggregate {self.aggregate!r} is unknown; choose from {', '.join(AGGREGATES)}")
        if "{question}" not in self.template:
            raise ValueError(f"the template must contain {{question}}; {self.template!r} was given")

    def save(self, directory: Path) -> None:
        text = json.dumps({"format_version": 1, **asdict(self)}, ensure_ascii=False, indent=2)
        (directory / FORMAT_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> PRMFormat:
        """Raises LayoutError where the directory is not one of our PRMs or comes from a later version."""
        path = directory / FORMAT_FILE
        if not path.is_file():
            raise LayoutError(f"{directory} is not a PRM saved by forkpoint: it has no {FORMAT_FILE}")
        fields = json.loads(path.read_text(encoding="utf-8"))
        version = fields.pop("format_version", None)
        if version != 1:
            raise LayoutError(f"{path} has format_version {version}; this version of forkpoint reads 1")
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            raise LayoutError(f"{path} has unknown keys: {', '.join(unknown)}")
        return cls(**{**fields, "rule": AnchorRule(**fields["rule"])})


@dataclass(frozen=True, slots=True)
class EncodedSolution:
    """The tokens of one solution and the position of each step's tag among them."""

    input_ids: list[int]
    tag_positions: list[int]


class Layout:
    """A `PRMFormat` bound to a tokenizer."""

    def __init__(self, tokenizer: Any, prm_format: PRMFormat) -> None:
        self._tokenizer = tokenizer
        self._encode = lru_cache(NUM_KNOWN_TEXTS)(
            self._tokenize
        )  # solutions of one tree share their question and most steps
        self.format = prm_format
        self._bos = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
        self.tag_id = self._one_token(prm_format.tag, "step tag")
        self.good_bad_ids = (
            (self._one_token(prm_format.good, "label token"), self._one_token(prm_format.bad, "label token"))
            if prm_format.head == "tokens"
            else None
        )

    def encode(self, question: str, steps: Sequence[str]) -> EncodedSolution:
        """Raises LayoutError where there are no steps or the limit is exceeded."""
        if not steps:
            raise LayoutError("a solution without steps cannot be scored; give at least one step")
        input_ids = [*self._bos, *self._encode(self.format.template.replace("{question}", question))]
        tag_positions = []
        for step in steps:
            input_ids += self._encode(step)
            tag_positions.append(len(input_ids))
            input_ids.append(self.tag_id)
        if len(input_ids) > self.format.max_length:
            raise TooLongError(
                f"the solution takes {len(input_ids)} tokens with its tags, more than max_length {self.format.max_length}; "
                "a cut would lose step tags, so it is refused: raise max_length or leave it out"
            )
        return EncodedSolution(input_ids, tag_positions)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _one_token(self, text: str, what: str) -> int:
        ids = list(self._encode(text))
        if ids == [self._tokenizer.unk_token_id]:
            raise LayoutError(
                f"the {what} {text!r} is unknown to this tokenizer: choose another, or add it as a token of its own"
            )
        if len(ids) != 1:
            raise LayoutError(
                f"the {what} {text!r} is {len(ids)} tokens ({ids}) for this tokenizer and must be one: choose a text that is "
                "one token, or add it to the tokenizer as a token of its own"
            )
        return ids[0]


def _adds_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("", add_special_tokens=True)[:1] == [bos]
