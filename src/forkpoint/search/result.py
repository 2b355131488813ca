"""The result of a search, as it is journaled: graded solutions with step scores, and the tokens they took.

Invariant: a row holds every solution and every step score, so any choice among them can be repeated without
policy or PRM.
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
    """A solution, complete or cut off at a limit."""

    steps: tuple[str, ...]
    """The steps, which joined are the text; if the solution was cut off, its complete steps."""
    scores: tuple[float, ...]
    """One score per step, in [0, 1], rounded to 6 decimals."""
    num_tokens: int
    is_finished: bool
    """Whether the policy ended it."""
    end: End
    weight: float = 1.0
    """The weight in a policy-weighted vote: for a leaf, its share of the policy's probability among all
    leaves times their number, rounded to 6 decimals; 1 for all other solutions."""


@dataclass(frozen=True, slots=True)
class SearchTokens:
    """The tokens that policy and PRM computed for one problem, with and without reuse of earlier work.

    With reuse every prefix is computed once; for the policy that is the prompt, because everything else that
    it continues was sampled in this search. Without reuse each request computes its whole prefix, and the PRM
    reads each text from its start.
    """

    sampled: int
    """Tokens that the policy sampled, including those that are in no solution."""
    prompt: int
    """Tokens of the prompt."""
    prefixes: int
    """The lengths of the prefixes of all requests, added up; a prefix is the prompt and everything decided so
    far."""
    read: int
    """Tokens that the PRM read, each text from its start, prompts and step tags included."""
    read_once: int
    """The same, but with every distinct prefix counted once."""

    @classmethod
    def of(cls, cost: Cost, readings: Readings) -> SearchTokens:
        """The tokens of a problem, from the cost of the policy's requests and the readings of the PRM."""
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
        """Policy and PRM on one axis: a token of the PRM counts as `prm_weight` tokens of the policy."""
        return self.policy(has_reuse) + prm_weight * self.prm(has_reuse)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The solutions of one problem, at least one, in a fixed order."""

    problem: Problem
    found: tuple[Found, ...]
    tokens: SearchTokens

    @property
    def answers(self) -> list[str | None]:
        """The answer of each solution; None if a solution has none."""
        return [item.end.answer for item in self.found]

    def scores(self, how: Aggregate) -> list[float]:
        """One score in [0, 1] per solution."""
        return [aggregate(item.scores, how) for item in self.found]

    def votes(self, how: Aggregate, sharpness: float) -> list[float]:
        """The weight of each solution in a policy-weighted vote, after its score is taken into account."""
        return sharpened(self.scores(how), [item.weight for item in self.found], sharpness)

    def pick(self, choose: Choose, how: Aggregate, sharpness: float = 1.0) -> int:
        """The index of the chosen solution; the first one among equals.

        `sharpness` is that of policy-weighted votes.
        """
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
