"""What may be spent on finding an answer with a PRM, and how one is picked.

A method is a search (where solutions come from) x a choice (which of them is the answer). Searches:

    samples   independent samples of the prompt; the PRM reads them when they are whole
    tree      the leaves of an EDU tree, which forks where the policy is unsure and shares the rest
    adaptive  an EDU tree, then samples until the vote is clear
    beam      step by step, the best partial solutions of all are continued
    dvts      step by step in separate subtrees, each of which continues its own best (diverse verifier tree search)

Invariant: `num_samples` is what every search may have at a time: samples, leaves, or continuations under way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from forkpoint.records import Policy
from forkpoint.select import AGGREGATES, SHARPNESS, Aggregate

SearchKind = Literal["samples", "tree", "adaptive", "beam", "dvts"]
Choose = Literal["best", "weighted", "majority", "policy-weighted"]
MethodName = Literal[
    "best-of-n", "vote", "majority", "tree", "tree-vote", "adaptive", "beam", "beam-vote", "dvts", "dvts-vote"
]


@dataclass(frozen=True, slots=True)
class Method:
    """A search, and the choice among the solutions that it ends with."""

    search: SearchKind
    choose: Choose


METHODS: dict[MethodName, Method] = {
    "best-of-n": Method("samples", "best"),
    "vote": Method("samples", "weighted"),
    "majority": Method("samples", "majority"),
    "tree": Method("tree", "best"),
    "tree-vote": Method("tree", "policy-weighted"),
    "adaptive": Method("adaptive", "policy-weighted"),
    "beam": Method("beam", "best"),
    "beam-vote": Method("beam", "weighted"),
    "dvts": Method("dvts", "best"),
    "dvts-vote": Method("dvts", "weighted"),
}


@dataclass(frozen=True)
class SearchConfig:
    """How wide and how long a search is; the same for all methods that are compared."""

    num_samples: int = 16
    """N: independent samples, leaves of a tree, or continuations of each round of beam and dvts; a multiple of `branching`."""
    branching: int = 4
    """M: continuations of each partial solution. Beam keeps the best N/M of a round, dvts the best of each of N/M subtrees."""
    temperature: float = 0.7
    """0 is greedy: all continuations are alike."""
    top_p: float = 1.0
    max_tokens: int = 512
    """Tokens of a solution at most."""
    max_steps: int = 64
    """Rounds of beam and dvts at most; what has no end by then is taken as it is."""
    chunk_tokens: int = 16
    """Tokens sampled at a time until a step has its end. Few: many small requests. Many: more tokens behind the end of a step."""
    tau: float = 1.0
    """Entropy in nats above which a tree may fork."""
    sharpness: float = SHARPNESS
    """Of tree-vote and adaptive: the power of the scores in the vote. 0: the policy alone decides; large: the best score does."""
    enough: float = 0.5
    """Of adaptive: the winner's share of the vote at which no more samples are drawn; 1: draw all N, unless there is one
    answer. See docs/explanations/evidence.md for the accuracy and tokens of some values."""
    draw: int = 2
    """Of adaptive: samples drawn between two votes."""
    aggregate: Aggregate | None = None
    """What makes one score of step scores (last, min, prod, mean), on the way and in the end; without it, what the PRM was saved with."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_samples", "branching", "max_tokens", "max_steps", "chunk_tokens", "draw"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; {getattr(self, name)} was given")
        if self.num_samples % self.branching:
            raise ValueError(
                f"num_samples must be a multiple of branching; {self.num_samples} and {self.branching} were given"
            )
        if not self.tau >= 0:
            raise ValueError(f"tau must be at least 0 nats; {self.tau} was given")
        if not 0 <= self.sharpness < math.inf:
            raise ValueError(f"sharpness must be at least 0 and finite; {self.sharpness} was given")
        if not 0 <= self.enough <= 1:
            raise ValueError(f"enough must be in [0, 1]; {self.enough} was given")
        if self.aggregate not in (None, *AGGREGATES):
            raise ValueError(f"aggregate {self.aggregate!r} is unknown; choose from {', '.join(AGGREGATES)}")

    @property
    def num_kept(self) -> int:
        """N/M: partial solutions that beam keeps, and subtrees of dvts."""
        return self.num_samples // self.branching

    def room(self, policy: Policy, num_prompt_tokens: int) -> int:
        """Tokens that a solution may have after a prompt."""
        return (
            self.max_tokens
            if policy.max_length is None
            else min(self.max_tokens, policy.max_length - num_prompt_tokens)
        )
