"""How a solution cut into steps becomes the tokens that a PRM reads, and the positions of its scores.

The prompt is the question in a template; every step is followed by the step tag; a step's score is read at
its tag. With the tag "\\n" in the place of line ends, the text is exactly what the policy wrote.
Invariant: prompt, steps and tags are tokenised apart and joined as ids, so there is exactly one tag per step,
each at a known position. A tag that is not one token, a text that contains the tag, and a text longer than
the limit are refused with `LayoutError`: a score read at the wrong position looks like any other, and a tag
inside a step tells the model that the step ends there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from forkpoint.checkpoint import read_json_object
from forkpoint.checks import check_choice
from forkpoint.errors import LayoutError, TooLongError
from forkpoint.prms.known_texts import KnownTexts
from forkpoint.prms.longest_token import longest_token, refuse_long_text
from forkpoint.select import AGGREGATES, Aggregate
from forkpoint.steps import SEGMENTATIONS, AnchorRule, Segmentation

Head = Literal["tokens", "classifier"]
FORMAT_FILE = "forkpoint_prm.json"


@dataclass(frozen=True)
class PRMFormat:
    """The settings that a PRM's training and its use must share; saved beside the weights."""

    tag: str = " ки"
    """The tag that follows every step; must be one token (the default is that of Math-Shepherd and
    ER-PRM)."""
    replaces_line_end: bool = False
    """Whether the tag takes the place of the line end of a step, instead of following it. With the tag
    "\\n" a PRM then reads a solution as its policy wrote it, and learns in fewer steps what the policy knows
    about the next one."""
    good: str = "+"
    """The token whose probability against `bad` is the score, with head `tokens`; must be one token."""
    bad: str = "-"
    """The token of a wrong step, with head `tokens`; must be one token."""
    head: Head = "tokens"
    """The head that is read: `tokens` (softmax over the logits of the two tokens) or `classifier` (a head of
    two classes)."""
    template: str = "{question}\n"
    """The prompt; contains {question}."""
    max_length: int = 2048
    """Number of tokens of prompt, steps and tags at most; a longer solution is refused, never cut."""
    segmentation: Segmentation = "newline"
    """How the steps in the training data were cut."""
    rule: AnchorRule = field(default_factory=AnchorRule)
    """The anchor rule, if the segmentation is `entropy`."""
    aggregate: Aggregate = "min"
    """The aggregate of step scores to use if none is asked for."""

    def __post_init__(self) -> None:
        check_choice("head", self.head, ("tokens", "classifier"))
        check_choice("segmentation", self.segmentation, SEGMENTATIONS)
        check_choice("aggregate", self.aggregate, AGGREGATES)
        if "{question}" not in self.template:
            raise ValueError(f"the template must contain {{question}}; {self.template!r} was given")

    def to_row(self) -> dict[str, Any]:
        """The settings as JSON, as they stand in configurations and beside weights."""
        row = asdict(self)
        if not self.replaces_line_end:
            del row["replaces_line_end"]  # older runs, which are continued, do not have it
        return row

    def save(self, directory: Path) -> None:
        """Write the format beside the weights in a directory."""
        text = json.dumps(
            {"format_version": 1, **self.to_row()}, ensure_ascii=False, indent=2, allow_nan=False
        )
        (directory / FORMAT_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> PRMFormat:
        """Read the format in a directory.

        LayoutError if it holds no PRM of forkpoint, one of a later version, or a format that cannot be read.
        """
        path = directory / FORMAT_FILE
        if not path.is_file():
            raise LayoutError(f"{directory} is not a PRM saved by forkpoint: it has no {FORMAT_FILE}")
        try:
            fields = read_json_object(path)
        except ValueError as error:
            raise LayoutError(str(error)) from None
        version = fields.pop("format_version", None)
        if version != 1:
            raise LayoutError(f"{path} has format_version {version}; this version of forkpoint reads 1")
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            raise LayoutError(f"{path} has unknown keys: {', '.join(unknown)}")
        for name in ("tag", "good", "bad", "template"):
            if not isinstance(fields.get(name, ""), str):
                raise LayoutError(f"{path}: {name} must be a text; it is {fields[name]!r:.60}")
        if type(fields.get("max_length", 1)) is not int:
            raise LayoutError(
                f"{path}: max_length must be a whole number; it is {fields['max_length']!r:.60}"
            )
        try:
            return cls(**{**fields, "rule": AnchorRule(**fields.get("rule", {}))})
        except (TypeError, ValueError) as error:
            raise LayoutError(f"{path} is not the format of a PRM: {error}") from None


@dataclass(frozen=True, slots=True)
class EncodedSolution:
    """The tokens of one solution and the position of each step's tag among them."""

    input_ids: list[int]
    tag_positions: list[int]


class Layout:
    """A `PRMFormat` bound to a tokenizer."""

    def __init__(self, tokenizer: Any, prm_format: PRMFormat) -> None:
        self._tokenizer = tokenizer
        # solutions of one tree share their question and most steps
        self._known = KnownTexts(self._tokenize)
        self._longest_token = longest_token(tokenizer)
        self.format = prm_format
        self._bos = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
        self.tag_id = self._one_token(prm_format.tag, "step tag")
        self.good_bad_ids = (
            (self._one_token(prm_format.good, "label token"), self._one_token(prm_format.bad, "label token"))
            if prm_format.head == "tokens"
            else None
        )

    def encode(self, question: str, steps: Sequence[str]) -> EncodedSolution:
        """Lay a solution out.

        LayoutError if it has no steps or contains the tag, TooLongError if it exceeds the limit.
        """
        if not steps:
            raise LayoutError("a solution without steps cannot be scored; give at least one step")
        refuse_long_text(len(question) + sum(map(len, steps)), self._longest_token, self.format.max_length)
        input_ids = [*self._bos, *self._encode(self.format.template.replace("{question}", question))]
        self._refuse_tag("the question", input_ids)
        tag_positions = []
        for number, step in enumerate(steps, start=1):
            is_cut = self.format.replaces_line_end and step.endswith("\n")
            step_ids = self._encode(step[:-1] if is_cut else step)
            self._refuse_tag(f"step {number}", step_ids)
            input_ids += step_ids
            tag_positions.append(len(input_ids))
            input_ids.append(self.tag_id)
        if len(input_ids) > self.format.max_length:
            raise TooLongError(
                f"the solution takes {len(input_ids)} tokens with its tags, more than max_length "
                f"{self.format.max_length}; a cut would lose step tags, so it is refused: "
                "raise max_length or leave it out"
            )
        return EncodedSolution(input_ids, tag_positions)

    @property
    def is_tag_reserved(self) -> bool:
        """Whether the tag may occur only as a tag. One of white space is part of ordinary steps."""
        return bool(self.format.tag.strip())

    def _refuse_tag(self, where: str, ids: Sequence[int]) -> None:
        if self.tag_id in ids and self.is_tag_reserved:
            raise LayoutError(
                f"{where} contains {self.format.tag!r}, the step tag of this PRM, which would end a step "
                "there: remove it"
            )

    def _encode(self, text: str) -> tuple[int, ...]:
        return self._known.tokens(text)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _one_token(self, text: str, what: str) -> int:
        ids = list(self._encode(text))
        if ids == [self._tokenizer.unk_token_id]:
            raise LayoutError(
                f"the {what} {text!r} is unknown to this tokenizer: "
                "choose another, or add it as a token of its own"
            )
        if len(ids) != 1:
            raise LayoutError(
                f"the {what} {text!r} is {len(ids)} tokens ({ids}) for this tokenizer and must be one: "
                "choose a text that is one token, or add it to the tokenizer as a token of its own"
            )
        return ids[0]


def _adds_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("", add_special_tokens=True)[:1] == [bos]
