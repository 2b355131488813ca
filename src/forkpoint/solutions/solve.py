"""Have a policy solve problems, by trees or by independent samples, and grade the solutions.

Invariant: there is one outcome per problem, in the same order; problems are solved side by side and do not
affect each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from forkpoint.policies.context import room_after
from forkpoint.records import Cost, Policy, Problem, Tree
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome, ends_of, paths_of
from forkpoint.solutions.sample import RolloutConfig, sample
from forkpoint.trees.grow import TreeConfig, grow_trees
from forkpoint.trees.steer import Steering, steer_trees


def solve_by_tree(
    policy: Policy, problems: Sequence[Problem], config: TreeConfig, steering: Steering | None = None
) -> list[TreeOutcome]:
    """An EDU tree per problem, steered by a PRM if `steering` is given (P-EDU, MCTS-EDU).

    ValueError if a prompt does not fit the policy's context.
    """
    if steering is None:
        grown = grow_trees(policy, [policy.encode_question(problem.question) for problem in problems], config)
        return _graded_trees(policy, problems, grown)
    found = steer_trees(policy, problems, config, steering)
    outcomes = _graded_trees(policy, problems, [(item.tree, item.cost) for item in found])
    return [
        replace(outcome, scoring=item.scoring, num_pruned=item.num_pruned)
        for outcome, item in zip(outcomes, found, strict=True)
    ]


def _graded_trees(
    policy: Policy, problems: Sequence[Problem], grown: Sequence[tuple[Tree, Cost]]
) -> list[TreeOutcome]:
    paths = [paths_of(policy, [tree.path(idx) for idx in range(tree.num_leaves)]) for tree, _ in grown]
    ends = ends_of(problems, paths)
    outcomes = []
    for problem, (tree, cost), leaf_paths, leaf_ends in zip(problems, grown, paths, ends, strict=True):
        own_texts = tuple(
            path.token_texts[branch.fork :] for path, branch in zip(leaf_paths, tree.branches, strict=True)
        )
        outcomes.append(TreeOutcome(problem, tree, own_texts, leaf_ends, cost))
    return outcomes


def solve_by_sampling(
    policy: Policy, problems: Sequence[Problem], config: RolloutConfig
) -> list[SampleOutcome]:
    """Independent samples of every prompt. ValueError if a prompt does not fit the policy's context."""
    prompts = [policy.encode_question(problem.question) for problem in problems]
    limits = [room_after(policy, prompt, config.max_tokens) for prompt in prompts]
    sampled = sample(policy, prompts, config, limits)
    paths = [paths_of(policy, completions) for completions, _ in sampled]
    ends = ends_of(problems, paths)
    return [
        SampleOutcome(problem, sample_paths, sample_ends, cost)
        for problem, sample_paths, sample_ends, (_, cost) in zip(problems, paths, ends, sampled, strict=True)
    ]
