"""What a search ended with, as it is journaled: solutions with their step scores, graded, and the tokens that they took.

Invariant: a row holds every solution and every step score, so any choice among them is made again without policy or PRM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from forkpoint.grading.ends import End
from forkpoint.records import Cost, Problem
from forkpoint.search.config import Choose
from forkpoint.search.guide import Readings
from forkpoint.select import Aggregate, aggregate, best, majority, sharpened, weighted_vote


@dataclass(frozen=True, slots=True)
class Found:
    """A solution, whole or given up at a limit."""

    steps: tuple[str, ...]
    """Joined they are the text; of one that was given up, the complete steps."""
    scores: tuple[float, ...]
    """In [0, 1], one per step, rounded to 6 decimals."""
    num_tokens: int
    is_finished: bool
    """Whether the policy ended it."""
    end: End
    weight: float = 1.0
    """Of a tree's leaf, what the policy gives it among all leaves, times their number (rounded to 6 decimals); 1 of all else."""


@dataclass(frozen=True, slots=True)
class SearchTokens:
    """What one problem took, of the policy and of the PRM, with and without reuse of what was computed before.

    With reuse every prefix is computed once: the prompt, since all else that is continued was sampled here. Without reuse
    each request computes its whole prefix, and each text that is scored is read from the start.
    """

    sampled: int
    """Tokens that the policy sampled, those that are in no solution included."""
    prompt: int
    prefixes: int
    """Prompt and everything decided before, added up over all requests."""
    read: int
    """Tokens that the PRM read, each scored text from the start; prompts and step tags included."""
    read_once: int
    """The same with every distinct prefix counted once."""

    @classmethod
    def of(cls, cost: Cost, readings: Readings) -> SearchTokens:
        """Out of what was asked of the policy, and what the PRM read."""
        num_prompt = len(readings.prompt_ids)
        return cls(
            cost.sampled_tokens, num_prompt, cost.prompt_tokens, readings.num_read, readings.num_read_once
        )

    def policy(self, has_reuse: bool = True) -> int:
        """Tokens that the policy computed."""
        return self.sampled + (self.prompt if has_reuse else self.prefixes)

    def prm(self, has_reuse: bool = True) -> int:
        """Tokens that the PRM computed."""
        return self.read_once if has_reuse else self.read

    def total(self, prm_weight: float = 1.0, has_reuse: bool = True) -> float:
        """Both on one axis: tokens of the policy, where a token of the PRM counts `prm_weight`."""
        return self.policy(has_reuse) + prm_weight * self.prm(has_reuse)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The solutions of one problem, in a fixed order, at least one."""

    problem: Problem
    found: tuple[Found, ...]
    tokens: SearchTokens

    @property
    def answers(self) -> list[str | None]:
        return [item.end.answer for item in self.found]

    def scores(self, how: Aggregate) -> list[float]:
        """One score in [0, 1] per solution."""
        return [aggregate(item.scores, how) for item in self.found]

    def votes(self, how: Aggregate, sharpness: float) -> list[float]:
        """What each solution counts in a policy-weighted vote."""
        return sharpened(self.scores(how), [item.weight for item in self.found], sharpness)

    def pick(self, choose: Choose, how: Aggregate, sharpness: float = 1.0) -> int:
        """The index of the solution that is the answer; of equals the first. `sharpness` is that of policy-weighted votes."""
        match choose:
            case "best":
                return best(self.scores(how))
            case "weighted":
                return weighted_vote(self.answers, self.scores(how))
            case "majority":
                return majority(self.answers)
            case "policy-weighted":
                return weighted_vote(self.answers, self.votes(how, sharpness))

    def to_row(self) -> dict[str, Any]:
        found = [asdict(item) for item in self.found]
        return {
            "kind": "search",
            "problem": asdict(self.problem),
            "found": found,
            "tokens": asdict(self.tokens),
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> SearchResult:
        return cls(
            Problem(**row["problem"]),
            tuple(_found(item) for item in row["found"]),
            SearchTokens(**row["tokens"]),
        )


def _found(item: dict[str, Any]) -> Found:
    sequences: dict[str, Sequence[Any]] = {name: tuple(item[name]) for name in ("steps", "scores")}
    return Found(**{**item, **sequences, "end": End(**item["end"])})
