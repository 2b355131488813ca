"""ProcessBench: the steps of a solution and the index of the first wrong one.

This is the format of the data set Qwen/ProcessBench (arXiv 2412.06559): `id`, `generator`, `problem`,
`steps`, `final_answer_correct`, and `label`, the 0-based index of the first wrong step or -1. Steps are
published without the blank lines between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.formats.cells import flag, text, whole
from forkpoint.formats.codec import (
    Columns,
    check_threshold,
    first_error_values,
    hard_labels,
    solution_of,
    texts_of,
)
from forkpoint.formats.layout import separated, unseparated
from forkpoint.formats.options import option
from forkpoint.records import LabelledSolution
from forkpoint.row_files import Row


@dataclass(frozen=True, kw_only=True)
class ProcessBench:
    """Labels that say where the first error is: steps before it are read as 1, it and all later ones as 0.

    Nobody judged the steps after the first error.
    """

    separator: str = option("\n\n")
    """The text between steps, which the list of steps leaves out."""
    threshold: float | None = option(None, "write")
    """The first step with a label below this value is the first wrong one. None means that all labels are 0
    or 1 already."""
    generator: str = option("unknown", "write")
    """The model that wrote the solutions, which our records do not name."""

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    @property
    def columns(self) -> Columns:
        return {
            "id": str,
            "generator": str,
            "problem": str,
            "steps": [str],
            "final_answer_correct": bool,
            "label": int,
        }

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        is_right = hard_labels(solution, self.threshold)
        return {
            "id": solution.problem_id,
            "generator": self.generator,
            "problem": solution.question,
            "steps": unseparated(solution.steps, self.separator),
            "final_answer_correct": solution.is_correct,
            "label": -1 if all(is_right) else is_right.index(False),
        }

    def from_row(self, row: Row) -> LabelledSolution:
        texts, first_wrong_idx = texts_of(row, "steps"), whole(row, "label")
        values = first_error_values(len(texts), None if first_wrong_idx == -1 else first_wrong_idx)
        extras = {"problem_id": text(row, "id"), "is_correct": flag(row, "final_answer_correct")}
        return solution_of(extras, text(row, "problem"), separated(texts, self.separator), values)
