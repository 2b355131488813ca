"""What an OmegaPRM search (arXiv 2406.06592; see `forkpoint.omega`) is given, and what it leaves behind.

Invariant: every record is immutable and holds plain Python values only; positions count a solution's tokens after the prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from forkpoint.records import Rollout

BisectSegmentation = Literal["newline", "even"]


@dataclass(frozen=True)
class BisectConfig:
    """How a tree is searched. Defaults are the paper's (section 4, "Data Generation") except where a field says otherwise."""

    num_rollouts: int = 8
    """k, the rollouts of every evaluated prefix; at least 2, as the Monte-Carlo value of one is 0 or 1 and nothing is searched."""
    max_searches: int = 100
    """Binary searches per problem at most; 0 evaluates the bare question only."""
    alpha: float = 0.5
    """In (0, 1]; the smaller, the more the rollouts of states near MC = 1 are preferred (eq. 2)."""
    beta: float = 0.9
    """In (0, 1]; the smaller, the more short rollouts are preferred (eq. 2)."""
    length_scale: int = 500
    """L of eq. 2, in tokens."""
    c_puct: float = 0.125
    """Weight of the preference for states that were seldom selected (eq. 3); 0 turns it off."""
    segmentation: BisectSegmentation = "newline"
    """Where a bisection may cut: newline (every line is a step; our default) or even (equal runs of tokens; section 4.2)."""
    num_pieces: int = 16
    """With even cuts, the pieces that a solution of average length is cut into (section 4.2); ours: the average is that of the
    problem's first k rollouts, and longer or shorter rollouts get more or fewer pieces of about the same length."""

    def __post_init__(self) -> None:
        for name, least in {"num_rollouts": 2, "max_searches": 0, "length_scale": 1, "num_pieces": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; {getattr(self, name)} was given")
        for name, number in {"alpha": self.alpha, "beta": self.beta}.items():
            if not 0 < number <= 1:
                raise ValueError(f"{name} must be in (0, 1]; {number} was given")
        if not 0 <= self.c_puct < math.inf:
            raise ValueError(f"c_puct must be finite and 0 or above; {self.c_puct} was given")
        if self.segmentation not in get_args(BisectSegmentation):
            raise ValueError(
                f"segmentation {self.segmentation!r} is unknown here; choose from {', '.join(get_args(BisectSegmentation))}"
            )


@dataclass(frozen=True, slots=True)
class Need:
    """`num_rollouts` completions of a prefix are wanted; it holds tokens after the prompt, and is empty for the bare question."""

    prefix_ids: tuple[int, ...]
    prefix_texts: tuple[str, ...]
    num_rollouts: int


@dataclass(frozen=True, slots=True)
class Node:
    """A state of the tree: an evaluated prefix with its rollouts. The edge from its parent is one step or several.

    A node with `value` 0 has no children. It ends with a first error, or, where the bisection then went back, beyond one; the
    paper's tree leaves the latter out, but its evidence counts all the same.
    """

    prefix_ids: tuple[int, ...]
    prefix_texts: tuple[str, ...]
    step_ends: tuple[int, ...]
    """Number of tokens up to the end of each step of the prefix; empty for the root, else the last is all of them."""
    rollouts: tuple[Rollout, ...]
    parent_idx: int | None
    """The longest prefix known to be good, along the searched solution, when this one was evaluated; always an earlier node."""
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
    """How many of these were new; at most ceil(log2 n) for a rollout of n steps."""
    first_error_idx: int
    """The solution's step (from 0) after which no rollout, or for the last step not its own answer, is right; the prefix before
    that step has a right rollout. Where values are not monotone there may be others like it."""


@dataclass(frozen=True, slots=True)
class GradedPath:
    """A whole solution, a node's prefix and one of its rollouts, with what is known of each step; joined, its steps are its text."""

    node_idx: int
    rollout_idx: int
    token_ids: tuple[int, ...]
    token_texts: tuple[str, ...]
    step_ends: tuple[int, ...]
    """Number of tokens up to each step's end; the last is all of them."""
    outcomes: tuple[tuple[bool, ...] | None, ...]
    """Per step, the outcomes of the rollouts from its end; None where it was not evaluated. The last: the solution's own."""
    first_error_idx: int | None
    """The step that a binary search found for this rollout, or an equal one of the same node; None where none was made."""

    @property
    def is_correct(self) -> bool:
        return self.outcomes[-1] == (True,)

    @property
    def is_monotone(self) -> bool:
        """Whether, of the steps with outcomes, none that has a right one follows one that has none."""
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

        This assumes what the bisection assumes (section 3.2): that every prefix up to the first error can still be solved and
        no later one can. `is_monotone` tells whether the evidence contradicts it. ValueError where no search was made.
        """
        if self.first_error_idx is None:
            raise ValueError(
                f"rollout {self.rollout_idx} of node {self.node_idx} was not searched, so no first error is known; use its outcomes"
            )
        return tuple(step_idx < self.first_error_idx for step_idx in range(len(self.step_ends)))
