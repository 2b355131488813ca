"""ER-PRM and OpenRLHF: a text with tags, and a list with one value per tag.

ER-PRM (arXiv 2412.11006, repository hanningzhang/ER-PRM) has `text` and `value`, a list of numbers; OpenRLHF
(repository OpenRLHF/OpenRLHF, `train_prm`) takes the columns that `--input_key` and `--label_key` name, in its example
`input` and `value`, with numbers or `+` and `-` in the list. The text is that of Math-Shepherd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.formats.cells import items, text
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
class OpenRLHF:
    """Soft or hard labels in a list beside a text with tags."""

    input_key: str = option("input")
    """The column of the text; `text` in ER-PRM's own files."""
    label_key: str = option("value")
    tag: str = option("ки")
    first_step: str = option("Step 1:")
    """What the solution begins with, after the question; empty: nothing marks it (see `layout.split_question`)."""
    threshold: float | None = option(None, "write")
    """None: the labels as numbers. Else `+` for labels of at least this, and `-`."""
    extras: bool = option(False, "write")
    """Whether to write problem_id, question and is_correct in columns of their own too."""

    def __post_init__(self) -> None:
        check_tag(self.tag)
        check_threshold(self.threshold)
        keys = [self.input_key, self.label_key, *(EXTRA_COLUMNS if self.extras else ())]
        if len(set(keys)) < len(keys):
            raise ValueError(
                f"input_key and label_key must name two columns of their own; {self.input_key} and {self.label_key} were given"
            )

    @property
    def columns(self) -> Columns:
        values = [float] if self.threshold is None else [str]
        return {self.input_key: str, self.label_key: values, **(EXTRA_COLUMNS if self.extras else {})}

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        check_question(solution, self.first_step, self.extras)
        values: list[Any] = [label.value for label in solution.labels]
        if self.threshold is not None:
            values = ["+" if right else "-" for right in hard_labels(solution, self.threshold)]
        extras = extras_of(solution) if self.extras else {}
        return {self.input_key: tagged(solution, self.tag), self.label_key: values, **extras}

    def from_row(self, row: Row) -> LabelledSolution:
        head, *steps = untagged(text(row, self.input_key), self.tag)
        values = [
            sign_value(value) if isinstance(value, str) else value for value in items(row, self.label_key)
        ]
        question, first = split_question(head, row, self.first_step)
        return solution_of(row, question, [first, *steps], values)
