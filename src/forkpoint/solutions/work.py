"""Solving as the work of a run: one tree, or one set of independent samples, per problem.

Invariant: a row is a function of the policy, the settings and its problem, whatever was sampled before or
beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.policies.context import fits_context
from forkpoint.records import Policy, Problem
from forkpoint.runs.work import Rows, rows_of
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.solve import samples_of, trees_of
from forkpoint.trees.ahead import MAX_WASTE, Allowance
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import Steering


class TreeWork:
    """One tree per problem.

    A problem whose prompt does not fit the policy's context gets a row that says so.
    """

    stays_here = False
    shows_progress = True

    def __init__(
        self,
        policy: Policy,
        problems: Sequence[Problem],
        config: TreeConfig,
        steering: Steering | None = None,
        max_waste: float = MAX_WASTE,
    ) -> None:
        self._policy, self._problems, self._config, self._steering = policy, problems, config, steering
        self.allowance = Allowance(max_waste)
        """What the trees of this process have grown ahead for nothing."""
        identity = {"tree": asdict(config), "policy": policy.name} | (steering.identity() if steering else {})
        self.keys = [content_key({**identity, "problem": asdict(problem)}) for problem in problems]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        return rows_of(self, idxs)

    def stream(self, idxs: Iterable[int], at_a_time: int) -> Rows:
        fitting = _Fitting(self._policy, self._problems, idxs)
        return fitting.rows(
            trees_of(self._policy, fitting, self._config, self._steering, at_a_time, self.allowance)
        )


class SampleWork:
    """Independent samples per problem.

    A problem whose prompt does not fit the policy's context gets a row that says so.
    """

    stays_here = False
    shows_progress = True

    def __init__(self, policy: Policy, problems: Sequence[Problem], config: RolloutConfig) -> None:
        self._policy, self._problems, self._config = policy, problems, config
        self.keys = [
            content_key({"samples": asdict(config), "policy": policy.name, "problem": asdict(problem)})
            for problem in problems
        ]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        return rows_of(self, idxs)

    def stream(self, idxs: Iterable[int], at_a_time: int) -> Rows:
        fitting = _Fitting(self._policy, self._problems, idxs)
        return fitting.rows(samples_of(self._policy, fitting, self._config, at_a_time))


def outcome_of(row: dict[str, Any]) -> TreeOutcome | SampleOutcome:
    """The outcome in a journal row."""
    return TreeOutcome.from_row(row) if row["kind"] == "tree" else SampleOutcome.from_row(row)


class _Fitting:
    """The problems with the given indices whose prompts fit the policy's context; the others get a row."""

    def __init__(self, policy: Policy, problems: Sequence[Problem], idxs: Iterable[int]) -> None:
        policy.reset_cache()  # the memory of what was done before is not needed any more
        self._policy, self._problems, self._idxs = policy, problems, idxs
        self._skipped: deque[int] = deque()

    def __iter__(self) -> Iterator[tuple[int, Problem]]:
        for idx in self._idxs:
            if fits_context(self._policy, self._problems[idx]):
                yield idx, self._problems[idx]
            else:
                self._skipped.append(idx)

    def rows(self, outcomes: Iterator[tuple[int, TreeOutcome | SampleOutcome]]) -> Rows:
        """The rows of all problems, given the outcomes of those that fit."""
        for idx, outcome in outcomes:
            yield idx, outcome.to_row()
            yield from self._take_skipped()
        yield from self._take_skipped()

    def _take_skipped(self) -> Rows:
        while self._skipped:
            idx = self._skipped.popleft()
            yield idx, {"kind": "skipped", "problem": asdict(self._problems[idx])}
