"""What every plan promises, and what decides how its outcomes are sampled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import LeafPlan
from forkpoint.labels.plan import Plan, Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import PLANS
from forkpoint.labels.values import PlanName
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import Steering, SteeringConfig

TREE, LABELS = TreeConfig(max_tokens=8), LabelConfig()
TREE_ROLLOUTS = RolloutPlan(source="tree")
GOLD = Steering(SteeringConfig(expand="mcts", value="outcome"))


def test_every_plan_of_the_command_line_is_there_under_its_name() -> None:
    assert set(PLANS) == set(get_args(PlanName))
    for name, plan in PLANS.items():
        assert plan.name == plan.identity(LABELS, TREE.rule)["plan"] == name


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (LeafPlan(), {"plan", "tree"}),
        (
            RolloutPlan(),
            {"plan", "solutions", "rollouts", "stop", "segmentation", "rule", "seed", "max_tokens"},
        ),
        (BisectPlan(), {"plan", "search", "rollouts", "segmentation", "rule", "seed", "max_tokens"}),
    ],
)
def test_a_run_records_what_its_rows_depend_on(plan: Plan[Any], names: set[str]) -> None:
    assert set(Sampling(plan).identity(TREE, LABELS)) == names


def test_trees_do_not_depend_on_the_seed_and_samples_do() -> None:
    assert Sampling(LeafPlan(), 0).identity(TREE, LABELS) == Sampling(LeafPlan(), 1).identity(TREE, LABELS)
    for plan in (RolloutPlan(), TREE_ROLLOUTS, BisectPlan()):
        assert Sampling(plan, 0).identity(TREE, LABELS) != Sampling(plan, 1).identity(TREE, LABELS)


def test_more_rollouts_are_the_same_run_and_another_temperature_is_not() -> None:
    plan = RolloutPlan()
    recorded = plan.identity(LABELS, TREE.rule)
    assert replace(plan, num_rollouts=99).identity(LABELS, TREE.rule) == recorded
    assert replace(plan, rollout_temperature=0.5).identity(LABELS, TREE.rule) != recorded


def test_only_plans_that_grow_trees_can_be_steered() -> None:
    for plan in (LeafPlan(), TREE_ROLLOUTS):
        assert Sampling(plan, steering=GOLD).identity(TREE, LABELS)["steering"] == GOLD.identity()
    for unsteered in (RolloutPlan(), BisectPlan()):
        with pytest.raises(ValueError, match="only trees can be pruned or searched"):
            Sampling(unsteered, steering=GOLD)
