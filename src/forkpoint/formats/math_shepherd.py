"""Math-Shepherd: one text with tags, and the same text with `+` or `-` in their place.

As the data set peiyi9979/Math-Shepherd (arXiv 2312.08935): `input` is the question, a space, and steps that each end in
` ки`, usually followed by a line end; `label` is `input` with a sign for every tag; `task` is GSM8K or MATH.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.formats.cells import text
from forkpoint.formats.codec import (
    EXTRA_COLUMNS,
    Columns,
    Row,
    check_threshold,
    extras_of,
    hard_labels,
    sign_value,
    solution_of,
)
from forkpoint.formats.layout import check_question, check_tag, split_question, tagged, untagged
from forkpoint.formats.options import option
from forkpoint.records import LabelledSolution


@dataclass(frozen=True, kw_only=True)
class MathShepherd:
    """Hard labels in texts with tags; `task` is not kept."""

    tag: str = option("ки")
    first_step: str = option("Step 1:")
    """What the solution begins with, after the question; empty: nothing marks it (see `layout.split_question`)."""
    threshold: float | None = option(None, "write")
    """Labels of at least this are `+`; None: labels are 0 or 1 already."""
    task: str = option("unknown", "write")
    extras: bool = option(False, "write")
    """Whether to write problem_id, question and is_correct in columns of their own too."""

    def __post_init__(self) -> None:
        check_tag(self.tag)
        check_threshold(self.threshold)

    @property
    def columns(self) -> Columns:
        return {"input": str, "label": str, "task": str, **(EXTRA_COLUMNS if self.extras else {})}

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        check_question(solution, self.first_step, self.extras)
        is_right = hard_labels(solution, self.threshold)
        with_tags = tagged(solution, self.tag)
        head, *tails = with_tags.split(self.tag)
        signed = head + "".join(
            ("+" if right else "-") + tail for right, tail in zip(is_right, tails, strict=True)
        )
        return {
            "input": with_tags,
            "label": signed,
            "task": self.task,
            **(extras_of(solution) if self.extras else {}),
        }

    def from_row(self, row: Row) -> LabelledSolution:
        with_tags = text(row, "input")
        head, *steps = untagged(with_tags, self.tag)
        question, first = split_question(head, row, self.first_step)
        return solution_of(row, question, [first, *steps], self._values(with_tags, text(row, "label")))

    def _values(self, with_tags: str, signed: str) -> list[float]:
        """One value per tag, read at the very place of the tag."""
        *pieces, rest = with_tags.split(self.tag)
        values, position = [], 0
        for idx, piece in enumerate(pieces):
            end = position + len(piece)
            if signed[position:end] != piece or signed[end : end + 1] not in ("+", "-"):
                raise ValueError(
                    f"label is not input with + or - for each tag: they part at tag {idx + 1}, {signed[position : end + 1]!r:.80}"
                )
            values.append(sign_value(signed[end]))
            position = end + 1
        if signed[position:] != rest:
            raise ValueError(
                f"label is not input with + or - for each tag: it goes on with {signed[position:]!r:.80}"
            )
        return values
