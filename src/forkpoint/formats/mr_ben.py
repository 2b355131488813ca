"""Mr-Ben, for reading only: solutions of multiple-choice questions with the number of the first wrong step.

This is the format of the subject files in dvlab-research/Mr-Ben (arXiv 2406.13975): one object per file, with
a list of rows per question. `Model_Solution_First_Error_Step` is "N/A" or a number in a string that counts
from 1. It counts headings ("Step 3: ..."), while `Model_Solution_Steps` is a list of lines: in 506 of the
2,572 wrong solutions (math, medicine, physics, biology, chemistry) the line at that place is not the step
with that number. Lines without a heading therefore belong to the step above them. `coding.json` quotes a line
of code instead of a number, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.formats.cells import text
from forkpoint.formats.codec import first_error_values, solution_of, texts_of
from forkpoint.formats.layout import separated
from forkpoint.formats.options import option
from forkpoint.records import LabelledSolution
from forkpoint.row_files import Row

NO_ERROR = "N/A"
VERDICTS = {"correct": True, "incorrect": False}
_HEADING = re.compile(r"\s*Step\s+(\d+)\b")


@dataclass(frozen=True, kw_only=True)
class MrBen:
    """Labels that say where the first error is: steps before it are read as 1, it and all later ones as 0."""

    separator: str = option("\n", "read")
    """The text to put between lines; the solutions were cut at line ends."""

    def from_row(self, row: Row) -> LabelledSolution:
        lines, number = texts_of(row, "Model_Solution_Steps"), text(row, "Model_Solution_First_Error_Step")
        steps = under_headings(separated(lines, self.separator))
        verdict = text(row, "Model_Solution_Correctness")
        if verdict not in VERDICTS:
            raise ValueError(
                f"Model_Solution_Correctness must be one of {', '.join(VERDICTS)}; it is {verdict!r:.60}"
            )
        if number != NO_ERROR and not number.isdecimal():
            raise ValueError(
                f"Model_Solution_First_Error_Step must be {NO_ERROR} or a number; it is {number!r:.60}"
            )
        options = text(row, "Options") if "Options" in row else ""
        extras = {"problem_id": text(row, "Question_UUID"), "is_correct": VERDICTS[verdict]}
        return solution_of(
            extras,
            "\n".join(part for part in (text(row, "Question"), options) if part),
            steps,
            first_error_values(len(steps), None if number == NO_ERROR else int(number), first=1),
        )


def under_headings(lines: Sequence[str]) -> list[str]:
    """Join every line without a heading to the step above it.

    The lines are returned as they are unless their headings count 1, 2, 3 and so on.
    """
    numbers = [int(match[1]) if (match := _HEADING.match(line)) else None for line in lines]
    headings = [number for number in numbers if number is not None]
    if not headings or headings != list(range(1, len(headings) + 1)):
        return list(lines)
    steps: list[str] = []
    lead = ""
    for line, number in zip(lines, numbers, strict=True):
        if number is not None:
            steps.append(lead + line)
            lead = ""
        elif steps:
            steps[-1] += line
        else:
            lead += line
    return steps
