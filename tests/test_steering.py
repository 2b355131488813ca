"""Steered trees through the stages: pruning is journaled, counted and part of a run's configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forkpoint.errors import ConfigDiffers
from forkpoint.evaluation.run import EvaluateConfig, Judge, SolutionSources, evaluate_policy, write_results
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import LeafPlan, tree_outcomes
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems
from forkpoint.policies import ScriptedPolicy
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor, Run
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import Steering, SteeringConfig

SCRIPT = {
    "": {"one\n": 0.6, "two\n": 0.4},
    "one\n": {"The answer is 1": 0.55, "The answer is 2": 0.45},
    "two\n": {"The answer is 1": 0.5, "The answer is 3": 0.5},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", "1") for idx in range(5)]
TREE = TreeConfig(tau=0.5, num_leaves=4)
QUIET = LocalExecutor(chunk_size=2, progress=False)
SOFT = LabelConfig()


class Doubtful:
    """Thinks little of `two`."""

    name = "doubtful"

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[0.1 if "two" in step else 0.9 for step in its_steps] for its_steps in steps]


P_EDU = Steering(SteeringConfig(prune_below=0.2), Doubtful())
STEERED = Sampling(LeafPlan(), steering=P_EDU)


def test_what_is_pruned_is_journaled_and_counted(tmp_path: Path) -> None:
    plain = label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "plain", TREE, SOFT, QUIET)
    pruned = label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "pruned", TREE, SOFT, QUIET, STEERED)
    assert (plain.num_solutions, plain.num_pruned, plain.num_prm_tokens) == (20, 0, 0)
    assert (pruned.num_solutions, pruned.num_pruned) == (15, 5)  # the fork behind `two` is closed
    assert pruned.num_prm_tokens > 0
    with Run.read(tmp_path / "pruned") as run:
        for outcome in tree_outcomes(run):
            assert outcome.num_pruned == 1 and outcome.scoring is not None
            assert TreeOutcome.from_row(json.loads(json.dumps(outcome.to_row()))) == outcome
    again = ScriptedPolicy(SCRIPT)
    assert label_problems(PROBLEMS, again, tmp_path / "pruned", TREE, SOFT, QUIET, STEERED) == pruned
    assert again.requests == []


def test_a_run_is_of_one_search_and_one_scorer(tmp_path: Path) -> None:
    label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", TREE, SOFT, QUIET, STEERED)
    other = replace(P_EDU, config=SteeringConfig(prune_below=0.3))
    with pytest.raises(ConfigDiffers, match=r"steering.search.prune_below: 0.2 there, 0.3 here"):
        label_problems(
            PROBLEMS,
            ScriptedPolicy(SCRIPT),
            tmp_path / "run",
            TREE,
            SOFT,
            QUIET,
            Sampling(LeafPlan(), steering=other),
        )
    with pytest.raises(ConfigDiffers, match="steering"):
        label_problems(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", TREE, SOFT, QUIET)
    with pytest.raises(ValueError, match="only trees can be pruned"):
        label_problems(
            PROBLEMS,
            ScriptedPolicy(SCRIPT),
            tmp_path / "x",
            TREE,
            SOFT,
            QUIET,
            Sampling(RolloutPlan(), steering=P_EDU),
        )


def test_an_evaluation_reports_the_prm_s_tokens_and_refuses_gold_answers(tmp_path: Path) -> None:
    policy, config = ScriptedPolicy(SCRIPT), EvaluateConfig(num_samples=4, max_tokens=8)
    evaluation = evaluate_policy(
        PROBLEMS, policy, tmp_path / "run", SolutionSources(config, TREE, P_EDU), QUIET, Judge(Doubtful())
    )
    assert evaluation.search is not None
    assert evaluation.search["pruned_per_problem"] == 1.0 and evaluation.search["prm_tokens_per_problem"] > 0
    assert write_results(tmp_path, evaluation, {}, policy, {})["search"] == evaluation.search
    gold = Steering(SteeringConfig(expand="mcts", value="outcome"))
    with pytest.raises(ValueError, match="reads the gold answers"):
        evaluate_policy(PROBLEMS, policy, tmp_path / "gold", SolutionSources(config, TREE, gold), QUIET)
    labelled = label_problems(
        PROBLEMS, policy, tmp_path / "labels", TREE, SOFT, QUIET, Sampling(LeafPlan(), steering=gold)
    )
    assert labelled.num_solutions == 20
