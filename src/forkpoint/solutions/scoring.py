"""Scoring the steps of the solutions in a run's outcome rows, as a work of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.errors import LayoutError
from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.scores import QuestionSteps, ScoreWork, StepScores
from forkpoint.records import NUM_DECIMALS, Scorer
from forkpoint.runs import Run
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome
from forkpoint.solutions.work import outcome_of


def score_work(scorer: Scorer, prm_format: PRMFormat, run: Run, outcome_keys: Sequence[str]) -> ScoreWork:
    """The step scores of every solution of an outcome row; one that the scorer refuses fails its chunk."""

    def read(idxs: Sequence[int]) -> list[list[QuestionSteps]]:
        outcomes = [outcome_of(row) for row in run.rows([outcome_keys[idx] for idx in idxs])]
        return [
            [(outcome.problem.question, steps) for steps in solution_steps(outcome, prm_format)]
            for outcome in outcomes
        ]

    keys = [content_key({"scores_of": key, "scorer": scorer.name}) for key in outcome_keys]
    return ScoreWork(scorer, keys, read, lambda scores: {"kind": "scores", "scores": rounded_scores(scores)})


def candidate_work(scorer: Scorer, prm_format: PRMFormat, run: Run, sample_keys: Sequence[str]) -> ScoreWork:
    """The step scores of every sample; null for one that did not end, or that the scorer refuses."""

    def read(idxs: Sequence[int]) -> list[list[QuestionSteps | None]]:
        outcomes = [SampleOutcome.from_row(row) for row in run.rows([sample_keys[idx] for idx in idxs])]
        return [
            [
                (outcome.problem.question, steps) if path.completion.finish == "stop" else None
                for path, steps in zip(outcome.paths, solution_steps(outcome, prm_format), strict=True)
            ]
            for outcome in outcomes
        ]

    def row(scores: Sequence[StepScores | LayoutError | None]) -> dict[str, Any]:
        return {"kind": "candidates", "scores": rounded_scores(scores)}

    keys = [content_key({"candidates_of": key, "scorer": scorer.name}) for key in sample_keys]
    return ScoreWork(scorer, keys, read, row, keeps_refusals=True)


def rounded_scores(scores: Sequence[StepScores | LayoutError | None]) -> list[list[float] | None]:
    """Scores as they are journaled; None for a solution that has none."""
    return [
        [round(score, NUM_DECIMALS) for score in scores_S] if isinstance(scores_S, tuple) else None
        for scores_S in scores
    ]


def solution_steps(outcome: TreeOutcome | SampleOutcome, prm_format: PRMFormat) -> list[tuple[str, ...]]:
    """The steps of every solution, cut as the PRM's training data was."""
    return [
        outcome.path(idx).steps(prm_format.segmentation, prm_format.rule)[0]
        for idx in range(len(outcome.ends))
    ]
