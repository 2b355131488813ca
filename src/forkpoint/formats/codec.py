"""The protocols of codecs, which translate between a row and a labelled solution, and what all codecs share.

Invariant: a codec never guesses. If a format cannot hold a label, the caller has to choose a threshold; if a
row does not fit, a ValueError says why (the caller adds the place); and nothing is rounded, cut or left out
unless an option says so. Codecs know nothing of files; `containers` knows nothing of formats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from forkpoint.content_key import content_key
from forkpoint.formats.cells import check_unicode, flag, items, text
from forkpoint.records import Label, LabelledSolution
from forkpoint.row_files import Row

Columns = Mapping[str, Any]
"""The names of columns and the types of their cells: `str`, `float`, `int`, `bool`, `[type]` for a list,
`{name: type}` for a record."""


class RowReader(Protocol):
    """A codec that can read."""

    def from_row(self, row: Row) -> LabelledSolution:
        """The solution in one row. Raises ValueError if the row does not fit the format."""
        ...


@runtime_checkable
class RowWriter(Protocol):
    """A codec that can write."""

    @property
    def columns(self) -> Columns:
        """Every column of `to_row`, in order."""
        ...

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        """The row of one solution. Raises ValueError if the format cannot hold the solution as it is."""
        ...


EXTRA_COLUMNS: Columns = {"problem_id": str, "question": str, "is_correct": bool}
"""Columns for what most formats have no column for. They are read from every row that has them, and written
if the option `extras` is set."""


def published_label(value: object) -> Label:
    """A label that was published without its evidence: it has no outcomes, and its interval is [0, 1].

    The value may come from exact counts or from a person: the row does not say how many outcomes it rests on,
    so the label does not either. `labels.wilson_interval` of 0 outcomes is the same interval. Raises
    ValueError unless `value` is a number in [0, 1].
    """
    if not isinstance(value, (bool, int, float)) or not 0 <= value <= 1:
        raise ValueError(f"a label must be a number from 0 to 1; {value!r:.60} was given")
    return Label(float(value), num_correct=0, num_total=0, effective_size=0.0, low=0.0, high=1.0)


def solution_of(row: Row, question: str, steps: Sequence[str], values: Sequence[object]) -> LabelledSolution:
    """The solution in a row of another format, with the extra columns that `row` has.

    If there is no column `problem_id`, the id is a hash of the question, so that all solutions of a question
    belong together. If there is no column `is_correct`, the solution counts as right if the label of its last
    step is at least 0.5.
    """
    if not steps or len(steps) != len(values):
        raise ValueError(
            "a solution needs steps and one label per step; "
            f"there are {len(steps)} steps and {len(values)} labels"
        )
    labels = tuple(published_label(value) for value in values)
    return LabelledSolution(
        problem_id=text(row, "problem_id") if "problem_id" in row else f"question:{content_key(question)}",
        question=question,
        steps=tuple(steps),
        labels=labels,
        is_correct=flag(row, "is_correct") if "is_correct" in row else labels[-1].value >= 0.5,
    )


def first_error_values(num_steps: int, first_wrong: int | None, first: int = 0) -> list[float]:
    """1 for the steps before the first wrong one, 0 for it and all later ones; all 1 if there is none.

    Steps are numbered from `first`. Raises ValueError if there is no such step.
    """
    if first_wrong is None:
        return [1.0] * num_steps
    if not first <= first_wrong < first + num_steps:
        hint = ": does the file count from 1?" if first == 0 and first_wrong == num_steps else ""
        raise ValueError(
            f"the first wrong step must be one of {num_steps} steps, from {first} to "
            f"{num_steps - 1 + first}; it is {first_wrong}{hint}"
        )
    return [float(number < first_wrong) for number in range(first, first + num_steps)]


def sign_value(sign: object) -> float:
    """1 for `+` and 0 for `-`, whatever white space surrounds the sign."""
    stripped = sign.strip() if isinstance(sign, str) else sign
    if stripped not in ("+", "-"):
        raise ValueError(f"a label must be + or -; {sign!r:.60} was given")
    return float(stripped == "+")


def check_threshold(threshold: float | None) -> None:
    """Raise ValueError unless the threshold is None or in (0, 1]."""
    if threshold is not None and (math.isnan(threshold) or not 0 < threshold <= 1):
        raise ValueError(f"threshold must be above 0 and at most 1; {threshold} was given")


def hard_labels(solution: LabelledSolution, threshold: float | None) -> list[bool]:
    """Whether each step is right: its value is at least `threshold`, or is 1 if there is no threshold.

    Raises ValueError if there is no threshold and a value is neither 0 nor 1: other programs silently round
    0.9 down.
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
        check_unicode(column, entry)
    return entries
