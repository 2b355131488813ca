"""Have a policy solve problems, by trees or by independent samples, and grade the solutions.

Invariant: there is one outcome per problem; problems are solved side by side and do not affect each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from forkpoint.policies.context import room_after
from forkpoint.policies.jobs import done_jobs
from forkpoint.records import Cost, Policy, Problem, Tree
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome, ends_of, paths_of
from forkpoint.solutions.sample import RolloutConfig, Samples
from forkpoint.trees.ahead import Allowance
from forkpoint.trees.frontier import OrderFrontier
from forkpoint.trees.grow import TreeConfig, TreeGrower
from forkpoint.trees.steer import Nursery, SteeredGrower, Steering


def solve_by_tree(
    policy: Policy, problems: Sequence[Problem], config: TreeConfig, steering: Steering | None = None
) -> list[TreeOutcome]:
    """An EDU tree per problem, steered by a PRM if `steering` is given (P-EDU, MCTS-EDU).

    ValueError if a prompt does not fit the policy's context.
    """
    outcomes = dict(trees_of(policy, enumerate(problems), config, steering))
    return [outcomes[idx] for idx in range(len(problems))]


def solve_by_sampling(
    policy: Policy, problems: Sequence[Problem], config: RolloutConfig
) -> list[SampleOutcome]:
    """Independent samples of every prompt. ValueError if a prompt does not fit the policy's context."""
    outcomes = dict(samples_of(policy, enumerate(problems), config))
    return [outcomes[idx] for idx in range(len(problems))]


def trees_of(
    policy: Policy,
    problems: Iterable[tuple[int, Problem]],
    config: TreeConfig,
    steering: Steering | None = None,
    at_a_time: int | None = None,
    allowance: Allowance | None = None,
) -> Iterator[tuple[int, TreeOutcome]]:
    """As `solve_by_tree`, for numbered problems: each outcome as soon as its tree is grown, in any order.

    Problems are taken as the policy has room, at most `at_a_time` at a time. `allowance` is as for
    `grow_trees`; steered trees grow nothing ahead.
    """
    nursery = Nursery(policy, config, steering) if steering else None

    def begun(problem: Problem) -> TreeGrower:
        if nursery is not None:
            return nursery.begun(problem)
        prompt_ids = policy.encode_question(problem.question)
        return TreeGrower(policy, prompt_ids, config, OrderFrontier(config.order), allowance)

    jobs = (((idx, problem), begun(problem)) for idx, problem in problems)
    settle = cast(Any, nursery.settle) if nursery else None
    for (idx, problem), grower in done_jobs(policy, jobs, settle, at_a_time):
        outcome = _graded_tree(policy, problem, grower.tree, grower.cost)
        if isinstance(grower, SteeredGrower):
            found = grower.result
            outcome = replace(outcome, scoring=found.scoring, num_pruned=found.num_pruned)
        yield idx, outcome


def samples_of(
    policy: Policy,
    problems: Iterable[tuple[int, Problem]],
    config: RolloutConfig,
    at_a_time: int | None = None,
) -> Iterator[tuple[int, SampleOutcome]]:
    """As `solve_by_sampling`, for numbered problems; see `trees_of`."""

    def begun(problem: Problem) -> Samples:
        prompt_ids = policy.encode_question(problem.question)
        return Samples(prompt_ids, config, room_after(policy, prompt_ids, config.max_tokens))

    jobs = (((idx, problem), begun(problem)) for idx, problem in problems)
    for (idx, problem), samples in done_jobs(policy, jobs, at_a_time=at_a_time):
        paths = paths_of(policy, samples.completions)
        (ends,) = ends_of([problem], [paths])
        yield idx, SampleOutcome(problem, paths, ends, samples.cost)


def _graded_tree(policy: Policy, problem: Problem, tree: Tree, cost: Cost) -> TreeOutcome:
    leaf_paths = paths_of(policy, [tree.path(idx) for idx in range(tree.num_leaves)])
    (ends,) = ends_of([problem], [leaf_paths])
    own_texts = tuple(
        path.token_texts[branch.fork :] for path, branch in zip(leaf_paths, tree.branches, strict=True)
    )
    return TreeOutcome(problem, tree, own_texts, ends, cost)
