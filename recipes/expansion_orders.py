"""Which anchor should be forked first? The three expansion orders with equal leaves, and HT sampling.

    python recipes/expansion_orders.py --num-problems 300

The HT samples are drawn at several temperatures. For each way, this prints the accuracy of the majority and
of the oracle over 16 solutions with 95 % intervals, and the sampled tokens per problem. Then it compares the
oracle of every order with HT at T = 0.7, paired on the same problems.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cyclopts
import numpy as np

from forkpoint.estimates import bootstrap
from forkpoint.evaluation.metrics import Attempts, CurvePoint, curve
from forkpoint.policies import load_policy
from forkpoint.problems import load_problems
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.solve import solve_by_sampling, solve_by_tree
from forkpoint.trees.frontier import ORDERS
from forkpoint.trees.grow import TreeConfig


@dataclass(frozen=True)
class OrdersConfig:
    """The settings of the comparison."""

    policy: str = "lab"
    problems: str = "lab:test"
    num_problems: int = 300
    num_solutions: int = 16
    temperatures: tuple[float, ...] = (0.5, 0.7, 1.0)
    tau: float = 1.0
    max_tokens: int = 160


def main(config: Annotated[OrdersConfig, cyclopts.Parameter(name="*")] = OrdersConfig()) -> None:
    """Compare the expansion orders."""
    policy = load_policy(config.policy)
    problems = load_problems(f"{config.problems}?num={config.num_problems}")
    found: dict[str, dict[str, CurvePoint]] = {}
    for order in ORDERS:
        tree = TreeConfig(
            num_leaves=config.num_solutions, order=order, tau=config.tau, max_tokens=config.max_tokens
        )
        trees = [
            Attempts(outcome.problem.id, outcome.solutions())
            for outcome in solve_by_tree(policy, problems, tree)
        ]
        points = curve(trees, [config.num_solutions], is_exchangeable=False)
        found[f"EDU {order}"] = {point.select: point for point in points}
    for temperature in config.temperatures:
        rollouts = RolloutConfig(config.num_solutions, temperature, max_tokens=config.max_tokens)
        samples = [
            Attempts(outcome.problem.id, outcome.solutions())
            for outcome in solve_by_sampling(policy, problems, rollouts)
        ]
        points = curve(samples, [config.num_solutions], is_exchangeable=True)
        found[f"HT T={temperature:g}"] = {point.select: point for point in points}
    print(
        f"{'':14} majority@{config.num_solutions}              oracle@{config.num_solutions}                "
        "tokens/problem"
    )
    for name, by_select in found.items():
        majority, oracle = (bootstrap(by_select[select].accuracy_P) for select in ("majority", "oracle"))
        shown = "   ".join(
            f"{item.mean:.3f} ({item.low:.3f} .. {item.high:.3f})" for item in (majority, oracle)
        )
        print(f"{name:14} {shown}   {by_select['oracle'].tokens_P.mean():.0f}")
    for order in ORDERS if 0.7 in config.temperatures else ():
        difference = bootstrap(
            np.subtract(found[f"EDU {order}"]["oracle"].accuracy_P, found["HT T=0.7"]["oracle"].accuracy_P)
        )
        print(
            f"oracle, EDU {order} minus HT T=0.7: "
            f"{difference.mean:+.3f} ({difference.low:+.3f} .. {difference.high:+.3f})"
        )


if __name__ == "__main__":
    cyclopts.run(main)
