"""The plan `rollouts`: labels on a script with known probabilities, reuse, early stopping, several values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forkpoint.errors import ConfigDiffers
from forkpoint.formats.labels_file import read_labelled
from forkpoint.labels import rollouts
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import LabelSummary, derive_labels, label_format, label_problems, relabel
from forkpoint.policies import ScriptedPolicy
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Completion, LabelledSolution, Problem, Request, Rollout
from forkpoint.runs import LocalExecutor, Run
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.trees.grow import TreeConfig

SCRIPT = {
    "": {"one\n": 0.6, "two\n": 0.4},
    "one\n": {"half\n": 0.5, "The answer is 2": 0.5},
    "one\nhalf\n": {"The answer is 1": 0.25, "The answer is 2": 0.75},
    "two\n": {"The answer is 1": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", str(1 + idx % 2)) for idx in range(8)]
PLAN = RolloutPlan(num_solutions=6, solution_temperature=1.0, num_rollouts=16)
TREE = TreeConfig(max_tokens=8)
QUIET = LocalExecutor(chunk_size=16, progress=False)
SOFT = LabelConfig()
TRUE_VALUES = {"one\n": 0.125, "one\nhalf\n": 0.25, "two\n": 1.0}
"""Probability of answer 1 (odd problems want 2, with the complement)."""


def run_plan(
    out: Path,
    plan: RolloutPlan = PLAN,
    config: LabelConfig = SOFT,
    policy: ScriptedPolicy | None = None,
    seed: int = 0,
) -> LabelSummary:
    return label_problems(
        PROBLEMS, policy or ScriptedPolicy(SCRIPT), out, TREE, config, QUIET, Sampling(plan, seed)
    )


def steps_of(solutions: Sequence[LabelledSolution]) -> dict[tuple[str, str], tuple[float, int, int]]:
    """(problem, prefix text) to value and counts, of all steps that are not the last."""
    found = {}
    for solution in solutions:
        text = ""
        for step, label in zip(solution.steps[:-1], solution.labels[:-1], strict=True):
            text += step
            found[solution.problem_id, text] = (label.value, label.num_correct, label.num_total)
    return found


def test_labels_are_shares_of_completions_of_the_raw_prefix(tmp_path: Path) -> None:
    summary = run_plan(tmp_path / "run", replace(PLAN, num_rollouts=400))
    solutions = list(read_labelled(tmp_path / "run"))
    assert len(solutions) == summary.num_solutions == 48
    found = steps_of(solutions)
    assert {text for _, text in found} == set(TRUE_VALUES)
    for (problem_id, text), (value, num_correct, num_total) in found.items():
        truth = TRUE_VALUES[text] if int(problem_id[1:]) % 2 == 0 else 1 - TRUE_VALUES[text]
        assert num_total == 400 and value == num_correct / num_total
        assert value == pytest.approx(truth, abs=0.1)
    assert all(solution.labels[-1].value == float(solution.is_correct) for solution in solutions)
    assert all(solution.labels[-1].num_total == 1 for solution in solutions)


def test_each_distinct_prefix_is_completed_once_and_last_steps_never(tmp_path: Path) -> None:
    policy = ScriptedPolicy(SCRIPT)
    summary = run_plan(tmp_path / "run", policy=policy)
    found = steps_of(list(read_labelled(tmp_path / "run")))
    assert summary.num_rollouts == 16 * len(found)
    assert len(policy.requests) == 48 + 16 * len(found)
    assert summary.cost.requests == len(policy.requests)


def test_more_rollouts_later_sample_only_what_is_missing(tmp_path: Path) -> None:
    run_plan(tmp_path / "grown", replace(PLAN, num_rollouts=4))
    policy = ScriptedPolicy(SCRIPT)
    summary = run_plan(tmp_path / "grown", replace(PLAN, num_rollouts=16), policy=policy)
    run_plan(tmp_path / "whole")
    grown, whole = (list(read_labelled(tmp_path / name)) for name in ("grown", "whole"))
    assert grown == whole
    assert len(policy.requests) == summary.num_rollouts * 12 // 16
    fewer = ScriptedPolicy(SCRIPT)
    run_plan(tmp_path / "grown", replace(PLAN, num_rollouts=4), policy=fewer)
    assert fewer.requests == []
    run_plan(tmp_path / "four", replace(PLAN, num_rollouts=4))
    assert list(read_labelled(tmp_path / "grown")) == list(read_labelled(tmp_path / "four"))


def test_every_value_of_the_same_completions(tmp_path: Path) -> None:
    run_plan(tmp_path / "run")
    names = ["er", "shepherd-hard", "shepherd-soft", "orm", "er:-2"]
    configs = [(LabelConfig(value=name), tmp_path / f"{name}.jsonl") for name in names]
    relabel(tmp_path / "run", configs)
    er, hard, soft, orm, pessimist = (list(read_labelled(path)) for _, path in configs)
    assert soft == list(read_labelled(tmp_path / "run"))
    for solutions in (er, hard, pessimist):
        assert [solution.steps for solution in solutions] == [solution.steps for solution in soft]
    for rows in zip(hard, er, soft, pessimist, strict=True):
        for labels in zip(*(row.labels for row in rows), strict=True):
            assert len({(label.num_correct, label.num_total) for label in labels}) == 1
            values = [label.value for label in labels]
            assert values == sorted(values, reverse=True)
            assert all(label.low <= label.value <= label.high for label in labels)
    assert [solution.steps for solution in orm] == [("".join(solution.steps),) for solution in soft]
    assert [solution.labels[0].value for solution in orm] == [float(solution.is_correct) for solution in soft]
    assert label_format(tmp_path / "orm.jsonl", PRMFormat()).segmentation == "solution"
    assert label_format(tmp_path / "er.jsonl", PRMFormat()).segmentation == "newline"


def test_one_rollout_makes_soft_and_hard_the_same(tmp_path: Path) -> None:
    run_plan(tmp_path / "run", replace(PLAN, num_rollouts=1))
    relabel(
        tmp_path / "run", [(LabelConfig(value=name), tmp_path / f"{name}.jsonl") for name in ("hit", "mean")]
    )
    assert list(read_labelled(tmp_path / "hit.jsonl")) != []
    for hard, soft in zip(
        read_labelled(tmp_path / "hit.jsonl"), read_labelled(tmp_path / "mean.jsonl"), strict=True
    ):
        assert [label.value for label in hard.labels] == [label.value for label in soft.labels]


def test_fewer_completions_can_be_taken_than_there_are(tmp_path: Path) -> None:
    run_plan(tmp_path / "run")
    run_plan(tmp_path / "four", replace(PLAN, num_rollouts=4))
    relabel(tmp_path / "run", [(LabelConfig(), tmp_path / "four.jsonl")], num_rollouts=4)
    assert list(read_labelled(tmp_path / "four.jsonl")) == list(read_labelled(tmp_path / "four"))
    with pytest.raises(ValueError, match="has 16 rollouts, 32 are needed"):
        relabel(tmp_path / "run", [(LabelConfig(), tmp_path / "x.jsonl")], num_rollouts=32)


def test_stopping_early_never_changes_a_hard_label_and_saves_completions(tmp_path: Path) -> None:
    hard = LabelConfig(value="hit")
    run_plan(tmp_path / "whole", config=hard)
    summary = run_plan(tmp_path / "stopped", replace(PLAN, stop_early=True), hard)
    whole, stopped = (list(read_labelled(tmp_path / name)) for name in ("whole", "stopped"))
    assert [[label.value for label in item.labels] for item in whole] == [
        [label.value for label in item.labels] for item in stopped
    ]
    num_prefixes = len(steps_of(whole))
    assert summary.num_rollouts_saved > 8 * num_prefixes / 2
    assert summary.num_rollouts + summary.num_rollouts_saved == 16 * num_prefixes
    with pytest.raises(ValueError, match="stopped early for the value hit, which biases mean"):
        relabel(tmp_path / "stopped", [(LabelConfig(), tmp_path / "x.jsonl")])


def test_stopping_early_ends_where_the_interval_is_narrow(tmp_path: Path) -> None:
    plan = replace(PLAN, num_rollouts=64, stop_early=True, max_width=0.35)
    run_plan(tmp_path / "run", plan)
    for solution in read_labelled(tmp_path / "run"):
        for label in solution.labels[:-1]:
            assert label.num_total % 4 == 0
            assert label.high - label.low <= 0.35 or label.num_total == 64
    totals = {
        label.num_total for solution in read_labelled(tmp_path / "run") for label in solution.labels[:-1]
    }
    assert len(totals) > 1, "sure prefixes stop sooner"


class Interrupted(Exception):
    pass


class FlakyPolicy(ScriptedPolicy):
    """Is interrupted at the n-th call."""

    calls_left = 0

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise KeyboardInterrupt
        return super().generate(requests)


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, stop_early=True)])
def test_an_interrupted_run_ends_in_the_same_journal(tmp_path: Path, plan: RolloutPlan) -> None:
    run_plan(tmp_path / "whole", plan)
    for call in range(1, 12):
        policy = FlakyPolicy(SCRIPT)
        policy.calls_left = call
        try:
            run_plan(tmp_path / "often", plan, policy=policy)
        except KeyboardInterrupt:
            continue
        break
    for name in ("journal.jsonl", "labels.jsonl"):
        assert (tmp_path / "often" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, stop_early=True)])
def test_how_many_problems_are_rolled_out_at_a_time_changes_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: RolloutPlan
) -> None:
    whole = run_plan(tmp_path / "whole", plan)
    monkeypatch.setattr(rollouts, "PROBLEMS_AT_A_TIME", 3)
    assert run_plan(tmp_path / "parts", plan) == whole
    relabel(tmp_path / "parts", [(SOFT, tmp_path / "again.jsonl")])
    labels = (tmp_path / "whole" / "labels.jsonl").read_bytes()
    assert (
        (tmp_path / "parts" / "labels.jsonl").read_bytes()
        == (tmp_path / "again.jsonl").read_bytes()
        == labels
    )


def test_rollouts_that_kept_their_tokens_are_read_back_with_them_and_others_without(tmp_path: Path) -> None:
    prefix = Prefix(PROBLEMS[0], ScriptedPolicy(SCRIPT).encode(["one\n"]), "one\n")
    config = RolloutConfig(num_samples=6, max_tokens=8)
    for keeps_tokens in (True, False):
        with Run.open(tmp_path / str(keeps_tokens), "rollouts", {}) as run:
            store = RolloutStore(run)
            for span in (range(4), range(4, 6)):
                store.fetch(run, QUIET, ScriptedPolicy(SCRIPT), [(prefix, span)], config, keeps_tokens)
            assert store.spans(prefix) == [range(4), range(4, 6)]
            assert store.num_rollouts == 6
            rollouts = store.of(prefix)
            assert tuple(rollout.is_correct for rollout in rollouts) == store.outcomes(prefix)
            for rollout in rollouts:
                assert rollout.token_texts if keeps_tokens else rollout == Rollout((), (), rollout.is_correct)
                assert not keeps_tokens or rollout.is_correct == (
                    "".join(rollout.token_texts).endswith("is 1")
                )
            assert RolloutStore(run).of(prefix) == rollouts


def test_what_changes_the_outcomes_may_not_change(tmp_path: Path) -> None:
    run_plan(tmp_path / "run")
    with pytest.raises(ConfigDiffers, match=r"rollouts\.temperature: 1\.0 there, 0\.5 here"):
        run_plan(tmp_path / "run", replace(PLAN, rollout_temperature=0.5))
    with pytest.raises(ConfigDiffers, match="seed: 0 there, 1 here"):
        run_plan(tmp_path / "run", seed=1)
    with pytest.raises(ValueError, match="end with newline steps; labels of entropy steps"):
        relabel(tmp_path / "run", [(LabelConfig(segmentation="entropy"), tmp_path / "x.jsonl")])
    with pytest.raises(ValueError, match="weighting policy is for the leaves"):
        relabel(tmp_path / "run", [(LabelConfig(weighting="policy"), tmp_path / "x.jsonl")])


def test_an_eta_for_a_value_that_has_none_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    wrong, policy = LabelConfig(value="mean", eta=3.0), ScriptedPolicy(SCRIPT)
    with pytest.raises(ValueError, match="'mean' has no eta"):
        run_plan(tmp_path / "run", config=wrong, policy=policy)
    assert policy.requests == [] and not (tmp_path / "run").exists()
    run_plan(tmp_path / "run")
    with pytest.raises(ValueError, match="'mean' has no eta"):
        relabel(tmp_path / "run", [(SOFT, tmp_path / "soft.jsonl"), (wrong, tmp_path / "wrong.jsonl")])
    assert not (tmp_path / "soft.jsonl").exists()


class FailingPolicy(ScriptedPolicy):
    """Fails on every prefix of one problem that goes beyond its prompt."""

    is_failing = True

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        texts = [self.decode(request.prefix_ids) for request in requests]
        if self.is_failing and any(text.startswith("question 3") and "one" in text for text in texts):
            raise ConnectionError("the engine went away")
        return super().generate(requests)


def test_prefixes_that_fail_end_the_command_and_are_owed_again(tmp_path: Path) -> None:
    policy = FailingPolicy(SCRIPT)
    with pytest.raises(
        RuntimeError, match=r"\d+ items failed, see .*failures.jsonl; run the same command to try again"
    ):
        run_plan(tmp_path / "run", policy=policy)
    assert "the engine went away" in (tmp_path / "run" / "failures.jsonl").read_text()
    policy.is_failing = False
    run_plan(tmp_path / "run", policy=policy)
    run_plan(tmp_path / "whole")
    assert list(read_labelled(tmp_path / "run")) == list(read_labelled(tmp_path / "whole"))


def test_rollouts_of_tree_leaves(tmp_path: Path) -> None:
    tree = replace(TREE, tau=0.5, num_leaves=4)
    plan = replace(PLAN, source="tree", num_rollouts=100)
    label_problems(
        PROBLEMS,
        ScriptedPolicy(SCRIPT),
        tmp_path / "run",
        tree,
        LabelConfig(segmentation="entropy"),
        QUIET,
        Sampling(plan),
    )
    with Run.read(tmp_path / "run") as run:
        solutions = list(derive_labels(run, LabelConfig(segmentation="entropy")))
        assert RolloutStore(run).num_rollouts == 100 * len(steps_of(solutions))
    assert {solution.steps for solution in solutions if solution.problem_id == "p0"} == {
        ("one\n", "half\n", "The answer is 1"), ("one\n", "half\n", "The answer is 2"),
        ("one\n", "The answer is 2"), ("two\nThe answer is 1",),
    }  # fmt: skip
    assert label_format(tmp_path / "run", PRMFormat()) == PRMFormat(segmentation="entropy", rule=tree.rule)
