"""Solving as the work of a run: one tree, or one set of independent samples, per problem.

Invariant: a row is a function of the policy, the settings and its problem, whatever was sampled before or
beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.policies.context import fits_context
from forkpoint.records import Policy, Problem
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.solve import solve_by_sampling, solve_by_tree
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
    ) -> None:
        self._policy, self._problems, self._config, self._steering = policy, problems, config, steering
        identity = {"tree": asdict(config), "policy": policy.name} | (steering.identity() if steering else {})
        self.keys = [content_key({**identity, "problem": asdict(problem)}) for problem in problems]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        problems = [self._problems[idx] for idx in idxs]
        return _solved(
            self._policy,
            problems,
            lambda fitting: solve_by_tree(self._policy, fitting, self._config, self._steering),
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
        problems = [self._problems[idx] for idx in idxs]
        return _solved(
            self._policy, problems, lambda fitting: solve_by_sampling(self._policy, fitting, self._config)
        )


def outcome_of(row: dict[str, Any]) -> TreeOutcome | SampleOutcome:
    """The outcome in a journal row."""
    return TreeOutcome.from_row(row) if row["kind"] == "tree" else SampleOutcome.from_row(row)


def _solved(policy: Policy, problems: Sequence[Problem], solve: Any) -> list[dict[str, Any]]:
    policy.reset_cache()  # so that a row does not depend on which chunks were done before
    fits = [fits_context(policy, problem) for problem in problems]
    outcomes = iter(solve([problem for problem, fit in zip(problems, fits, strict=True) if fit]))
    return [
        next(outcomes).to_row() if fit else {"kind": "skipped", "problem": asdict(problem)}
        for problem, fit in zip(problems, fits, strict=True)
    ]
