"""The label stage: problems -> outcomes (EDU trees, rollouts, bisection) -> step labels, in a run that survives being killed.

Invariant: the journal holds solutions and verdicts, never labels; `labels.jsonl` is derived from it and can be derived
again with another value, weighting or segmentation without the policy (`relabel`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from forkpoint.content_key import content_key
from forkpoint.errors import RunError
from forkpoint.formats.labels_file import LABELS, write_labelled
from forkpoint.labels.bisect import BisectPlan, bisect_labels, search_problems
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaves import Leaves
from forkpoint.labels.rollout_store import RolloutStore
from forkpoint.labels.rollouts import (
    LabelledCase,
    RolloutPlan,
    rollout_cases,
    rollout_labels,
    sample_rollouts,
)
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Cost, LabelledSolution, Policy, Problem, Request
from forkpoint.runs import Run
from forkpoint.runs.work import Executor
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.solutions.work import SampleWork, TreeWork, outcome_of
from forkpoint.steps import AnchorRule, calibrate_tau
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import Steering

LABEL_CONFIG = "label_config.json"
PROBLEMS_AT_A_TIME = 1024
"""Whose solutions are held in memory while their prefixes are rolled out: enough to keep many workers busy."""


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What a label run holds."""

    num_problems: int
    num_failed: int
    """Problems that are still owed; the run's failures.jsonl says why."""
    num_skipped: int
    """Problems whose prompt does not fit the policy's context."""
    num_solutions: int
    """Leaves of trees, or samples."""
    num_correct: int
    num_ungradable: int
    """Solutions that could not be graded; they count as wrong. (Not counted by bisection.)"""
    num_labels: int
    num_rollouts: int
    """Completions of prefixes, graded."""
    num_rollouts_saved: int
    """Completions that early stopping made unnecessary."""
    tau: float
    cost: Cost
    """The policy's."""
    num_pruned: int = 0
    """Anchors closed unforked for their score (P-EDU)."""
    num_prm_tokens: int = 0
    """Tokens that a PRM read to steer trees."""

    @property
    def num_solved(self) -> int:
        """Problems that have solutions, right or wrong."""
        return self.num_problems - self.num_failed - self.num_skipped


def label_problems(
    problems: Sequence[Problem],
    policy: Policy,
    out: Path,
    tree_config: TreeConfig,
    label_config: LabelConfig,
    executor: Executor,
    calibrate_on: int = 64,
    plan: RolloutPlan | BisectPlan | None = None,
    seed: int = 0,
    on_round: Callable[[int, int], None] = lambda num_done, num_problems: None,
    steering: Steering | None = None,
) -> LabelSummary:
    """Sample, grade and journal outcomes at `out`, then derive the labels; run again to continue.

    Without a `plan`, labels come from the leaves of one EDU tree per problem. With `anchors_per_solution`, tau is
    calibrated on the greedy solutions of the first `calibrate_on` problems. `seed` is of what is sampled. A search by
    bisection tells `on_round` after every round of rollouts (problems done, problems). `steering` prunes or chooses the
    forks of trees by a PRM's scores.
    """
    label_config.check()
    tree_config = resolve_tau(policy, problems[:calibrate_on], tree_config)
    config: dict[str, Any] = {
        "policy": policy.name,
        "entropies": policy.entropy_bound,
        "problems": content_key([asdict(problem) for problem in problems]),
        "num_problems": len(problems),
    }
    max_tokens, rule = tree_config.max_tokens, tree_config.rule
    if plan is None or (isinstance(plan, RolloutPlan) and plan.source == "tree"):
        config["tree"] = asdict(tree_config)
        if steering is not None:
            config["steering"] = steering.identity()
    elif steering is not None:
        raise ValueError(
            "only trees can be pruned or searched; choose the plan leaves, or rollouts with source tree"
        )
    if plan is None:
        config["plan"] = "leaves"
    else:
        config |= {"seed": seed, "max_tokens": max_tokens}
        config |= plan.identity() if isinstance(plan, BisectPlan) else plan.identity(label_config, rule)
    num_failed = num_saved = 0
    num_rollouts: int | None = None
    with Run.open(out, "label", config) as run:
        store = RolloutStore(run)
        if isinstance(plan, BisectPlan):
            keys = search_problems(
                run, store, executor, policy, problems, plan, plan.rollouts(max_tokens, seed), on_round
            )
        else:
            work: TreeWork | SampleWork
            if plan is None or plan.source == "tree":
                work = TreeWork(policy, problems, tree_config, steering)
            else:
                work = SampleWork(policy, problems, plan.solutions(max_tokens, seed))
            num_failed = executor.execute(run, work).rows_failed
            keys = [key for key in work.keys if key in run]
        if isinstance(plan, RolloutPlan):
            num_rollouts = plan.num_rollouts
            drawn = plan.rollouts(max_tokens, seed)
            for start in range(0, len(keys), PROBLEMS_AT_A_TIME):
                rows = run.rows(keys[start : start + PROBLEMS_AT_A_TIME])
                outcomes = [outcome_of(row) for row in rows if row["kind"] != "skipped"]
                num_saved += sample_rollouts(
                    run, store, executor, policy, outcomes, label_config, plan, rule, drawn
                )
        cases = rollout_cases(run, store, keys) if isinstance(plan, RolloutPlan) else None
        num_labels = write_labels(run, label_config, keys, num_rollouts, cases=cases)
        summary = _summary(
            run, store, keys, len(problems), num_failed, num_labels, num_saved, tree_config.tau
        )
        if num_failed == 0:
            run.finish({**asdict(summary), "labels": asdict(label_config)})
    return summary


def relabel(
    directory: Path, configs: Sequence[tuple[LabelConfig, Path]], num_rollouts: int | None = None
) -> list[int]:
    """Derive labels from the outcomes of a run, without its policy: one file per configuration; the number of labels of each.

    Beside each file FILE.jsonl, FILE.label_config.json says what it holds; `num_rollouts` takes the first so many
    completions of each prefix. RunError where the directory is no label run.
    """
    for config, _ in configs:
        config.check()
    with Run.read(directory) as run:
        if run.command != "label":
            raise RunError(f"{directory} was made by {run.command}, not by label")
        cases = list(rollout_cases(run, RolloutStore(run))) if run.config["plan"] == "rollouts" else None
        return [write_labels(run, config, None, num_rollouts, path, cases) for config, path in configs]


def write_labels(
    run: Run,
    config: LabelConfig,
    keys: Sequence[str] | None = None,
    num_rollouts: int | None = None,
    path: Path | None = None,
    cases: Iterable[LabelledCase] | None = None,
) -> int:
    """Derive labels from the run's outcomes into `path` (its own `labels.jsonl`); return the number of step labels.

    `cases` are the run's, where they have been read already.
    """
    num_labels = 0

    def counted() -> Iterator[LabelledSolution]:
        nonlocal num_labels
        for solution in derive_labels(run, config, keys, num_rollouts, cases):
            num_labels += len(solution.labels)
            yield solution

    path = path or run.directory / LABELS
    write_labelled(path, counted())
    label_config_of(path).write_text(
        json.dumps({**asdict(config), "rule": asdict(anchor_rule(run))}, indent=2) + "\n"
    )
    return num_labels


def derive_labels(
    run: Run,
    config: LabelConfig,
    keys: Sequence[str] | None = None,
    num_rollouts: int | None = None,
    cases: Iterable[LabelledCase] | None = None,
) -> Iterator[LabelledSolution]:
    """Every solution of the run (or of the rows `keys`), cut into steps, each labelled."""
    if run.config["plan"] == "rollouts":
        cases = rollout_cases(run, RolloutStore(run), keys) if cases is None else cases
        yield from rollout_labels(run, cases, config, num_rollouts)
        return
    if run.config["plan"] == "bisect":
        yield from bisect_labels(run, config, keys)
        return
    for outcome in tree_outcomes(run, keys):
        yield from labelled_solutions(outcome, config, anchor_rule(run))


def label_config_of(path: Path) -> Path:
    """Where the configuration of a file of labels is, or would be."""
    return path.parent / LABEL_CONFIG if path.name == LABELS else path.with_suffix("." + LABEL_CONFIG)


def label_format(labels: Path, prm_format: PRMFormat) -> PRMFormat:
    """The format with the segmentation that labels (a run directory or a file) have; unchanged where nothing says so."""
    path = label_config_of(labels / LABELS if labels.is_dir() else labels)
    if not path.is_file():
        return prm_format
    fields = json.loads(path.read_text())
    rule = AnchorRule(**fields.pop("rule"))
    return replace(prm_format, segmentation=LabelConfig(**fields).step_segmentation, rule=rule)


def resolve_tau(policy: Policy, problems: Sequence[Problem], config: TreeConfig) -> TreeConfig:
    """The configuration with tau calibrated on greedy solutions of `problems`, where it asks for that."""
    if config.anchors_per_solution is None:
        return config
    prompts = [policy.encode_question(problem.question) for problem in problems]
    completions = policy.generate([Request(prompt, config.max_tokens) for prompt in prompts])
    candidates = []
    for completion in completions:
        can_fork = config.rule.can_fork(policy.token_texts(completion.token_ids))
        candidates.append(
            [
                entropy
                for entropy, is_candidate in zip(completion.entropies, can_fork, strict=True)
                if is_candidate
            ]
        )
    return config.with_tau(round(calibrate_tau(candidates, config.anchors_per_solution), 4))


def anchor_rule(run: Run) -> AnchorRule:
    """The rule by which the run's trees were grown, or its steps cut; the default where neither was done."""
    if "tree" in run.config:
        tree = run.config["tree"]
        return AnchorRule(tree["tau"], tree["min_gap"], tree["symbols"])
    return AnchorRule(**(run.config["rule"] or {}))


def tree_outcomes(run: Run, keys: Sequence[str] | None = None) -> Iterator[TreeOutcome]:
    """The trees of a run, in the order of `keys` or of the journal."""
    return (TreeOutcome.from_row(row) for row in run.rows(keys) if row["kind"] == "tree")


def labelled_solutions(
    outcome: TreeOutcome, config: LabelConfig, rule: AnchorRule
) -> Iterator[LabelledSolution]:
    """Every leaf of a tree, cut into steps, each labelled with the leaves that share it."""
    leaves = Leaves(outcome.tree, [end.is_correct for end in outcome.ends], config.weighting)
    for leaf_idx, end in enumerate(outcome.ends):
        steps, step_ends = outcome.path(leaf_idx).steps(config.step_segmentation, rule)
        labels = tuple(leaves.label(leaf_idx, num_tokens, config.step_value) for num_tokens in step_ends)
        yield LabelledSolution(outcome.problem.id, outcome.problem.question, steps, labels, end.is_correct)


def _summary(
    run: Run,
    store: RolloutStore,
    keys: Sequence[str],
    num_problems: int,
    num_failed: int,
    num_labels: int,
    num_saved: int,
    tau: float,
) -> LabelSummary:
    cost, num_solved, num_solutions, num_correct, num_ungradable = store.cost, 0, 0, 0, 0
    num_pruned = num_prm_tokens = 0
    for row in run.rows(keys):
        num_solved += row["kind"] != "skipped"
        if row["kind"] == "search":
            num_solutions += len(row["paths"])
            num_correct += sum(path["outcomes"][-1] == [1] for path in row["paths"])
        elif row["kind"] != "skipped":
            outcome = outcome_of(row)
            cost += outcome.cost
            if isinstance(outcome, TreeOutcome) and outcome.scoring:
                num_pruned += outcome.num_pruned
                num_prm_tokens += outcome.scoring.tokens
            num_solutions += len(outcome.ends)
            num_correct += sum(end.is_correct for end in outcome.ends)
            num_ungradable += sum(not end.is_gradable for end in outcome.ends)
    return LabelSummary(
        num_problems=num_problems,
        num_failed=num_failed,
        num_skipped=num_problems - num_failed - num_solved,
        num_solutions=num_solutions,
        num_correct=num_correct,
        num_ungradable=num_ungradable,
        num_labels=num_labels,
        num_rollouts=store.num_rollouts,
        num_rollouts_saved=num_saved,
        tau=tau,
        cost=cost,
        num_pruned=num_pruned,
        num_prm_tokens=num_prm_tokens,
    )
