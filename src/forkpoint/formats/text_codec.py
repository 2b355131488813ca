"""What the text codecs share: their options, and how they treat the question and the extra columns.

`TextCodec` serves formats with one label per step that is written as right or wrong, `QuestionInText` those
that write the question in front of the first step, `TaggedText` those that also mark the end of each step
with a tag.
Invariant: these classes hold options only; the codecs that inherit them decide what a row looks like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forkpoint.formats.codec import EXTRA_COLUMNS, Columns, check_threshold
from forkpoint.formats.layout import check_question, check_tag, split_question, tagged, untagged
from forkpoint.formats.options import option
from forkpoint.records import LabelledSolution


@dataclass(frozen=True, kw_only=True)
class TextCodec:
    """The options of writing: a threshold for soft labels, and extra columns."""

    threshold: float | None = option(None, "write")
    """Labels of at least this value are right. None means that all labels are 0 or 1 already."""
    extras: bool = option(False, "write")
    """Whether to write problem_id, question and is_correct as columns of their own, too."""

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    @property
    def extra_columns(self) -> Columns:
        """The extra columns if they are written, else no columns."""
        return EXTRA_COLUMNS if self.extras else {}

    def extra_values(self, solution: LabelledSolution) -> dict[str, Any]:
        """The cells of `extra_columns`."""
        return {name: getattr(solution, name) for name in self.extra_columns}


@dataclass(frozen=True, kw_only=True)
class QuestionInText(TextCodec):
    """The question is written in front of the first step."""

    first_step: str = option("Step 1:")
    """The text with which every solution begins, after the question. If it is empty, nothing marks the place
    (see `layout.split_question`)."""

    def check_question(self, solution: LabelledSolution) -> None:
        """Raise ValueError if a reader could not tell the question from the first step."""
        check_question(solution, self.first_step, self.extras)

    def split_question(self, head: str, row: Mapping[str, Any]) -> tuple[str, str]:
        """The question and the first step; see `layout.split_question`."""
        return split_question(head, row, self.first_step)


@dataclass(frozen=True, kw_only=True)
class TaggedText(QuestionInText):
    """Every step ends with a tag."""

    tag: str = option("ки")
    """The word at the end of each step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tag(self.tag)

    def tagged(self, solution: LabelledSolution) -> str:
        """The question and the steps with their tags, as one text."""
        self.check_question(solution)
        return tagged(solution, self.tag)

    def untagged(self, text: str, row: Mapping[str, Any]) -> tuple[str, list[str]]:
        """The question and the steps of a text with tags."""
        head, *steps = untagged(text, self.tag)
        question, first = self.split_question(head, row)
        return question, [first, *steps]
