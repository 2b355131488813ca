"""RLHFlow: a conversation in which every step is a user turn and every label the assistant's answer.

This is the format of the data sets RLHFlow/Mistral-PRM-Data and RLHFlow/Deepseek-PRM-Data (repository
RLHFlow/RLHF-Reward-Modeling, folder math-rm): `conversations` holds {role, content} records; the first user
turn is the question, a space, and the first step; the assistant says `+` or `-`. Steps are published without
their separators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forkpoint.formats.cells import records, text
from forkpoint.formats.codec import Columns, hard_labels, sign_value, solution_of
from forkpoint.formats.layout import separated, unseparated
from forkpoint.formats.options import option
from forkpoint.formats.text_codec import QuestionInText
from forkpoint.records import LabelledSolution
from forkpoint.row_files import Row

ROLES = ("user", "assistant")


@dataclass(frozen=True, kw_only=True)
class RLHFlow(QuestionInText):
    """Hard labels as turns of a conversation."""

    separator: str = option("\n")
    """The text between steps, which the turns leave out."""

    @property
    def columns(self) -> Columns:
        return {"conversations": [{"role": str, "content": str}], **self.extra_columns}

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        self.check_question(solution)
        first, *rest = unseparated(solution.steps, self.separator)
        turns = []
        for step, is_right in zip(
            [f"{solution.question} {first}", *rest], hard_labels(solution, self.threshold), strict=True
        ):
            turns.append({"role": "user", "content": step})
            turns.append({"role": "assistant", "content": "+" if is_right else "-"})
        return {"conversations": turns, **self.extra_values(solution)}

    def from_row(self, row: Row) -> LabelledSolution:
        turns = records(row, "conversations")
        for idx, turn in enumerate(turns):
            if text(turn, "role") != ROLES[idx % 2]:
                raise ValueError(
                    f"turn {idx + 1} must be the {ROLES[idx % 2]}'s, user and assistant taking turns; "
                    f"it is {turn['role']!r:.40}"
                )
        if not turns or len(turns) % 2:
            raise ValueError(
                f"a conversation must be pairs of a step and its label; it has {len(turns)} turns"
            )
        question, first = self.split_question(text(turns[0], "content"), row)
        steps = separated([first, *(text(turn, "content") for turn in turns[2::2])], self.separator)
        return solution_of(row, question, steps, [sign_value(text(turn, "content")) for turn in turns[1::2]])
