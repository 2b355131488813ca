"""The plan `bisect`: OmegaPRM over many problems, journaled, resumed, checked by rolling out every prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from forkpoint.formats.labels_file import read_labelled
from forkpoint.labels import bisect as bisect_plan
from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.omega import OmegaSearch
from forkpoint.labels.omega_records import BisectConfig, GradedPath
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.run import LabelSummary, label_problems, relabel
from forkpoint.policies import ScriptedPolicy, load_policy
from forkpoint.problems import load_problems
from forkpoint.records import Completion, LabelledSolution, Problem, Request
from forkpoint.runs import LocalExecutor, Run
from forkpoint.trees.grow import TreeConfig

SCRIPT = {
    "": {"one\n": 0.6, "two\n": 0.4},
    "one\n": {"half\n": 0.5, "bad\n": 0.5},
    "one\nhalf\n": {"The answer is 1": 0.5, "worse\n": 0.5},
    "one\nbad\n": {"The answer is 2": 1.0},
    "one\nhalf\nworse\n": {"The answer is 3": 1.0},
    "two\n": {"The answer is 1": 1.0},
}
PROBLEMS = [Problem(f"p{idx}", f"question {idx}", "1") for idx in range(6)]
PLAN = BisectPlan(BisectConfig(num_rollouts=8, max_searches=6))
TREE = TreeConfig(max_tokens=8)
QUIET = LocalExecutor(chunk_size=4, progress=False)
SOFT = LabelConfig()
VALUES = {
    "one\n": (0.0, 1.0),
    "one\nhalf\n": (0.0, 1.0),
    "one\nbad\n": (0.0, 0.0),
    "one\nhalf\nworse\n": (0.0, 0.0),
    "two\n": (1.0, 1.0),
}
"""The range of the value of each prefix, by the script."""


def run_plan(out: Path, policy: ScriptedPolicy | None = None, plan: BisectPlan = PLAN) -> LabelSummary:
    return label_problems(PROBLEMS, policy or ScriptedPolicy(SCRIPT), out, TREE, SOFT, QUIET, Sampling(plan))


def prefixes(solution: LabelledSolution) -> list[tuple[str, float]]:
    return [
        ("".join(solution.steps[: idx + 1]), label.value) for idx, label in enumerate(solution.labels[:-1])
    ]


def rebuilt(problem: Problem, plan: BisectPlan, known: RolloutStore) -> OmegaSearch:
    """A problem's search, fed from the journal."""
    search = OmegaSearch(plan.search)
    while needs := search.needs():
        search.feed(
            [known.of(Prefix(problem, need.prefix_ids, "".join(need.prefix_texts))) for need in needs]
        )
    return search


def test_labels_are_those_of_the_prefixes_that_were_searched(tmp_path: Path) -> None:
    rounds: list[tuple[int, int]] = []
    policy = ScriptedPolicy(SCRIPT)
    summary = label_problems(
        PROBLEMS,
        policy,
        tmp_path / "run",
        TREE,
        SOFT,
        QUIET,
        Sampling(PLAN, on_round=lambda *done: rounds.append(done)),
    )
    assert rounds[-1] == (6, 6) and len(rounds) > 2
    assert summary.num_rollouts == len(policy.requests) == summary.cost.requests
    solutions = list(read_labelled(tmp_path / "run"))
    assert len(solutions) == summary.num_solutions
    seen = [item for solution in solutions for item in prefixes(solution)]
    assert {text for text, _ in seen} >= {"one\n", "one\nbad\n"}
    for text, value in seen:
        assert VALUES[text][0] <= value <= VALUES[text][1]
    with Run.read(tmp_path / "run") as run:
        known = RolloutStore(run)
    drawn: dict[tuple[str, str], tuple[bool, ...]] = {}
    for problem in PROBLEMS:
        drawn |= {
            (problem.id, "".join(node.prefix_texts)): node.outcomes
            for node in rebuilt(problem, PLAN, known).nodes
        }
    for solution in solutions:
        for (text, value), its_label in zip(prefixes(solution), solution.labels, strict=False):
            outcomes = drawn[solution.problem_id, text]
            assert (value, its_label.num_correct, its_label.num_total) == (
                sum(outcomes) / 8,
                sum(outcomes),
                8,
            )
    for solution in solutions:
        assert "".join(solution.steps).endswith(("The answer is 1", "The answer is 2", "The answer is 3"))
        assert solution.labels[-1].value == float(solution.is_correct)
    relabel(tmp_path / "run", [(LabelConfig(value="orm"), tmp_path / "orm.jsonl")])
    assert {len(solution.steps) for solution in read_labelled(tmp_path / "orm.jsonl")} == {1}
    with pytest.raises(ValueError, match="labels the steps that it searched"):
        relabel(tmp_path / "run", [(LabelConfig(segmentation="entropy"), tmp_path / "x.jsonl")])


class FlakyPolicy(ScriptedPolicy):
    """Is interrupted at the n-th call."""

    calls_left = 0

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise KeyboardInterrupt
        return super().generate(requests)


@pytest.mark.parametrize("searches_at_a_time", [2, 512])
def test_an_interrupted_search_ends_in_the_same_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searches_at_a_time: int
) -> None:
    monkeypatch.setattr(bisect_plan, "SEARCHES_AT_A_TIME", searches_at_a_time)
    run_plan(tmp_path / "whole")
    num_interruptions = 0
    while True:
        policy = FlakyPolicy(SCRIPT)
        policy.calls_left = 2 + num_interruptions % 3
        try:
            run_plan(tmp_path / "often", policy)
            break
        except KeyboardInterrupt:
            num_interruptions += 1
    assert num_interruptions >= 2
    for name in ("journal.jsonl", "labels.jsonl"):
        assert (tmp_path / "often" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = ScriptedPolicy(SCRIPT)
    run_plan(tmp_path / "often", again)
    assert again.requests == []


def test_how_many_searches_are_under_way_changes_neither_labels_nor_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_plan(tmp_path / "whole")
    rounds: list[tuple[int, int]] = []
    monkeypatch.setattr(bisect_plan, "SEARCHES_AT_A_TIME", 2)
    policy = ScriptedPolicy(SCRIPT)
    parts = label_problems(
        PROBLEMS,
        policy,
        tmp_path / "parts",
        TREE,
        SOFT,
        QUIET,
        Sampling(PLAN, on_round=lambda *done: rounds.append(done)),
    )
    assert parts == whole
    assert rounds == sorted(rounds) and rounds[-1] == (6, 6)
    relabel(tmp_path / "parts", [(SOFT, tmp_path / "again.jsonl")])
    labels = (tmp_path / "whole" / "labels.jsonl").read_bytes()
    assert (
        (tmp_path / "parts" / "labels.jsonl").read_bytes()
        == (tmp_path / "again.jsonl").read_bytes()
        == labels
    )


@pytest.mark.slow
def test_first_errors_are_those_of_rolling_every_prefix_out(tmp_path: Path) -> None:
    """On lab problems with the lab policy, for every searched solution whose values are monotone."""
    policy, problems = load_policy("lab"), load_problems("lab:train?num=12&seed=3")
    tree, plan = TreeConfig(max_tokens=120), BisectPlan(BisectConfig(num_rollouts=8, max_searches=4))
    label_problems(
        problems, policy, tmp_path / "run", tree, SOFT, LocalExecutor(progress=False), Sampling(plan)
    )
    searched: list[tuple[Problem, GradedPath]] = []
    with Run.read(tmp_path / "run") as run:
        known = RolloutStore(run)
    for problem in problems:
        searched += [
            (problem, path)
            for path in rebuilt(problem, plan, known).paths()
            if path.first_error_idx is not None
        ]
    items = [
        [
            Prefix(problem, path.token_ids[:end], "".join(path.token_texts[:end]))
            for end in path.step_ends[:-1]
        ]
        for problem, path in searched
    ]
    with Run.open(tmp_path / "all", "rollouts", {}) as run:
        store = RolloutStore(run)
        distinct = list(dict.fromkeys(prefix for group in items for prefix in group))
        rollouts = replace(plan.rollouts(120, 0), num_samples=8)
        store.fetch(
            run, LocalExecutor(progress=False), policy, [(prefix, range(8)) for prefix in distinct], rollouts
        )
        num_monotone = 0
        for (_, path), group in zip(searched, items, strict=True):
            hits = [any(rollout.is_correct for rollout in store.of(prefix)) for prefix in group] + [
                path.is_correct
            ]
            if hits == sorted(hits, reverse=True):
                num_monotone += 1
                assert path.first_error_idx == hits.index(False)
    assert num_monotone >= 3
