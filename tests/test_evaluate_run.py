"""The evaluate stage on a scripted policy and a scorer that knows the truth, and the files that it writes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from forkpoint.evaluation.run import EvaluateConfig, Judge, SolutionSources, evaluate_policy, write_results
from forkpoint.policies import ScriptedPolicy
from forkpoint.problems import load_problems
from forkpoint.records import Problem
from forkpoint.report import write_report
from forkpoint.runs import LocalExecutor
from forkpoint.trees.grow import TreeConfig

SCRIPT = {
    "": {"one\n": 0.6, "two\n": 0.4},
    "one\n": {"The answer is 1": 0.55, "The answer is 2": 0.45},
    "two\n": {"The answer is 3": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", "3") for idx in range(8)]
QUIET = LocalExecutor(chunk_size=4, progress=False)
TREE = TreeConfig(tau=0.5, num_leaves=4)
CONFIG = EvaluateConfig(num_samples=4, temperatures=(0.7, 1.0))
SOURCES = SolutionSources(CONFIG, TREE)


class KnowingScorer:
    """Likes `two` and nothing else; counts what it is asked."""

    name = "knowing"

    def __init__(self) -> None:
        self.num_scored = 0

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        self.num_scored += len(steps)
        return [[0.9 if "two" in "".join(solution) else 0.1 for _ in solution] for solution in steps]


def test_a_scorer_that_knows_beats_the_majority(tmp_path: Path) -> None:
    scorer = KnowingScorer()
    evaluation = evaluate_policy(
        PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", SOURCES, QUIET, Judge(scorer)
    )
    rows = {
        (row["sampler"], row["temperature"], row["select"], row["aggregate"], row["n"]): row
        for row in evaluation.rows
    }
    assert rows["ht", 0.0, "greedy", None, 1]["accuracy"] == 0.0
    assert rows["edu", 0.0, "oracle", None, 4]["accuracy"] == 1.0
    assert rows["edu", 0.0, "best", "min", 4]["accuracy"] == 1.0
    assert rows["edu", 0.0, "majority", None, 4]["accuracy"] == 0.0
    for temperature in (0.7, 1.0):
        oracle = rows["ht", temperature, "oracle", None, 4]["accuracy"]
        assert (
            rows["ht", temperature, "best", "prod", 4]["accuracy"]
            == oracle
            > rows["ht", temperature, "majority", None, 4]["accuracy"]
        )
    assert {row["n"] for row in evaluation.rows} == {1, 2, 4}
    assert rows["edu", 0.0, "best", "min", 4]["sampled_tokens_per_problem"] == 3 + 2 + 1
    names = {item["name"]: item for item in evaluation.comparisons}
    assert names["EDU best-of-4 (min) minus EDU majority-of-4"]["difference"] == 1.0
    # one leaf in three: .4 * .9^3 against .33 and .27 times .1^3; a vote without its scores would lose
    assert rows["edu", 0.0, "policy-weighted", "min", 4]["accuracy"] == 1.0
    assert names["EDU policy-weighted vote of 4 (min) minus EDU best-of-4 (min)"]["difference"] == 0.0
    better = (
        rows["edu", 0.0, "policy-weighted", "min", 4]["accuracy"]
        - rows["ht", 1.0, "weighted", "min", 4]["accuracy"]
    )
    assert names["EDU policy-weighted vote of 4 (min) minus HT T=1 weighted vote of 4 (min)"][
        "difference"
    ] == pytest.approx(better)
    assert not any(sampler == "ht" and select == "policy-weighted" for sampler, _, select, _, _ in rows)
    assert len(evaluation.trees) == 6 and evaluation.trees[0]["fragments"]


def test_an_evaluation_is_continued_not_redone_and_gives_the_same_numbers(tmp_path: Path) -> None:
    first = evaluate_policy(
        PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", SOURCES, QUIET, Judge(KnowingScorer())
    )
    policy, scorer = ScriptedPolicy(SCRIPT), KnowingScorer()
    second = evaluate_policy(PROBLEMS, policy, tmp_path / "run", SOURCES, QUIET, Judge(scorer))
    assert second == first
    assert policy.requests == [] and scorer.num_scored == 0


def test_a_correlation_that_is_undefined_is_null_in_the_results(tmp_path: Path) -> None:
    policy = ScriptedPolicy(SCRIPT)
    evaluation = evaluate_policy(PROBLEMS, policy, tmp_path / "run", SOURCES, QUIET, Judge(KnowingScorer()))
    write_results(tmp_path, evaluation, {"correlations": [math.nan, 1.0]}, policy, {"evaluate": 1.0})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert results["config"] == {"correlations": [None, 1.0]}


def test_results_have_the_promised_shape_and_a_report(tmp_path: Path) -> None:
    policy = ScriptedPolicy(SCRIPT)
    evaluation = evaluate_policy(PROBLEMS, policy, tmp_path / "run", SOURCES, QUIET, Judge(KnowingScorer()))
    write_results(tmp_path, evaluation, {"a": 1}, policy, {"evaluate": 1.0})
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results) >= {"version", "config", "policy", "rows", "first_error", "cost", "seconds"}
    assert set(results["policy"]) >= {"greedy_accuracy", "num_parameters"}
    assert set(results["cost"]) == {"requests", "prompt_tokens", "reused_tokens", "sampled_tokens"}
    for row in results["rows"]:
        assert set(row) >= {
            "sampler",
            "temperature",
            "select",
            "aggregate",
            "n",
            "accuracy",
            "ci_low",
            "ci_high",
            "num_problems",
        }
        assert row["ci_low"] <= row["accuracy"] <= row["ci_high"]
        assert row["sampled_tokens_per_problem"] > 0
    assert "best-of-4" in write_report(tmp_path).read_text()


def test_first_errors_are_measured_on_the_lab_with_a_threshold_from_elsewhere(tmp_path: Path) -> None:
    def careless(question: str, text: str) -> dict[str, float]:
        return {"Friday: finds 1+1=2\n": 0.6, "The answer is 2": 0.4} if len(text) < 30 else {"<end>": 1.0}

    policy = ScriptedPolicy(careless, words=["Friday: finds 1+1=2\n", "The answer is 2"], name="careless")
    evaluation = evaluate_policy(
        load_problems("lab:test?num=6"), policy, tmp_path / "run",
        SolutionSources(EvaluateConfig(num_samples=2), TREE), QUIET,
        Judge(KnowingScorer(), threshold_problems=load_problems("lab:valid?num=6")),
    )  # fmt: skip
    found = evaluation.first_error
    assert found is not None
    assert found.num_solutions == 12
    assert found.acc_error == 1.0  # every first step is wrong, and every score is low
    assert found.acc_correct == 0.0


def test_without_a_scorer_nothing_is_picked_by_score(tmp_path: Path) -> None:
    evaluation = evaluate_policy(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", SOURCES, QUIET)
    assert {row["select"] for row in evaluation.rows} == {"greedy", "majority", "oracle"}


@pytest.mark.parametrize(
    ("arguments", "message"), [({"num_samples": 0}, "num_samples"), ({"temperatures": (0.0,)}, "above 0")]
)
def test_impossible_configurations_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**arguments)  # type: ignore[arg-type]


def test_sizes_are_powers_of_two_and_the_number_itself() -> None:
    assert EvaluateConfig(num_samples=16).sizes == [1, 2, 4, 8, 16]
    assert EvaluateConfig(num_samples=12).sizes == [1, 2, 4, 8, 12]


def test_first_errors_need_a_temperature(tmp_path: Path) -> None:
    sources = SolutionSources(EvaluateConfig(num_samples=2, temperatures=()), TREE)
    judge = Judge(KnowingScorer(), threshold_problems=PROBLEMS)
    with pytest.raises(ValueError, match="give at least one temperature"):
        evaluate_policy(PROBLEMS, ScriptedPolicy(SCRIPT), tmp_path / "run", sources, QUIET, judge)
