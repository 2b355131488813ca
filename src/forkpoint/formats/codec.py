"""What a format is: a codec between one row and one labelled solution, and what all codecs agree on.

Invariant: a codec never guesses. A label that a format cannot hold needs a threshold that somebody chose, a row that does
not fit is a ValueError that says why (the caller adds where), and nothing is rounded, cut or left out without an option
that says so. Codecs know nothing of files; `containers` knows nothing of formats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from forkpoint.content_key import content_key
from forkpoint.formats.cells import flag, items, text
from forkpoint.records import Label, LabelledSolution
from forkpoint.row_files import Row

Columns = Mapping[str, Any]
"""Column names and what they hold, in plain types: `str`, `float`, `int`, `bool`, `[type]` for a list, `{name: type}` for a record."""


class RowReader(Protocol):
    """A format that can be imported."""

    def from_row(self, row: Row) -> LabelledSolution:
        """The solution of one row. Raises ValueError where the row does not fit the format."""
        ...


@runtime_checkable
class RowWriter(Protocol):
    """A format that can be exported."""

    @property
    def columns(self) -> Columns:
        """Every column of `to_row`, in order."""
        ...

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        """One row. Raises ValueError where the format cannot hold the solution as it is."""
        ...


EXTRA_COLUMNS: Columns = {"problem_id": str, "question": str, "is_correct": bool}
"""What most formats have no column for. Read wherever a row has them; written where the option `extras` asks for them."""


def published_label(value: object) -> Label:
    """A label that comes without its evidence: no outcomes, and the interval [0, 1] that no outcomes leave open.

    The value itself may be exact or human: a row does not say how many outcomes it rests on, so neither does the label.
    `labels.wilson_interval` of size 0 is the same interval. Raises ValueError unless `value` is a number in [0, 1].
    """
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
        raise ValueError(f"a label must be a number from 0 to 1; {value!r:.60} was given")
    return Label(float(value), num_correct=0, num_total=0, effective_size=0.0, low=0.0, high=1.0)


def solution_of(row: Row, question: str, steps: Sequence[str], values: Sequence[object]) -> LabelledSolution:
    """The solution of an imported row, with the extra columns of `row` where it has them.

    Without the column `problem_id` the id is a hash of the question, so that all solutions of a question belong together;
    without `is_correct` a solution counts as right if the label of its last step is at least 0.5.
    """
    if not steps or len(steps) != len(values):
        raise ValueError(
            f"a solution needs steps and one label per step; there are {len(steps)} steps and {len(values)} labels"
        )
    labels = tuple(published_label(value) for value in values)
    return LabelledSolution(
        problem_id=text(row, "problem_id") if "problem_id" in row else f"question:{content_key(question)}",
        question=question,
        steps=tuple(steps),
        labels=labels,
        is_correct=flag(row, "is_correct") if "is_correct" in row else labels[-1].value >= 0.5,
    )


def sign_value(sign: object) -> float:
    """1 for `+`, 0 for `-`; white space around does not count."""
    stripped = sign.strip() if isinstance(sign, str) else sign
    if stripped not in ("+", "-"):
        raise ValueError(f"a label must be + or -; {sign!r:.60} was given")
    return float(stripped == "+")


def check_threshold(threshold: float | None) -> None:
    """Raises ValueError unless the threshold is None or in (0, 1]."""
    if threshold is not None and (math.isnan(threshold) or not 0 < threshold <= 1):
        raise ValueError(f"threshold must be above 0 and at most 1; {threshold} was given")


def hard_labels(solution: LabelledSolution, threshold: float | None) -> list[bool]:
    """Whether each step is right: its value is at least `threshold`, or exactly 1 where every value is exactly 0 or 1.

    Raises ValueError on any other value where there is no threshold: to round 0.9 down and say nothing is a known accident.
    """
    for idx, label in enumerate(solution.labels):
        if threshold is None and label.value not in (0.0, 1.0):
            raise ValueError(
                f"step {idx + 1} has the label {label.value:g}, and this format holds right or wrong only; "
                "give the option threshold=T to call values of at least T right"
            )
    return [label.value >= (1.0 if threshold is None else threshold) for label in solution.labels]


def texts_of(row: Row, column: str) -> list[str]:
    """The strings of a list column."""
    entries = items(row, column)
    for idx, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise ValueError(f"column {column!r} must hold strings; entry {idx + 1} is {entry!r:.60}")
    return entries
