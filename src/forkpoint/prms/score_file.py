"""Scores a file of solutions: reads JSON lines, and writes the same lines with step scores.

Invariant: there is one output line per input line, in order, with all fields of the input. A line that cannot
be scored stops the whole file before anything is written; the error names its number.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from forkpoint.prms.scores import checked_scores
from forkpoint.records import Scorer
from forkpoint.select import Aggregate, aggregate
from forkpoint.steps import Segmentation, newline_steps


def read_solutions(path: Path) -> list[dict[str, Any]]:
    """Read rows with `question` and either `steps` (a list of texts) or `solution` (a text).

    ValueError names the first line that is not such a row; FileNotFoundError if there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            problem = _problem_with(row)
            if problem:
                raise ValueError(f"{path}, line {number}: {problem}")
            rows.append(row)
    return rows


def _problem_with(row: Any) -> str | None:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str):
        return "a JSON object with a text `question` is needed"
    steps = row.get("steps")
    if steps is None:
        return (
            None
            if isinstance(row.get("solution"), str)
            else "`steps` (a list of texts) or `solution` (a text) is needed"
        )
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
        return "`steps` must be a list of at least one text"
    return None


def score_rows(
    rows: Sequence[dict[str, Any]], scorer: Scorer, how: Aggregate, segmentation: Segmentation
) -> list[dict[str, Any]]:
    """Return the rows with `steps`, `step_scores` and `score` (the aggregate).

    `steps` are taken as they are. A `solution` is cut at line ends; ValueError if the PRM was not trained on
    such steps.
    """
    if segmentation != "newline" and any("steps" not in row for row in rows):
        raise ValueError(
            f"this PRM was trained on {segmentation} steps, which cannot be read off a text; "
            "give `steps` instead of `solution`"
        )
    steps = [row["steps"] if "steps" in row else newline_steps(row["solution"]) for row in rows]
    scores = checked_scores(scorer, [row["question"] for row in rows], steps)
    return [
        {
            **row,
            "steps": list(steps_S),
            "step_scores": list(scores_S),
            "score": aggregate(scores_S, how),
        }
        for row, steps_S, scores_S in zip(rows, steps, scores, strict=True)
    ]


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines, replacing the file in one step."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
