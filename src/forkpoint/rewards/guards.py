"""Guards against reward hacking: texts that a policy in training must not be rewarded for.

A PRM is trained on honest attempts; a policy that is rewarded by it finds texts that are unlike any attempt:
no steps, one step, the same step repeated (for reward hacking of PRMs see arXiv 2504.15275). Such a text gets
a fixed reward, whatever the PRM's scores are and even if its answer is right. Invariant: a guard reads only
the text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from forkpoint.checks import check_at_least, check_within

Caught = Literal["empty", "too few steps", "too many steps", "repeated steps", "repeated words", "unreadable"]
"""The reason why a solution is not rewarded by its score; the PRM refuses to read an `unreadable` one (too
long, or with the PRM's own tags in it)."""


@dataclass(frozen=True)
class RewardGuards:
    """Limits of an honest attempt."""

    min_steps: int = 1
    """Minimum number of steps."""
    max_steps: int = 64
    """Maximum number of steps."""
    max_repeated_steps: float = 0.3
    """Maximum share of steps that repeat an earlier step, apart from white space."""
    max_repeated_words: float = 0.5
    """Maximum share of runs of `num_words` words that occurred before in the same solution."""
    num_words: int = 8
    """Words of such a run; a solution with fewer words has no runs."""
    penalty: float = 0.0
    """The reward of a caught solution; scores are at least 0."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_steps <= self.max_steps:
            raise ValueError(
                "min_steps must be at least 1 and at most max_steps; "
                f"{self.min_steps} and {self.max_steps} were given"
            )
        check_within(
            "[0, 1]", max_repeated_steps=self.max_repeated_steps, max_repeated_words=self.max_repeated_words
        )
        check_at_least(1, num_words=self.num_words)
        if not math.isfinite(self.penalty):
            raise ValueError(f"penalty must be finite; {self.penalty} was given")

    def catch(self, steps: Sequence[str]) -> Caught | None:
        """The reason to catch a solution that is cut into steps; None if it is an honest attempt."""
        words = "".join(steps).split()
        if not words:
            return "empty"
        if len(steps) < self.min_steps:
            return "too few steps"
        if len(steps) > self.max_steps:
            return "too many steps"
        if repeated_share([" ".join(step.split()) for step in steps]) > self.max_repeated_steps:
            return "repeated steps"
        runs = [
            tuple(words[start : start + self.num_words]) for start in range(len(words) - self.num_words + 1)
        ]
        if repeated_share(runs) > self.max_repeated_words:
            return "repeated words"
        return None


def repeated_share(items: Sequence[object]) -> float:
    """The share of items that are equal to an earlier one; 0 without items."""
    return 1 - len(set(items)) / len(items) if items else 0.0
