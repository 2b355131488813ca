"""MCTS-EDU: choose the next fork by value and exploration (EDU-PRM, arXiv 2503.22233).

The paper names the search but states no selection rule; ours is PUCT (arXiv 1911.08265).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from forkpoint.records import NUM_DECIMALS
from forkpoint.select import Aggregate, aggregate
from forkpoint.trees.frontier import Anchor, Leaf

Prior = Literal["policy", "uniform"]
PRIORS: tuple[Prior, ...] = ("policy", "uniform")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The value and the step scores of a grown leaf, which are known before its anchors open."""

    value: float | None
    """The value of the leaf in [0, 1]; None if nothing needs it."""
    step_ends: tuple[int, ...]
    """Per step that was read, the number of tokens up to its end."""
    step_scores: tuple[float, ...]
    """Per step that was read, its score in [0, 1]."""

    def before(self, position: int) -> tuple[float, ...]:
        """The scores of the steps that are complete before a token position."""
        return tuple(
            score for score, end in zip(self.step_scores, self.step_ends, strict=True) if end <= position
        )


@dataclass(slots=True)
class _Fork:
    """An anchor as a choice between two sides: the token taken, and the runner-up."""

    position: int
    prior: float
    """Prior of the runner-up's side; the other side has the rest."""
    value: float | None
    """Value of the prefix before the anchor; None if nothing judged it."""
    is_open: bool = True
    child_idx: int | None = None
    """The branch on the runner-up's side, once it is grown."""


@dataclass(frozen=True, slots=True)
class _Below:
    """The leaves below one side of an anchor."""

    num_leaves: int
    total: float
    """The sum of the leaves' values."""
    is_open: bool
    """Whether an anchor can be forked there."""

    def mean(self, default: float) -> float:
        return self.total / self.num_leaves if self.num_leaves else default

    def __add__(self, other: _Below) -> _Below:
        return _Below(
            self.num_leaves + other.num_leaves, self.total + other.total, self.is_open or other.is_open
        )


class PUCTChooser:
    """Walks from the prompt to an open fork; at every anchor it takes the side with the higher `puct`.

    A side is worth the mean of the leaves below it. A runner-up that is not forked yet is worth the score of
    the complete steps before the anchor or, if they have no score, as much as the other side. Sides without
    an open fork are not entered. Of equal sides, the one with fewer leaves goes first, then the token that
    the policy preferred. Each leaf is backed up before the next walk, so a walk depends on the leaves before
    it and not on the budget.
    """

    def __init__(self, exploration: float, prior: Prior, how: Aggregate) -> None:
        self._exploration, self._prior, self._how = exploration, prior, how
        self._values: list[float] = []
        self._forks: list[list[_Fork]] = []

    def add(self, leaf: Leaf, judgement: Judgement) -> None:
        assert leaf.branch_idx == len(self._values), (
            "every branch is added, in the order in which they were grown"
        )
        assert judgement.value is not None, "a search needs the value of every leaf"
        if leaf.parent_idx is not None:
            next(
                fork for fork in self._forks[leaf.parent_idx] if fork.position == leaf.fork
            ).child_idx = leaf.branch_idx
        self._values.append(judgement.value)
        self._forks.append(
            [self._fork(leaf, position, judgement.before(position)) for position in leaf.anchors]
        )

    def _fork(self, leaf: Leaf, position: int, scores: Sequence[float]) -> _Fork:
        taken, runner_up = leaf.path.logprobs[position], leaf.path.runner_up_logprobs[position]
        odds = 1.0 if self._prior == "uniform" else math.exp(runner_up - taken)
        prior = odds / (1 + odds)
        return _Fork(position, round(prior, NUM_DECIMALS), aggregate(scores, self._how) if scores else None)

    def pop(self) -> Anchor | None:
        sides = self._sides()
        branch_idx, fork_idx = 0, 0
        while fork_idx < len(self._forks[branch_idx]):
            fork = self._forks[branch_idx][fork_idx]
            taken, runner_up = sides[branch_idx][fork_idx]
            if self._prefers_taken(fork, taken, runner_up):
                fork_idx += 1
            elif fork.is_open:
                fork.is_open = False
                return Anchor(branch_idx, fork.position)
            else:
                assert fork.child_idx is not None, "only a side with an open fork is entered"
                branch_idx, fork_idx = fork.child_idx, 0
        return None

    def _prefers_taken(self, fork: _Fork, taken: _Below, runner_up: _Below) -> bool:
        if not (taken.is_open and runner_up.is_open):
            return not runner_up.is_open
        num_node = taken.num_leaves + runner_up.num_leaves
        taken_value = taken.mean(0.0)  # not empty: at least the branch's own leaf is there
        runner_up_value = runner_up.mean(taken_value if fork.value is None else fork.value)
        taken_puct = puct(taken_value, 1 - fork.prior, num_node, taken.num_leaves, self._exploration)
        runner_up_puct = puct(runner_up_value, fork.prior, num_node, runner_up.num_leaves, self._exploration)
        return (taken_puct, -taken.num_leaves) >= (runner_up_puct, -runner_up.num_leaves)

    def _sides(self) -> list[list[tuple[_Below, _Below]]]:
        """Per branch and anchor, the leaves below the token taken and those below the runner-up."""
        whole: dict[int, _Below] = {}
        sides: list[list[tuple[_Below, _Below]]] = [[] for _ in self._forks]
        for branch_idx in reversed(range(len(self._forks))):  # children come after their parents
            below = _Below(1, self._values[branch_idx], False)
            for fork in reversed(self._forks[branch_idx]):
                runner_up = _Below(0, 0.0, fork.is_open) if fork.child_idx is None else whole[fork.child_idx]
                sides[branch_idx].append((below, runner_up))
                below += runner_up
            sides[branch_idx].reverse()
            whole[branch_idx] = below
        return sides


def puct(value: float, prior: float, num_node: int, num_side: int, exploration: float) -> float:
    """value + exploration * prior * sqrt(num_node) / (1 + num_side).

    This is arXiv 1911.08265, appendix B, with a constant factor. `num_node` leaves are below the anchor, and
    `num_side` of them on this side; value and prior are in [0, 1].
    """
    return value + exploration * prior * math.sqrt(num_node) / (1 + num_side)
