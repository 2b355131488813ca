"""A PRM as a reward for whole solutions, for any RL library.

The reward is the minimum of the step scores, as in PURE (arXiv 2504.15275): with their sum, more steps would
earn more reward, and right steps would make up for a wrong one. Outcomes can be mixed in; guards are applied
before both.
Invariant: every solution has a finite reward. None is not used for caught solutions: a library leaves them
out of the update, and a policy learns what it is not punished for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.checks import check_choice, check_within
from forkpoint.grading.grade import check_grader, grade_all
from forkpoint.prms.config import PRM
from forkpoint.rewards.guards import Caught, RewardGuards
from forkpoint.rewards.shared_scorer import SharedScorer
from forkpoint.select import AGGREGATES, Aggregate, aggregate
from forkpoint.steps import newline_steps


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of a solution, and the reasons for it."""

    value: float
    score: float | None
    """The aggregate of its step scores, in [0, 1]; None if it was caught."""
    is_correct: bool | None
    """Whether the answer is right; None if no right answer was given."""
    caught: Caught | None


class PRMReward:
    """Rewards from a PRM: (1 - outcome_weight) * score + outcome_weight * [the answer is right].

    A solution that a guard catches gets `guards.penalty` instead. Any number of threads may call it.
    """

    def __init__(
        self,
        prm: PRM,
        aggregate: Aggregate = "min",
        guards: RewardGuards = RewardGuards(),  # noqa: B008 (frozen)
        outcome_weight: float = 0.0,
        grader: str = "numeric",
    ) -> None:
        """ValueError for an impossible setting, or a PRM that reads steps which a text does not show."""
        check_choice("aggregate", aggregate, AGGREGATES)
        check_within("[0, 1]", outcome_weight=outcome_weight)
        if prm.format.segmentation == "entropy":
            raise ValueError(
                "this PRM reads entropy steps, which cannot be told from a text; "
                "choose one that was trained on lines or solutions"
            )
        check_grader(grader)
        self._is_whole = prm.format.segmentation == "solution"
        self._scorer, self._aggregate, self._guards = SharedScorer(prm), aggregate, guards
        self.outcome_weight, self._grader = outcome_weight, grader

    def __call__(
        self, questions: Sequence[str], texts: Sequence[str], answers: Sequence[str] | None = None
    ) -> list[Reward]:
        """One reward per solution text; `answers` are the right ones. The PRM is called once.

        ValueError if `outcome_weight` is above 0 and no answers are given, or if a question, a text or an
        answer is not a string; the message names its row.
        """
        if answers is None and self.outcome_weight > 0:
            raise ValueError(
                "outcome_weight is above 0 and there are no right answers to grade by; "
                "give them, or set it to 0"
            )
        for name, column in (("question", questions), ("text", texts), ("answer", answers or ())):
            for row, given in enumerate(column):
                if not isinstance(given, str):
                    raise ValueError(f"the {name} of row {row} must be a string; {given!r:.60} was given")
        lines = [newline_steps(text) for text in texts]
        steps = [(text,) for text in texts] if self._is_whole else lines
        caught = [self._guards.catch(solution_lines) for solution_lines in lines]
        owed = [idx for idx, reason in enumerate(caught) if reason is None]
        scores = self._scorer.score([(questions[idx], steps[idx]) for idx in owed])
        found = dict(zip(owed, scores, strict=True))
        verdicts = (
            None if answers is None else grade_all(list(zip(answers, texts, strict=True)), self._grader)
        )
        return [
            self._reward(found.get(idx), verdicts[idx].is_correct if verdicts else None, caught[idx])
            for idx in range(len(texts))
        ]

    def _reward(
        self, scores: tuple[float, ...] | None, is_correct: bool | None, caught: Caught | None
    ) -> Reward:
        if scores is None:
            return Reward(self._guards.penalty, None, is_correct, caught or "unreadable")
        score = aggregate(scores, self._aggregate)
        value = (1 - self.outcome_weight) * score + self.outcome_weight * float(is_correct or False)
        return Reward(value, score, is_correct, None)
