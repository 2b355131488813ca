"""The step scores of a benchmark's solutions, journaled as they are computed.

Invariant: the journal depends on the scorer and the solutions alone. Thresholds, aggregates and labels are
applied to rows read back from it, so they may change, and solutions may be added, without scoring anything
twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.errors import LayoutError
from forkpoint.prms.scores import QuestionSteps, ScoreWork, StepScores
from forkpoint.records import Scorer
from forkpoint.runs import Run, complete
from forkpoint.runs.work import Executor

SCORES = "scores"
"""The run directory inside the output directory of a benchmark."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Step scores in the order of the solutions, and the reasons of refusals."""

    scores: list[StepScores | None]
    """None for a solution that the scorer refused."""
    refusals: list[str]
    """The scorer's reasons, one per refused solution."""

    def summary(self) -> dict[str, Any]:
        """Return the number of refused solutions and the distinct reasons, for the results."""
        return {"num": len(self.refusals), "reasons": sorted(set(self.refusals))}


def solution_work(scorer: Scorer, solutions: Sequence[QuestionSteps]) -> ScoreWork:
    """The step scores of every distinct solution, one row each; a refusal is a row with its reason."""
    distinct = list(dict.fromkeys(solutions))

    def row(scores: Sequence[StepScores | LayoutError | None]) -> dict[str, Any]:
        (of_solution,) = scores
        if isinstance(of_solution, LayoutError):
            return {"refused": str(of_solution)}
        assert of_solution is not None, "every solution is scored or refused"
        return {"scores": list(of_solution)}

    keys = [solution_key(solution) for solution in distinct]
    return ScoreWork(scorer, keys, lambda idxs: [[distinct[idx]] for idx in idxs], row, keeps_refusals=True)


def solution_key(solution: QuestionSteps) -> str:
    """Return the key of a solution; it depends on its question and its steps alone."""
    question, steps = solution
    return content_key({"question": question, "steps": steps})


def score_solutions(
    scorer: Scorer, solutions: Sequence[QuestionSteps], out: Path, executor: Executor
) -> Scored:
    """Score the solutions that are not in the journal in `out`, and read all scores; run again to continue.

    ConfigDiffers if `out` holds the scores of another scorer, RuntimeError if solutions failed (they stay
    owed).
    """
    work = solution_work(scorer, solutions)
    with Run.open(out / SCORES, "benchmark scores", {"scorer": scorer.name}) as run:
        complete(run, executor, work)
        run.finish({"num_solutions": run.num_rows})
        rows = dict(zip(work.keys, run.rows(work.keys), strict=True))
    found = [rows[solution_key(solution)] for solution in solutions]
    return Scored(
        scores=[tuple(row["scores"]) if "scores" in row else None for row in found],
        refusals=[row["refused"] for row in found if "refused" in row],
    )
