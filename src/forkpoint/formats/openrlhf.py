"""ER-PRM and OpenRLHF: a text with tags, and a list with one value per tag.

ER-PRM (arXiv 2412.11006, repository hanningzhang/ER-PRM) has `text` and `value`, a list of numbers. OpenRLHF
(repository OpenRLHF/OpenRLHF, `train_prm`) reads the columns that `--input_key` and `--label_key` name, in
its example `input` and `value`; the list holds numbers, or `+` and `-`. The text is laid out as in
Math-Shepherd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.formats.cells import items, text
from forkpoint.formats.codec import Columns, hard_labels, sign_value, solution_of
from forkpoint.formats.options import option
from forkpoint.formats.text_codec import TaggedText
from forkpoint.records import LabelledSolution
from forkpoint.row_files import Row


@dataclass(frozen=True, kw_only=True)
class OpenRLHF(TaggedText):
    """Soft or hard labels in a list, next to a text with tags."""

    input_key: str = option("input")
    """The name of the column that holds the text; it is `text` in the files of ER-PRM."""
    label_key: str = option("value")
    """The name of the column that holds the labels."""
    threshold: float | None = option(None, "write")
    """Labels of at least this value are written as `+`, others as `-`. None writes the labels as numbers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        keys = [self.input_key, self.label_key, *self.extra_columns]
        if len(set(keys)) < len(keys):
            raise ValueError(
                "input_key and label_key must name two columns of their own; "
                f"{self.input_key} and {self.label_key} were given"
            )

    @property
    def columns(self) -> Columns:
        values = [float] if self.threshold is None else [str]
        return {self.input_key: str, self.label_key: values, **self.extra_columns}

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        with_tags = self.tagged(solution)
        values: list[Any] = [label.value for label in solution.labels]
        if self.threshold is not None:
            values = ["+" if right else "-" for right in hard_labels(solution, self.threshold)]
        return {self.input_key: with_tags, self.label_key: values, **self.extra_values(solution)}

    def from_row(self, row: Row) -> LabelledSolution:
        question, steps = self.untagged(text(row, self.input_key), row)
        values = [
            sign_value(value) if isinstance(value, str) else value for value in items(row, self.label_key)
        ]
        return solution_of(row, question, steps, values)
