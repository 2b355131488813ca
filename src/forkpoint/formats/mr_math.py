"""MR-MATH, for reading only: solutions with the number of the first wrong step.

This is the format of mr-math_invalid_errors.json in GAIR-NLP/ReasonEval (arXiv 2404.05692), whose lines are
rows in spite of the suffix: `model_output_step_format` is a list of steps, each a list of lines, and
`model_output_solution_first_error_step` counts from 1 or is "N/A". All 159 answers are right, so a solution
is right here if no step is wrong. The companion file of redundant steps has ratings instead, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from forkpoint.formats.cells import cell, items, text, whole
from forkpoint.formats.codec import first_error_values, solution_of
from forkpoint.formats.layout import separated
from forkpoint.formats.options import option
from forkpoint.records import LabelledSolution
from forkpoint.row_files import Row

FIRST_ERROR = "model_output_solution_first_error_step"
NO_ERROR = "N/A"


@dataclass(frozen=True, kw_only=True)
class MRMath:
    """Labels that say where the first error is: steps before it are read as 1, it and all later ones as 0."""

    separator: str = option("\n", "read")
    """The text to put between lines and between steps."""

    def from_row(self, row: Row) -> LabelledSolution:
        steps = []
        for number, lines in enumerate(items(row, "model_output_step_format"), start=1):
            if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
                raise ValueError(f"step {number} must be a list of strings; it is {lines!r:.60}")
            steps.append(self.separator.join(lines))
        first_wrong = None if cell(row, FIRST_ERROR) == NO_ERROR else whole(row, FIRST_ERROR)
        return solution_of(
            {"is_correct": first_wrong is None},
            text(row, "question"),
            separated(steps, self.separator),
            first_error_values(len(steps), first_wrong, first=1),
        )
