"""Whether a policy is useful in the lab: right often enough to learn from, wrong often enough to improve.

It should also be unsure at the right places. Invariant: everything is measured on new samples of the given
policy; nothing is read from its model card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from forkpoint.checks import check_above, check_at_least
from forkpoint.estimates import Estimate, bootstrap
from forkpoint.evaluation.metrics import Attempts, curve
from forkpoint.lab.oracle import first_error
from forkpoint.lab.problem_set import lab_story
from forkpoint.problems import load_problems
from forkpoint.records import Policy
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.solve import solve_by_sampling
from forkpoint.steps import AnchorRule


@dataclass(frozen=True)
class CheckConfig:
    """Which problems are solved, and how."""

    problems: str = "lab:test?num=200"
    """The lab problems."""
    num_samples: int = 64
    """Samples per problem."""
    temperature: float = 0.7
    """Temperature of the samples."""
    tau: float = 1.0
    """Entropy in nats above which a token counts as an anchor."""
    max_tokens: int = 160
    """Maximum number of tokens of a solution."""

    def __post_init__(self) -> None:
        check_at_least(1, num_samples=self.num_samples, max_tokens=self.max_tokens)
        check_above(0, temperature=self.temperature)
        check_at_least(0, tau=self.tau)


@dataclass(frozen=True)
class PolicyCheck:
    """Accuracies and anchors of a policy on lab problems."""

    greedy: Estimate
    """Accuracy of the greedy solution."""
    sampled: Estimate
    """Accuracy of one sample."""
    majority: Estimate
    """Accuracy of the majority vote of all samples."""
    oracle: Estimate
    """Share of problems with a right answer among all samples."""
    anchors: Estimate
    """Anchors per greedy solution."""
    first_errors: dict[str, int]
    """Number of greedy solutions by kind of their first error; `none` counts those that are right in every
    step."""


def check_policy(
    policy: Policy, config: CheckConfig, on_stage: Callable[[str], None] = lambda _: None
) -> PolicyCheck:
    """Measure a policy on lab problems."""
    problems = load_problems(config.problems)
    on_stage(f"greedy solutions of {len(problems)} problems")
    greedy = solve_by_sampling(policy, problems, RolloutConfig(1, 0.0, max_tokens=config.max_tokens))
    rule = AnchorRule(tau=config.tau)
    paths = [outcome.path(0) for outcome in greedy]
    anchors = [
        len(rule.anchors(path.completion.entropies, rule.can_fork(path.token_texts))) for path in paths
    ]
    kinds = Counter(
        error.kind if (error := first_error(lab_story(problem.id), path.text)) else "none"
        for problem, path in zip(problems, paths, strict=True)
    )
    on_stage(f"{config.num_samples} samples each at T = {config.temperature:g}")
    rollouts = RolloutConfig(config.num_samples, config.temperature, max_tokens=config.max_tokens)
    sampled = solve_by_sampling(policy, problems, rollouts)
    attempts = [Attempts(outcome.problem.id, outcome.solutions()) for outcome in sampled]
    points = {
        (point.select, point.n): bootstrap(point.accuracy_P)
        for point in curve(attempts, [1, config.num_samples], True)
    }
    return PolicyCheck(
        greedy=bootstrap([float(outcome.ends[0].is_correct) for outcome in greedy]),
        sampled=points["majority", 1],
        majority=points["majority", config.num_samples],
        oracle=points["oracle", config.num_samples],
        anchors=bootstrap([float(count) for count in anchors]),
        first_errors=dict(kinds.most_common()),
    )
