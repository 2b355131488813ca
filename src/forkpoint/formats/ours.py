"""The format of this package: every field of a labelled solution, evidence included.

A row is a line of `labels.jsonl` in a run directory (see `forkpoint.formats.labels_file`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from forkpoint.formats.cells import flag, number, records, share, text, whole
from forkpoint.formats.codec import Columns, texts_of
from forkpoint.records import Label, LabelledSolution
from forkpoint.row_files import Row

LABEL_FIELDS = tuple(field.name for field in fields(Label))


@dataclass(frozen=True, kw_only=True)
class Ours:
    """All fields; reading what was written gives the same record."""

    @property
    def columns(self) -> Columns:
        label = {
            "value": float,
            "num_correct": int,
            "num_total": int,
            "effective_size": float,
            "low": float,
            "high": float,
        }
        return {"problem_id": str, "question": str, "steps": [str], "labels": [label], "is_correct": bool}

    def to_row(self, solution: LabelledSolution) -> dict[str, Any]:
        # as `asdict` gives it, several times as fast
        return {
            "problem_id": solution.problem_id,
            "question": solution.question,
            "steps": list(solution.steps),
            "labels": [{name: getattr(label, name) for name in LABEL_FIELDS} for label in solution.labels],
            "is_correct": solution.is_correct,
        }

    def from_row(self, row: Row) -> LabelledSolution:
        steps, labels = texts_of(row, "steps"), records(row, "labels")
        if len(steps) != len(labels):
            raise ValueError(
                f"there must be one label per step; there are {len(steps)} steps and {len(labels)} labels"
            )
        return LabelledSolution(
            problem_id=text(row, "problem_id"),
            question=text(row, "question"),
            steps=tuple(steps),
            labels=tuple(_label(label) for label in labels),
            is_correct=flag(row, "is_correct"),
        )


def _label(row: Row) -> Label:
    return Label(
        value=share(row, "value"),
        num_correct=whole(row, "num_correct"),
        num_total=whole(row, "num_total"),
        effective_size=number(row, "effective_size"),
        low=share(row, "low"),
        high=share(row, "high"),
    )
