"""Score a file of solutions: JSON lines in, the same lines with step scores out.

Invariant: one line out per line in, in order, with every field that came in; a line that cannot be scored stops the whole
file with its number before anything is written.
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
    """Rows with `question` and either `steps` (list of texts) or `solution` (one text)."""
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
    """The rows with `steps`, `step_scores` and `score` (the aggregate).

    Steps are taken as they are; a `solution` is cut at line ends, which only a PRM trained on lines can score.
    """
    if segmentation != "newline" and any("steps" not in row for row in rows):
        raise ValueError(
            f"this PRM was trained on {segmentation} steps, which cannot be read off a text; give `steps` instead of `solution`"
        )
    steps = [row["steps"] if "steps" in row else newline_steps(row["solution"]) for row in rows]
    scores = checked_scores(scorer, [row["question"] for row in rows], steps)
    return [
        {
            **row,
            "steps": list(its_steps),
            "step_scores": list(its_scores),
            "score": aggregate(its_scores, how),
        }
        for row, its_steps, its_scores in zip(rows, steps, scores, strict=True)
    ]


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON lines, replacing the file at once."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
