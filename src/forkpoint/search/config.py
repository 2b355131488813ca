"""The methods of finding an answer with a PRM, and their configuration.

A method is the product of a search (the source of solutions) and a choice (which of them is the answer). The
searches:

    samples   independent samples from the prompt; the PRM reads them when they are complete
    tree      the leaves of an EDU tree, which forks if the policy is uncertain and shares the rest
    adaptive  an EDU tree, then samples until the vote is clear
    beam      step by step; the best partial solutions of all are continued
    dvts      diverse verifier tree search: step by step in subtrees, each of which continues its own best

Invariant: every search has at most `num_samples` samples, leaves or continuations at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from forkpoint.checks import check_at_least, check_choice, check_within
from forkpoint.select import AGGREGATES, SHARPNESS, Aggregate

SearchKind = Literal["samples", "tree", "adaptive", "beam", "dvts"]
Choose = Literal["best", "weighted", "majority", "policy-weighted"]
MethodName = Literal[
    "best-of-n", "vote", "majority", "tree", "tree-vote", "adaptive", "beam", "beam-vote", "dvts", "dvts-vote"
]


@dataclass(frozen=True, slots=True)
class Method:
    """A search, and the choice among the solutions that it finds."""

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
    """The size of a search and the choice of an answer; the same for all methods that are compared."""

    num_samples: int = 16
    """N, the number of independent samples, of leaves of a tree, or of continuations in each round of beam
    and dvts; a multiple of `branching`."""
    branching: int = 4
    """M, the number of continuations of each partial solution. Beam keeps the best N/M of a round, dvts the
    best one in each of N/M subtrees."""
    temperature: float = 0.7
    """The sampling temperature. 0 is greedy, which makes all continuations alike."""
    top_p: float = 1.0
    """The probability mass from which tokens are sampled (nucleus sampling); 1 keeps every token."""
    max_tokens: int = 512
    """The most tokens of a solution."""
    max_steps: int = 64
    """The most rounds of beam and dvts; a solution that has not ended by then is used as it is."""
    chunk_tokens: int = 16
    """Tokens that beam and dvts sample at a time until a step ends. Few tokens mean many small requests, many
    tokens mean more waste after the end of a step."""
    tau: float = 1.0
    """The entropy, in nats, above which a tree may fork."""
    sharpness: float = SHARPNESS
    """The power to which tree-vote and adaptive raise the scores in the vote. With 0 the policy alone
    decides, with a large number the best score does."""
    enough: float = 0.5
    """The winner's share of the vote at which adaptive draws no more samples. 1 draws all N unless there is
    only one answer. See docs/explanations/evidence.md for the accuracy and the tokens of some values."""
    draw: int = 2
    """The number of samples that adaptive draws between two votes."""
    aggregate: Aggregate | None = None
    """How step scores become one score (last, min, prod, mean), both during the search and at its end. The
    default is the aggregate that the PRM was saved with."""
    seed: int = 0
    """The seed of the samples."""

    def __post_init__(self) -> None:
        check_at_least(
            1,
            num_samples=self.num_samples,
            branching=self.branching,
            max_tokens=self.max_tokens,
            max_steps=self.max_steps,
            chunk_tokens=self.chunk_tokens,
            draw=self.draw,
        )
        if self.num_samples % self.branching:
            raise ValueError(
                "num_samples must be a multiple of branching; "
                f"{self.num_samples} and {self.branching} were given"
            )
        if not self.tau >= 0:  # infinity is a bound: a tree that never forks
            raise ValueError(f"tau must be at least 0 nats; {self.tau} was given")
        check_at_least(0, sharpness=self.sharpness)
        check_within("[0, 1]", enough=self.enough)
        if self.aggregate is not None:
            check_choice("aggregate", self.aggregate, AGGREGATES)

    @property
    def num_kept(self) -> int:
        """N/M, the number of partial solutions that beam keeps and of subtrees of dvts."""
        return self.num_samples // self.branching
