"""The quality of answers, step scores and labels: pure functions over records, with intervals.

Invariant: every accuracy is a mean over problems with a 95 % percentile bootstrap over those problems, and
every comparison resamples the same problems on both sides. Nothing here samples, scores or reads files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from forkpoint.estimates import Floats, bootstrap
from forkpoint.labels.leaves import leaf_shares
from forkpoint.records import Solution, Tree
from forkpoint.select import (
    AGGREGATES,
    SHARPNESS,
    Aggregate,
    aggregate,
    best,
    majority,
    sharpened,
    weighted_vote,
)

Select = Literal["greedy", "majority", "best", "weighted", "policy-weighted", "oracle"]


@dataclass(frozen=True, slots=True)
class Attempts:
    """All solutions of one problem in the order of sampling, with step scores if they are scored."""

    problem_id: str
    solutions: tuple[Solution, ...]
    step_scores: tuple[tuple[float, ...], ...] | None = None
    tree: Tree | None = None
    """The tree, if the solutions are its leaves: their probabilities weight the policy-weighted vote."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One way to pick from N solutions, measured over problems."""

    select: Select
    aggregate: Aggregate | None
    n: int
    accuracy_P: Floats
    """Share of groups of N whose pick is right, per problem; 0 or 1 if there is one group."""
    tokens_P: Floats
    """Mean number of sampled tokens of a group, per problem."""


def curve(attempts: Sequence[Attempts], sizes: Sequence[int], is_exchangeable: bool) -> list[CurvePoint]:
    """Accuracy of every way to pick, for every N in `sizes`.

    Exchangeable solutions (independent samples) are divided into all possible disjoint groups of N, whose
    mean has a narrower interval. Of other solutions (leaves of a tree) the first N are used: the tree of that
    budget. If all have their trees and scores, the policy-weighted vote is measured too: a leaf's vote is the
    policy's probability of it times its score to the power `SHARPNESS`.
    A problem with fewer than N solutions uses all of them. ValueError if leaves of a tree are said to be
    exchangeable.
    """
    if is_exchangeable and any(item.tree is not None for item in attempts):
        raise ValueError(
            "leaves of a tree are not exchangeable: only the first N leaves are a tree of their own"
        )
    points = []
    for n in sizes:
        groups_P = [_groups(len(item.solutions), n, is_exchangeable) for item in attempts]
        tokens_P = np.array(
            [
                np.mean([_tokens(item, group) for group in groups])
                for item, groups in zip(attempts, groups_P, strict=True)
            ]
        )
        for select, how in _ways(attempts):
            accuracy_P = np.array(
                [
                    np.mean([_is_right(item, group, select, how) for group in groups])
                    for item, groups in zip(attempts, groups_P, strict=True)
                ]
            )
            points.append(CurvePoint(select, how, n, accuracy_P, tokens_P))
    return points


def _groups(num_solutions: int, n: int, is_exchangeable: bool) -> list[range]:
    if num_solutions <= n or not is_exchangeable:
        return [range(min(n, num_solutions))]
    return [range(start, start + n) for start in range(0, num_solutions - n + 1, n)]


def _ways(attempts: Sequence[Attempts]) -> list[tuple[Select, Aggregate | None]]:
    ways: list[tuple[Select, Aggregate | None]] = [("majority", None), ("oracle", None)]
    if all(item.step_scores is not None for item in attempts):
        ways += [(select, how) for select in ("best", "weighted") for how in AGGREGATES]
        if all(item.tree is not None for item in attempts):
            ways += [("policy-weighted", how) for how in AGGREGATES]
    return ways


def _tokens(item: Attempts, group: range) -> int:
    return sum(item.solutions[idx].num_sampled_tokens for idx in group)


def _is_right(item: Attempts, group: range, select: Select, how: Aggregate | None) -> bool:
    solutions = [item.solutions[idx] for idx in group]
    if select == "oracle":
        return any(solution.is_correct for solution in solutions)
    answers = [solution.answer for solution in solutions]
    if select == "majority":
        return solutions[majority(answers)].is_correct
    assert how is not None and item.step_scores is not None, "picking by score needs scores and an aggregate"
    scores = [aggregate(item.step_scores[idx], how) for idx in group]
    if select == "policy-weighted":
        assert item.tree is not None, "only leaves of a tree have weights of the policy"
        scores = sharpened(scores, leaf_shares(item.tree, len(group)), SHARPNESS)
    return solutions[best(scores) if select == "best" else weighted_vote(answers, scores)].is_correct


@dataclass(frozen=True, slots=True)
class LabelQuality:
    """Labels against the true value of the same prefixes."""

    mae: float
    mae_low: float
    mae_high: float
    """Upper end of the 95 % interval of `mae`, by the bootstrap over labels."""
    bias: float
    """Mean of label minus truth."""
    correlation: float
    """Spearman's rank correlation; nan if one side is constant."""
    num_labels: int


def label_quality(labels: Sequence[float], truths: Sequence[float]) -> LabelQuality:
    """Labels against truths of the same prefixes, in the same order; both in [0, 1]."""
    if len(labels) != len(truths) or not labels:
        raise ValueError(
            "the numbers of labels and truths must be equal and above 0; "
            f"{len(labels)} and {len(truths)} were given"
        )
    label, truth = np.asarray(labels), np.asarray(truths)
    error = bootstrap(np.abs(label - truth))
    return LabelQuality(
        error.mean, error.low, error.high, float((label - truth).mean()), spearman(label, truth), len(labels)
    )


def spearman(left: Floats, right: Floats) -> float:
    """Rank correlation; ties get their mean rank, nan if one side is constant."""
    ranks = [_ranks(left), _ranks(right)]
    if any(rank.std() == 0 for rank in ranks):
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray(((2 * ends - counts - 1) / 2)[inverse], dtype=np.float64)
