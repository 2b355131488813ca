"""Step scores of a benchmark's solutions, journaled as they come.

Invariant: the journal depends on the scorer and the solutions alone. Thresholds, aggregates and labels are applied to what is
read back, so any of them may change, and more solutions may come, without anything being scored again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.errors import LayoutError
from forkpoint.records import Scorer
from forkpoint.runs import Run, complete
from forkpoint.runs.work import Executor

SCORES = "scores"
"""The run directory inside the output directory of a benchmark."""

Solution = tuple[str, tuple[str, ...]]
"""A question and the steps of one solution."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Step scores in the order of the solutions; None where the scorer refused one."""

    scores: list[tuple[float, ...] | None]
    refusals: list[str]
    """Its reasons, one per refused solution."""

    def summary(self) -> dict[str, Any]:
        """For the results: how many were refused, and the distinct reasons."""
        return {"num": len(self.refusals), "reasons": sorted(set(self.refusals))}


class ScoreWork:
    """The step scores of every distinct solution."""

    stays_here = True
    """It holds the scorer: no work for other processes."""

    def __init__(self, scorer: Scorer, solutions: Sequence[Solution]) -> None:
        self._scorer, self._solutions = scorer, list(dict.fromkeys(solutions))
        self.keys = [solution_key(solution) for solution in self._solutions]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        chunk = [self._solutions[idx] for idx in idxs]
        try:
            return self._scored(chunk)
        except LayoutError:
            return [self._scored_or_refused(solution) for solution in chunk]

    def _scored(self, solutions: Sequence[Solution]) -> list[dict[str, Any]]:
        found = self._scorer.score([question for question, _ in solutions], [steps for _, steps in solutions])
        for (_, steps), scores in zip(solutions, found, strict=True):
            if len(scores) != len(steps):
                raise ValueError(
                    f"{self._scorer.name} gave {len(scores)} scores for {len(steps)} steps; one per step is needed"
                )
        return [{"scores": list(scores)} for scores in found]

    def _scored_or_refused(self, solution: Solution) -> dict[str, Any]:
        try:
            return self._scored([solution])[0]
        except LayoutError as error:
            return {"refused": str(error)}


def solution_key(solution: Solution) -> str:
    """Equal for solutions with the same question and the same steps."""
    question, steps = solution
    return content_key({"question": question, "steps": steps})


def score_solutions(scorer: Scorer, solutions: Sequence[Solution], out: Path, executor: Executor) -> Scored:
    """Score what is not journaled in `out` yet, and read all scores back; run again to continue.

    ConfigDiffers where `out` holds the scores of another scorer, RuntimeError where solutions failed (they are owed again).
    """
    work = ScoreWork(scorer, solutions)
    with Run.open(out / SCORES, "benchmark scores", {"scorer": scorer.name}) as run:
        complete(run, executor, work)
        run.finish({"num_solutions": run.num_rows})
        rows = dict(zip(work.keys, run.rows(work.keys), strict=True))
    found = [rows[solution_key(solution)] for solution in solutions]
    return Scored(
        scores=[tuple(row["scores"]) if "scores" in row else None for row in found],
        refusals=[row["refused"] for row in found if "refused" in row],
    )
