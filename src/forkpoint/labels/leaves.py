"""Labels from the leaves of one EDU tree: a step is worth what the leaves that share its prefix are worth.

A label is a plan (where the outcomes under a step come from) and a value (the number that sums them up,
`values.py`).
Invariant: a label is a function of recorded outcomes and weights alone, so any label can be derived again
without the policy; and it carries its evidence: counts, effective size, and a 95 % interval.
Weights: `uniform` counts every leaf once; `policy` weighs a leaf by the product, over the forks between the
prefix and the leaf, of the probability of the branch that the leaf takes, renormalised over the two branches
that were explored. Neither is the policy's own distribution over completions: the leaves are greedy between
forks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from forkpoint.checks import check_choice
from forkpoint.labels.values import Value
from forkpoint.records import Label, Tree
from forkpoint.trees.grow import shared_lengths

Weighting = Literal["uniform", "policy"]
WEIGHTINGS: tuple[Weighting, ...] = ("uniform", "policy")
Z_95 = 1.959963984540054


def wilson_interval(share: float, size: float) -> tuple[float, float]:
    """The 95 % Wilson score interval, in [0, 1], of a share in `size` trials (or effective trials)."""
    if size <= 0:
        return 0.0, 1.0
    shrink = 1 + Z_95**2 / size
    middle = (share + Z_95**2 / (2 * size)) / shrink
    margin = Z_95 / shrink * math.sqrt(share * (1 - share) / size + Z_95**2 / (4 * size**2))
    # at shares of 0 and 1 the bound is exact; rounding must not move it
    low = 0.0 if share <= 0 else max(0.0, middle - margin)
    return low, 1.0 if share >= 1 else min(1.0, middle + margin)


def label_of(outcomes: Sequence[bool], weights: Sequence[float] | None, value: Value) -> Label:
    """The label of a step from the outcomes below it, with uniform weights if `weights` is None."""
    weights = [1.0] * len(outcomes) if weights is None else weights
    total = math.fsum(weights)
    share = math.fsum(weight for weight, is_right in zip(weights, outcomes, strict=True) if is_right) / total
    effective_size = total**2 / math.fsum(weight**2 for weight in weights)
    low, high = (value.of_share(bound) for bound in wilson_interval(share, effective_size))
    point = value([float(is_right) for is_right in outcomes], weights)
    return Label(point, sum(outcomes), len(outcomes), effective_size, min(low, point), max(high, point))


@lru_cache(maxsize=1 << 14)
def tally_label(num_correct: int, num_total: int, value: Value) -> Label:
    """The label of a step from outcomes that count once each."""
    return label_of([True] * num_correct + [False] * (num_total - num_correct), None, value)


def final_label(is_correct: bool) -> Label:
    """The label of a whole solution: its outcome, which is known and has no interval."""
    outcome = float(is_correct)
    return Label(outcome, int(is_correct), 1, 1.0, outcome, outcome)


class Leaves:
    """The plan of EDU-PRM: a prefix is worth what the leaves below it are worth."""

    def __init__(self, tree: Tree, outcomes: Sequence[bool], weighting: Weighting = "uniform") -> None:
        if len(outcomes) != tree.num_leaves:
            raise ValueError(
                f"a tree of {tree.num_leaves} leaves needs as many outcomes; {len(outcomes)} were given"
            )
        check_choice("weighting", weighting, WEIGHTINGS)
        self._outcomes = list(outcomes)
        self._shared = shared_lengths(tree)
        self._choices = _choices(tree) if weighting == "policy" else None

    def below(self, leaf_idx: int, num_tokens: int) -> list[int]:
        """The leaves whose paths share the first `num_tokens` tokens of a leaf's path, that leaf included."""
        return [idx for idx, shared in enumerate(self._shared[leaf_idx]) if shared >= num_tokens]

    def label(self, leaf_idx: int, num_tokens: int, value: Value) -> Label:
        """The label of the first `num_tokens` tokens of a leaf's path."""
        if num_tokens >= self._shared[leaf_idx][leaf_idx]:
            return final_label(self._outcomes[leaf_idx])
        below = self.below(leaf_idx, num_tokens)
        weights = self._weights(below, num_tokens)
        if weights is None:
            return tally_label(sum(self._outcomes[idx] for idx in below), len(below), value)
        return label_of([self._outcomes[idx] for idx in below], weights, value)

    def _weights(self, leaf_idxs: Sequence[int], num_tokens: int) -> list[float] | None:
        if self._choices is None:
            return None
        return [_share(self._choices[idx], num_tokens) for idx in leaf_idxs]


def leaf_shares(tree: Tree, num_leaves: int | None = None) -> list[float]:
    """The policy weight of each leaf: the product of the probabilities of the branches that its path takes.

    Probabilities are renormalised over the two branches of a fork, so weights lie in [0, 1] and sum to 1.
    With `num_leaves`, the weights are those of the smaller tree that has only the first `num_leaves` leaves.
    """
    return [_share(taken, 0) for taken in _choices(replace(tree, branches=tree.branches[:num_leaves]))]


def _share(taken: Sequence[tuple[int, float]], num_tokens: int) -> float:
    """The weight of a leaf from its forks after `num_tokens` tokens; `taken` is an item of `_choices`."""
    return math.exp(sum(log for position, log in taken if position >= num_tokens))


def _choices(tree: Tree) -> list[list[tuple[int, float]]]:
    """Per leaf, the forks on its path: position, and log of the taken branch's renormalised probability."""
    children: dict[int, list[int]] = {}
    for branch_idx, branch in enumerate(tree.branches):
        if branch.parent_idx is not None:
            children.setdefault(branch.parent_idx, []).append(branch_idx)
    choices: list[list[tuple[int, float]]] = []
    for leaf_idx in range(tree.num_leaves):
        taken: list[tuple[int, float]] = []
        branch_idx, end = leaf_idx, math.inf
        while True:
            branch = tree.branches[branch_idx]
            for child_idx in children.get(branch_idx, []):
                child = tree.branches[child_idx]
                if child.fork < end:
                    first, runner_up = child.completion.runner_up_logprobs[0], child.completion.logprobs[0]
                    taken.append((child.fork, -math.log1p(math.exp(runner_up - first))))
            if branch.parent_idx is None:
                break
            runner_up, first = branch.completion.logprobs[0], branch.completion.runner_up_logprobs[0]
            taken.append((branch.fork, -math.log1p(math.exp(first - runner_up))))
            branch_idx, end = branch.parent_idx, branch.fork
        choices.append(taken)
    return choices
