"""Step scores of a scorer, checked, and journaled as the work of a run.

Invariant: every score passes `checked_scores`. A scorer that answers with too few or too many numbers, or
with numbers that are not scores, is an error; it never reaches a journal, an aggregate or a search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from forkpoint.errors import LayoutError
from forkpoint.records import Scorer

QuestionSteps = tuple[str, tuple[str, ...]]
"""A question and the steps of a solution to it."""
StepScores = tuple[float, ...]
"""One score in [0, 1] per step of a solution."""


def checked_scores(
    scorer: Scorer, questions: Sequence[str], steps: Sequence[Sequence[str]]
) -> list[StepScores]:
    """Score solutions; ValueError unless the scorer gives one number in [0, 1] per step of every solution."""
    found = scorer.score(questions, steps)
    if len(found) != len(steps):
        raise ValueError(
            f"scorer {scorer.name!r} was given {len(steps)} solutions and scored {len(found)}; "
            "one each is needed"
        )
    for steps_of_solution, scores in zip(steps, found, strict=True):
        if len(scores) != len(steps_of_solution) or not all(0 <= score <= 1 for score in scores):
            raise ValueError(
                f"scorer {scorer.name!r} gave the scores {list(scores)} for {len(steps_of_solution)} steps; "
                "one number in [0, 1] per step is needed"
            )
    return [tuple(float(score) for score in scores) for scores in found]


def scores_of(scorer: Scorer, solutions: Sequence[QuestionSteps]) -> list[StepScores]:
    """Score solutions in one call; ValueError as in `checked_scores`, and whatever the scorer raises."""
    if not solutions:
        return []
    return checked_scores(scorer, [question for question, _ in solutions], [steps for _, steps in solutions])


def scores_or_refusals(scorer: Scorer, solutions: Sequence[QuestionSteps]) -> list[StepScores | LayoutError]:
    """Score solutions; a solution that the scorer refuses gets its error in place of scores.

    If the scorer refuses a batch, each half is tried alone until the refused solutions are found, so k
    refusals among n solutions cost about k log2(n) more calls. ValueError as in `checked_scores`.
    """
    try:
        return [*scores_of(scorer, solutions)]
    except LayoutError as error:
        if len(solutions) == 1:
            return [error]
    half = len(solutions) // 2
    return scores_or_refusals(scorer, solutions[:half]) + scores_or_refusals(scorer, solutions[half:])


@dataclass(frozen=True)
class ScoreWork:
    """The step scores of the solutions of each item, one row per item.

    Equal solutions of one chunk are scored once. The two functions decide which solutions an item has, and
    what a row looks like.
    """

    scorer: Scorer
    keys: Sequence[str]
    """The key of each item."""
    read: Callable[[Sequence[int]], Sequence[Sequence[QuestionSteps | None]]]
    """Returns the solutions of the items at some indices; a None among them is not scored."""
    row: Callable[[Sequence[StepScores | LayoutError | None]], dict[str, Any]]
    """Makes the row of an item from the scores of its solutions, in their order."""
    keeps_refusals: bool = False
    """Whether `row` is given the LayoutError of a solution that the scorer refuses; otherwise it fails the
    chunk."""
    stays_here: ClassVar[bool] = True
    """The work holds the scorer, and may read the open run."""
    shows_progress: ClassVar[bool] = True

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        items = self.read(idxs)
        distinct = list(dict.fromkeys(solution for item in items for solution in item if solution))
        score = scores_or_refusals if self.keeps_refusals else scores_of
        scores: dict[QuestionSteps | None, StepScores | LayoutError | None] = {None: None}
        scores.update(zip(distinct, score(self.scorer, distinct), strict=True))
        return [self.row([scores[solution] for solution in item]) for item in items]
