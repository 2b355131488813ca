"""The configuration, the questions and the results of an OmegaPRM search (arXiv 2406.06592; see `omega.py`).

Invariant: every record is immutable and holds plain Python values only; positions count a solution's tokens
after the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from forkpoint.checks import check_at_least, check_choice, check_within
from forkpoint.records import Rollout

BisectSegmentation = Literal["newline", "even"]


@dataclass(frozen=True)
class BisectConfig:
    """How a tree is searched.

    Defaults are the paper's (section 4, "Data Generation") unless a field says otherwise.
    """

    num_rollouts: int = 8
    """Rollouts of every evaluated prefix, k; at least 2, since the value of one is 0 or 1 and nothing would
    be searched."""
    max_searches: int = 100
    """Binary searches per problem at most; 0 evaluates the bare question only."""
    alpha: float = 0.5
    """Base in (0, 1] of eq. 2; the smaller, the more the rollouts of states near MC = 1 are preferred."""
    beta: float = 0.9
    """Base in (0, 1] of eq. 2; the smaller, the more short rollouts are preferred."""
    length_scale: int = 500
    """Length of a rollout in tokens that counts as 1 in eq. 2, L."""
    c_puct: float = 0.125
    """Weight of the preference for states that were seldom selected (eq. 3); 0 turns it off."""
    segmentation: BisectSegmentation = "newline"
    """Where a bisection may cut: newline (every line is a step; our default) or even (equal runs of tokens;
    section 4.2)."""
    num_pieces: int = 16
    """Pieces that even cuts make of a solution of average length (section 4.2). Ours: the average is that of
    the problem's first k rollouts, and longer or shorter rollouts get more or fewer pieces of about the same
    length."""

    def __post_init__(self) -> None:
        check_at_least(2, num_rollouts=self.num_rollouts)
        check_at_least(0, max_searches=self.max_searches, c_puct=self.c_puct)
        check_at_least(1, length_scale=self.length_scale, num_pieces=self.num_pieces)
        check_within("(0, 1]", alpha=self.alpha, beta=self.beta)
        check_choice("segmentation", self.segmentation, get_args(BisectSegmentation))


@dataclass(frozen=True, slots=True)
class Need:
    """A prefix of which `num_rollouts` completions are wanted; empty for the bare question."""

    prefix_ids: tuple[int, ...]
    prefix_texts: tuple[str, ...]
    num_rollouts: int


@dataclass(frozen=True, slots=True)
class Node:
    """A state of the tree: an evaluated prefix with its rollouts.

    The edge from its parent is one step or several.

    A node with `value` 0 has no children. It ends with a first error or, if the bisection went back from it,
    beyond one. The paper's tree leaves the latter nodes out, but their evidence counts all the same.
    """

    prefix_ids: tuple[int, ...]
    prefix_texts: tuple[str, ...]
    step_ends: tuple[int, ...]
    """Number of tokens up to the end of each step of the prefix; the last counts them all. Empty for the
    root."""
    rollouts: tuple[Rollout, ...]
    parent_idx: int | None
    """The longest prefix of the searched solution that was known to be good when this one was evaluated: an
    earlier node."""
    num_visits: int = 0
    """N(s): how often a rollout of this state was selected."""

    @property
    def outcomes(self) -> tuple[bool, ...]:
        return tuple(rollout.is_correct for rollout in self.rollouts)

    @property
    def value(self) -> float:
        """MC(s) = correct rollouts / rollouts (eq. 1), in [0, 1]."""
        return sum(self.outcomes) / len(self.rollouts)


@dataclass(frozen=True, slots=True)
class BinarySearch:
    """One finished binary search, along the solution that a node's prefix and one of its rollouts make."""

    node_idx: int
    rollout_idx: int
    midpoint_idxs: tuple[int, ...]
    """The nodes that were consulted, in order."""
    num_evaluated: int
    """Number of these nodes that were new; at most ceil(log2 n) for a rollout of n steps."""
    first_error_idx: int
    """The solution's step (from 0) after which no rollout is right (for the last step: the solution's own
    answer is wrong). The prefix before that step has a right rollout. If values are not monotone, other steps
    may be like it."""


@dataclass(frozen=True, slots=True)
class GradedPath:
    """A whole solution, a node's prefix and one of its rollouts, with the outcomes of its steps.

    The steps, joined, are the solution's text.
    """

    node_idx: int
    rollout_idx: int
    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    step_ends: tuple[int, ...]
    """Number of tokens up to the end of each step; the last counts them all."""
    outcomes: tuple[tuple[bool, ...] | None, ...]
    """Per step, the outcomes of the rollouts from its end, None if it was not evaluated. The last is the
    solution's own."""
    first_error_idx: int | None
    """The step that a binary search found for this rollout or an equal one of the same node; None if none was
    made."""

    @property
    def is_correct(self) -> bool:
        return self.outcomes[-1] == (True,)

    @property
    def is_monotone(self) -> bool:
        """Whether no step with a right outcome follows a step whose outcomes are all wrong."""
        hits = [any(outcomes) for outcomes in self.outcomes if outcomes is not None]
        return hits == sorted(hits, reverse=True)

    @property
    def steps(self) -> tuple[str, ...]:
        starts = (0, *self.step_ends[:-1])
        return tuple(
            "".join(self.token_texts[start:end]) for start, end in zip(starts, self.step_ends, strict=True)
        )

    def first_error_labels(self) -> tuple[bool, ...]:
        """Per step, whether it comes before the first error that was found: True up to it, False from it on.

        This assumes, as the bisection does (section 3.2), that every prefix up to the first error can still
        be solved and no later one can. `is_monotone` tells whether the evidence contradicts it. ValueError if
        no search was made.
        """
        if self.first_error_idx is None:
            raise ValueError(
                f"rollout {self.rollout_idx} of node {self.node_idx} was not searched, "
                "so no first error is known; use its outcomes"
            )
        return tuple(step_idx < self.first_error_idx for step_idx in range(len(self.step_ends)))
