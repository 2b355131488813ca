"""Scoring the steps of solutions as the work of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Scorer
from forkpoint.runs import Run
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome
from forkpoint.solutions.work import outcome_of


class ScoreWork:
    """The step scores of every solution of an outcome row."""

    stays_here = True
    """It reads the open run and holds the scorer: no work for other processes."""

    def __init__(self, scorer: Scorer, prm_format: PRMFormat, run: Run, keys: Sequence[str]) -> None:
        self._scorer, self._format, self._run, self._outcome_keys = scorer, prm_format, run, keys
        self.keys = [content_key({"scores_of": key, "scorer": scorer.name}) for key in keys]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        outcomes = [outcome_of(row) for row in self._run.rows([self._outcome_keys[idx] for idx in idxs])]
        steps = [solution_steps(outcome, self._format) for outcome in outcomes]
        distinct = {
            (outcome.problem.question, item): 0
            for outcome, items in zip(outcomes, steps, strict=True)
            for item in items
        }
        pairs = list(distinct)
        scores = dict(
            zip(
                pairs,
                self._scorer.score([pair[0] for pair in pairs], [pair[1] for pair in pairs]),
                strict=True,
            )
        )
        return [
            {
                "kind": "scores",
                "scores": [
                    [round(score, 6) for score in scores[outcome.problem.question, item]] for item in items
                ],
            }
            for outcome, items in zip(outcomes, steps, strict=True)
        ]


def solution_steps(outcome: TreeOutcome | SampleOutcome, prm_format: PRMFormat) -> list[tuple[str, ...]]:
    """The steps of every solution, cut as the PRM's training data was."""
    return [
        outcome.path(idx).steps(prm_format.segmentation, prm_format.rule)[0]
        for idx in range(len(outcome.ends))
    ]
