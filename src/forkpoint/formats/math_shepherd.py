"""Math-Shepherd: one text with tags, and the same text with `+` or `-` in their place.

This is the format of the data set peiyi9979/Math-Shepherd (arXiv 2312.08935): `input` is the question, a
space, and steps that each end in ` ки`, usually followed by a line end; `label` is `input` with a sign for
every tag; `task` is GSM8K or MATH.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.formats.cells import text
from forkpoint.formats.codec import Columns, hard_labels, sign_value, solution_of
from forkpoint.formats.options import option
from forkpoint.formats.text_codec import TaggedText
from forkpoint.records import LabelledSolution
from forkpoint.row_files import Row


@dataclass(frozen=True, kw_only=True)
class MathShepherd(TaggedText):
    """Hard labels in texts with tags. The column `task` is not kept when rows are read."""

    task: str = option("unknown", "write")
    """The content of the column `task` in every row."""

    @property
    def columns(self) -> Columns:
        return {"input": str, "label": str, "task": str, **self.extra_columns}

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        with_tags = self.tagged(solution)
        is_right = hard_labels(solution, self.threshold)
        head, *tails = with_tags.split(self.tag)
        signed = head + "".join(
            ("+" if right else "-") + tail for right, tail in zip(is_right, tails, strict=True)
        )
        return {
            "input": with_tags,
            "label": signed,
            "task": self.task,
            **self.extra_values(solution),
        }

    def from_row(self, row: Row) -> LabelledSolution:
        with_tags = text(row, "input")
        question, steps = self.untagged(with_tags, row)
        return solution_of(row, question, steps, self._values(with_tags, text(row, "label")))

    def _values(self, with_tags: str, signed: str) -> list[float]:
        """One value per tag, read from `signed` at the position of the tag."""
        *pieces, rest = with_tags.split(self.tag)
        values, position = [], 0
        for idx, piece in enumerate(pieces):
            end = position + len(piece)
            if signed[position:end] != piece or signed[end : end + 1] not in ("+", "-"):
                raise ValueError(
                    f"label is not input with + or - for each tag: they part at tag {idx + 1}, "
                    f"{signed[position : end + 1]!r:.80}"
                )
            values.append(sign_value(signed[end]))
            position = end + 1
        if signed[position:] != rest:
            raise ValueError(
                f"label is not input with + or - for each tag: it goes on with {signed[position:]!r:.80}"
            )
        return values
