"""TRL's stepwise supervision: a prompt, a list of steps, a list of booleans.

This is the format of TRL's dataset type "stepwise supervision", published as trl-lib/math_shepherd and
trl-lib/prm800k: `prompt`, `completions`, `labels`. Steps are published without their separators; TRL's
trainer put "\\n" after each. Labels that are numbers are read, but never written: TRL's trainer cast them
with int(), which turned 0.9 into 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.formats.cells import items, text
from forkpoint.formats.codec import Columns, hard_labels, solution_of, texts_of
from forkpoint.formats.layout import separated, unseparated
from forkpoint.formats.options import option
from forkpoint.formats.text_codec import TextCodec
from forkpoint.records import LabelledSolution
from forkpoint.row_files import Row


@dataclass(frozen=True, kw_only=True)
class TRL(TextCodec):
    """Hard labels as booleans."""

    separator: str = option("\n")
    """The text between steps, which the list leaves out."""

    @property
    def columns(self) -> Columns:
        return {
            "prompt": str,
            "completions": [str],
            "labels": [bool],
            **self.extra_columns,
        }

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        return {
            "prompt": solution.question,
            "completions": unseparated(solution.steps, self.separator),
            "labels": hard_labels(solution, self.threshold),
            **self.extra_values(solution),
        }

    def from_row(self, row: Row) -> LabelledSolution:
        steps = separated(texts_of(row, "completions"), self.separator)
        return solution_of(row, text(row, "prompt"), steps, items(row, "labels"))
