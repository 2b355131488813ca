"""PRM800K, for reading only: human ratings of the steps of one solution.

This is the format of the files in the repository openai/prm800k (arXiv 2305.20050). Every step offers
completions, each rated -1, 0 or 1. The solution continues from the chosen one, or from one that a person
wrote to be right, which has the value 1. If a step has neither, it is the last, and the first completion is
the solution's own step (in phase 2 its first error). Other alternatives, and the flags for screening and
quality control, are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from forkpoint.formats.cells import cell, record, records, text, whole
from forkpoint.formats.codec import solution_of
from forkpoint.formats.layout import separated
from forkpoint.formats.options import option
from forkpoint.records import LabelledSolution
from forkpoint.row_files import Row


@dataclass(frozen=True, kw_only=True)
class PRM800K:
    """One solution per row; it counts as right if it was labelled to the end (`finish_reason` `solution`)."""

    neutral: Literal["positive", "negative"] = option(used_by="read")
    """How a rating of 0 counts: positive is a label of 1 (as for Qwen and OpenR), negative a label of 0 (as
    for TRL)."""
    separator: str = option("\n", "read")
    """The text to put between steps; the solutions were made line by line."""

    def from_row(self, row: Row) -> LabelledSolution:
        label = record(row, "label")
        steps = records(label, "steps")
        while steps and not (steps[-1].get("completions") or steps[-1].get("human_completion")):
            steps = steps[:-1]  # the last step is empty if labelling was given up
        rated = [self._rated(step, idx + 1, is_last=idx + 1 == len(steps)) for idx, step in enumerate(steps)]
        is_correct = text(label, "finish_reason") == "solution"
        texts = separated([body for body, _ in rated], self.separator)
        question = text(record(row, "question"), "problem")
        return solution_of({"is_correct": is_correct}, question, texts, [value for _, value in rated])

    def _rated(self, step: dict[str, Any], number: int, *, is_last: bool) -> tuple[str, float]:
        """The text and the value of the completion with which the solution continues."""
        if step.get("chosen_completion") is None and step.get("human_completion") is not None:
            return text(record(step, "human_completion"), "text"), 1.0
        completions = records(step, "completions")
        chosen_idx = 0
        if cell(step, "chosen_completion") is not None:
            chosen_idx = whole(step, "chosen_completion")
        elif not is_last:
            raise ValueError(
                f"step {number} has neither a chosen nor a human completion, and is not the last"
            )
        if not 0 <= chosen_idx < len(completions):
            raise ValueError(f"step {number} chooses completion {chosen_idx} of {len(completions)}")
        rating = cell(completions[chosen_idx], "rating")
        values = {-1: 0.0, 0: float(self.neutral == "positive"), 1: 1.0}
        if isinstance(rating, bool) or rating not in values:
            raise ValueError(f"step {number} must be rated -1, 0 or 1; its rating is {rating!r:.40}")
        return text(completions[chosen_idx], "text"), values[rating]
