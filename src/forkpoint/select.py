"""Pick one of N solutions: aggregate (step scores -> solution score) x choose (best, vote, weighted vote).

Invariant: every choice returns an index into the candidates; ties go to the candidate that comes first, so
choices are reproducible. Votes count answers, not texts; a candidate without an answer has no vote unless
nobody has one.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal

Aggregate = Literal["last", "min", "prod", "mean"]
AGGREGATES: tuple[Aggregate, ...] = ("last", "min", "prod", "mean")
SHARPNESS = 3.0
"""The power of scores in a policy-weighted vote. On validation problems of three settings of the lab, powers
from 3 to 6 gave about the same accuracy, and smaller and larger ones less (docs/explanations/evidence.md)."""


def aggregate(step_scores: Sequence[float], how: Aggregate) -> float:
    """One score in [0, 1] for a solution from its step scores in [0, 1], at least one."""
    if not step_scores:
        raise ValueError("a solution without step scores has no aggregate; score it first")
    match how:
        case "last":
            return step_scores[-1]
        case "min":
            return min(step_scores)
        case "prod":
            return math.prod(step_scores)
        case "mean":
            return math.fsum(step_scores) / len(step_scores)
    raise ValueError(f"aggregate {how!r} is unknown; choose from {', '.join(AGGREGATES)}")


def best(scores: Sequence[float]) -> int:
    """The candidate with the highest score (best-of-N)."""
    return max(range(len(scores)), key=lambda idx: (scores[idx], -idx))


def majority(answers: Sequence[Hashable | None]) -> int:
    """The first candidate that gives the most frequent answer (self-consistency)."""
    return weighted_vote(answers, [1.0] * len(answers))


def weighted_vote(answers: Sequence[Hashable | None], scores: Sequence[float]) -> int:
    """The first candidate that gives the answer whose candidates' scores sum highest."""
    votes = _votes(answers, scores)
    if not votes:
        return 0
    winner = max(votes, key=votes.__getitem__)  # dicts keep order: the first of equals wins
    return answers.index(winner)


def sharpened(scores: Sequence[float], weights: Sequence[float], sharpness: float) -> list[float]:
    """The votes of candidates: weight times score to the power `sharpness` (0: the weight alone)."""
    return [weight * score**sharpness for weight, score in zip(weights, scores, strict=True)]


def vote_share(answers: Sequence[Hashable | None], scores: Sequence[float]) -> float:
    """The share in [0, 1] of all votes that `weighted_vote`'s winner has; 0 if the votes weigh nothing."""
    votes = _votes(answers, scores)
    total = math.fsum(votes.values())
    return max(votes.values()) / total if total > 0 else 0.0


def _votes(answers: Sequence[Hashable | None], scores: Sequence[float]) -> dict[Hashable, float]:
    """Answers in the order in which they first appear, with the scores of their candidates summed."""
    if not answers or len(answers) != len(scores):
        raise ValueError(
            f"a vote needs candidates and as many scores; {len(answers)} and {len(scores)} were given"
        )
    votes: dict[Hashable, float] = {}
    for answer, score in zip(answers, scores, strict=True):
        if answer is not None:
            votes[answer] = votes.get(answer, 0.0) + score
    return votes
