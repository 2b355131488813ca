"""The number of tokens that an experiment computes, from means over its problems.

P tokens of prompt, L of solution, S steps per solution, N solutions, k rollouts. A fork of a tree keeps on
average the first f L tokens of a solution and forces one (`fork_share` f).

    samples     N L sampled; prompts N P, of which (N - 1) P can be reused
    tree        L + (N - 1) ((1 - f) L - 1) sampled;
                prefixes N P + (N - 1) (f L + 1), of which (N - 1) (P + f L) can be reused
    rollouts    every one of D (S - 1) prefixes, j L / S tokens long for j = 1 .. S - 1, is completed k times:
                D k L (S - 1) / 2 sampled;
                D is N for samples, none of which share a prefix, and 1 + (N - 1) (1 - f) for leaves of a tree
    bisection   k L sampled from the question, and at most ceil(log2 S) prefixes per search, k L / 2 each
    reading     N (P + L + S) by a PRM that reads solutions one by one; P + D (L + S) if it reads trees

Invariant: counts are expectations under steps of equal length, solutions of equal length and trees that reach
all their leaves. The counts of rollouts of samples, bisection, early stopping and pruned trees are upper
bounds. Measured counts replace all of them (`pilot.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from forkpoint.evaluation.run import EvaluateConfig
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.leaf_plan import LeafPlan
from forkpoint.labels.omega_records import BisectConfig
from forkpoint.labels.plan import Plan
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.records import Cost
from forkpoint.training.config import TrainConfig


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """Means over the problems of a set, for one policy."""

    num_problems: int
    prompt_tokens: float
    """Tokens of the question in its template."""
    solution_tokens: float
    steps: float
    """Steps per solution, cut as the labels are."""
    fork_share: float = 0.5
    """The share f of a solution that a fork of its tree keeps, in [0, 1); 0.5 assumes that forks are
    anywhere."""

    def __post_init__(self) -> None:
        if not min(self.num_problems, self.prompt_tokens, self.solution_tokens, self.steps) > 0:
            raise ValueError(
                f"num_problems, prompt_tokens, solution_tokens and steps must be above 0; {self} was given"
            )
        if not 0 <= self.fork_share < 1:
            raise ValueError(f"fork_share must be in [0, 1); {self.fork_share} was given")

    def distinct(self, num_solutions: float, is_tree: bool) -> float:
        """Tokens of `num_solutions` solutions (sharing prefixes if they are a tree), in solutions (D)."""
        return 1 + (num_solutions - 1) * (1 - self.fork_share) if is_tree else num_solutions


@dataclass(frozen=True, slots=True)
class Labelling:
    """What labelling every problem of a set takes, and what it leaves for training."""

    cost: Cost
    num_solutions: float
    """Solutions per problem."""
    num_rollouts: int | None = None
    """Completions of every prefix; None if no prefixes are completed, or some less often than others."""


def labelling(problems: ProblemSet, plan: Plan[Any], num_leaves: int) -> Labelling:
    """The work of a plan; `num_leaves` is the size of a tree, if the plan grows any.

    TypeError for an unknown plan.
    """
    match plan:
        case LeafPlan():
            return Labelling(tree_cost(problems, num_leaves), num_leaves)
        case RolloutPlan():
            num_solutions = num_leaves if plan.grows_trees else plan.num_solutions
            num_rollouts = None if plan.stop_early else plan.num_rollouts
            return Labelling(rollouts_cost(problems, plan, num_leaves), num_solutions, num_rollouts)
        case BisectPlan():
            return Labelling(bisect_cost(problems, plan.search), bisect_solutions(problems, plan.search))
    raise TypeError(f"the cost of the plan {plan.name} is unknown")


def _total(
    problems: ProblemSet, requests: float, prompt_tokens: float, reused_tokens: float, sampled_tokens: float
) -> Cost:
    """The cost of all problems from that of one."""
    return Cost(
        *(
            round(problems.num_problems * number)
            for number in (requests, prompt_tokens, reused_tokens, sampled_tokens)
        )
    )


def samples_cost(problems: ProblemSet, num_solutions: int) -> Cost:
    """`num_solutions` independent samples of every problem."""
    prompt, solution = problems.prompt_tokens, problems.solution_tokens
    return _total(
        problems,
        num_solutions,
        num_solutions * prompt,
        (num_solutions - 1) * prompt,
        num_solutions * solution,
    )


def tree_cost(problems: ProblemSet, num_leaves: int) -> Cost:
    """One tree of `num_leaves` leaves per problem."""
    num_forks, kept = num_leaves - 1, problems.fork_share * problems.solution_tokens
    rest = max(0.0, problems.solution_tokens - kept - 1)
    return _total(
        problems,
        num_leaves,
        num_leaves * problems.prompt_tokens + num_forks * (kept + 1),
        num_forks * (problems.prompt_tokens + kept),
        problems.solution_tokens + num_forks * rest,
    )


def rollouts_cost(problems: ProblemSet, plan: RolloutPlan, num_leaves: int) -> Cost:
    """Solutions, and rollouts of their prefixes.

    A prefix is computed once for all of its rollouts, and once more in its solution.
    """
    prompt, solution, is_tree = problems.prompt_tokens, problems.solution_tokens, plan.grows_trees
    num_solutions = num_leaves if is_tree else plan.num_solutions
    solutions = tree_cost(problems, num_leaves) if is_tree else samples_cost(problems, num_solutions)
    num_lines, num_inner = problems.distinct(num_solutions, is_tree), max(0.0, problems.steps - 1)
    num_requests = num_lines * num_inner * plan.num_rollouts
    asked = num_requests * (prompt + solution / 2)
    computed = (prompt + num_lines * solution * num_inner / problems.steps) if num_inner else 0.0
    return solutions + _total(problems, num_requests, asked, asked - computed, num_requests * solution / 2)


def bisect_cost(problems: ProblemSet, config: BisectConfig) -> Cost:
    """An upper bound: every search is made, and evaluates the most prefixes that a binary search can."""
    prompt, solution, num_rollouts = problems.prompt_tokens, problems.solution_tokens, config.num_rollouts
    num_prefixes = config.max_searches * math.ceil(math.log2(max(1.0, problems.steps)))
    asked = num_rollouts * (prompt + num_prefixes * (prompt + solution / 2))
    computed = prompt + num_prefixes * solution / 2
    sampled = num_rollouts * (solution + num_prefixes * solution / 2)
    return _total(problems, num_rollouts * (1 + num_prefixes), asked, asked - computed, sampled)


def bisect_solutions(problems: ProblemSet, config: BisectConfig) -> int:
    """The largest number of solutions per problem that a search leaves."""
    return config.num_rollouts * (1 + config.max_searches * math.ceil(math.log2(max(1.0, problems.steps))))


def evaluate_cost(problems: ProblemSet, config: EvaluateConfig) -> Cost:
    """The greedy solution, HT samples at every temperature, and the tree."""
    ht = sum((samples_cost(problems, config.num_samples) for _ in config.temperatures), Cost())
    return samples_cost(problems, 1) + ht + tree_cost(problems, config.num_samples)


def raft_cost(problems: ProblemSet, eval_problems: ProblemSet, config: RaftConfig) -> Cost:
    """Samples of all `problems` in every iteration; evaluations of the base policy and every iteration."""
    evaluation = samples_cost(eval_problems, 1) + samples_cost(eval_problems, config.num_eval_samples)
    return scaled(samples_cost(problems, config.num_samples), config.num_iterations) + scaled(
        evaluation, config.num_iterations + 1
    )


def scaled(cost: Cost, factor: float) -> Cost:
    """The cost, times a factor."""
    return Cost(
        *(
            round(number * factor)
            for number in (cost.requests, cost.prompt_tokens, cost.reused_tokens, cost.sampled_tokens)
        )
    )


def read_tokens(
    problems: ProblemSet,
    num_solutions: float,
    is_tree: bool,
    is_packed: bool = True,
    max_pack_tokens: float = math.inf,
) -> int:
    """Tokens of all problems that a PRM reads, one tag per step included.

    With `is_packed`, the solutions of a problem are read as one tree. A tree of more than `max_pack_tokens`
    becomes several rows, each of which reads the prompt again and, for an EDU tree, the f L tokens that a
    fork keeps.
    """
    solution = problems.solution_tokens + problems.steps
    if not is_packed:
        return round(problems.num_problems * num_solutions * (problems.prompt_tokens + solution))
    tokens = problems.prompt_tokens + problems.distinct(num_solutions, is_tree) * solution
    again = problems.prompt_tokens + (problems.fork_share * solution if is_tree else 0.0)
    num_more = max(0, math.ceil((tokens - again) / max(1.0, max_pack_tokens - again)) - 1)
    return round(problems.num_problems * (tokens + num_more * again))


def trained_tokens(problems: ProblemSet, num_solutions: float, is_tree: bool, config: TrainConfig) -> int:
    """Tokens that training a PRM computes in all epochs, solutions that are too long for it included."""
    num_taken = min(num_solutions, config.max_solutions_per_problem or num_solutions)
    is_packed = config.packing == "tree"
    return round(
        config.num_epochs * read_tokens(problems, num_taken, is_tree, is_packed, config.max_pack_tokens)
    )


def fine_tuned_tokens(problems: ProblemSet, config: RaftConfig) -> int:
    """Tokens that RAFT's fine-tunings compute, prompts included.

    An upper bound: it is assumed that every problem keeps a completion.
    """
    row = problems.prompt_tokens + problems.solution_tokens
    return round(config.num_iterations * problems.num_problems * config.sft.num_epochs * row)
