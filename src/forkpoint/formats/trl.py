"""TRL's stepwise supervision: a prompt, a list of steps, a list of booleans.

As documented for TRL's dataset type "stepwise supervision" and published as trl-lib/math_shepherd and trl-lib/prm800k:
`prompt`, `completions`, `labels`. Steps are without what stood between them; TRL's trainer put "\\n" after each. Labels of
numbers are read, never written: TRL's trainer cast them with int(), so 0.9 was 0.
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
    solution_of,
    texts_of,
)
from forkpoint.formats.layout import separated, unseparated
from forkpoint.formats.options import option
from forkpoint.records import LabelledSolution


@dataclass(frozen=True, kw_only=True)
class TRL:
    """Hard labels as booleans."""

    separator: str = option("\n")
    """What stands between steps in our records and not in the list."""
    threshold: float | None = option(None, "write")
    """Labels of at least this are true; None: labels are 0 or 1 already."""
    extras: bool = option(False, "write")
    """Whether to write problem_id, question and is_correct in columns of their own too."""

    def __post_init__(self) -> None:
        check_threshold(self.threshold)

    @property
    def columns(self) -> Columns:
        return {
            "prompt": str,
            "completions": [str],
            "labels": [bool],
            **(EXTRA_COLUMNS if self.extras else {}),
        }

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        return {
            "prompt": solution.question,
            "completions": unseparated(solution.steps, self.separator),
            "labels": hard_labels(solution, self.threshold),
            **(extras_of(solution) if self.extras else {}),
        }

    def from_row(self, row: Row) -> LabelledSolution:
        steps = separated(texts_of(row, "completions"), self.separator)
        return solution_of(row, text(row, "prompt"), steps, items(row, "labels"))
