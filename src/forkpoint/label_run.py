"""The label stage: problems -> EDU trees -> step labels, in a run directory that survives being killed.

Invariant: the journal holds trees and verdicts, never labels; `labels.jsonl` is derived from it and can be derived again
with another value, weighting or segmentation without the policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from forkpoint.labels import WEIGHTINGS, Leaves, Weighting, value_named
from forkpoint.outcomes import TreeOutcome
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Cost, Executor, LabelledSolution, Policy, Problem, Request
from forkpoint.runs import Run, content_key
from forkpoint.segment import AnchorRule, Segmentation, calibrate_tau
from forkpoint.solve import solve_by_tree
from forkpoint.stepdata import write_labelled
from forkpoint.tree import TreeConfig

LABELS = "labels.jsonl"
LABEL_CONFIG = "label_config.json"


@dataclass(frozen=True)
class LabelConfig:
    """What labels are derived from trees; can be changed later without sampling again."""

    value: str = "mean"
    """What sums up the leaves below a step: mean (EDU-PRM), hit (1 if any is right), er:ETA (ER-PRM, for example er:2)."""
    weighting: Weighting = "uniform"
    """Leaves count once each (uniform), or by their renormalised branch probabilities (policy)."""
    segmentation: Segmentation = "newline"
    """Steps are lines (newline), or begin at entropy anchors (entropy)."""

    def __post_init__(self) -> None:
        value_named(self.value)
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting {self.weighting!r} is unknown; choose from {', '.join(WEIGHTINGS)}")
        if self.segmentation not in ("newline", "entropy"):
            raise ValueError(f"segmentation {self.segmentation!r} is unknown; choose from newline, entropy")


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What a label run holds."""

    num_problems: int
    num_trees: int
    num_failed: int
    """Problems that are still owed; the run's failures.jsonl says why."""
    num_skipped: int
    """Problems whose prompt does not fit the policy's context."""
    num_leaves: int
    num_correct: int
    num_ungradable: int
    """Leaves that could not be graded; they count as wrong."""
    num_labels: int
    tau: float
    cost: Cost


class TreeWork:
    """One tree per problem."""

    def __init__(self, policy: Policy, problems: Sequence[Problem], config: TreeConfig) -> None:
        self._policy, self._problems, self._config = policy, problems, config
        self.keys = [content_key({"tree": asdict(config), "policy": policy.name, "problem": asdict(problem)}) for problem in problems]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        self._policy.reset_cache()  # so that a row does not depend on which chunks were done before
        problems = [self._problems[idx] for idx in idxs]
        fits = [fits_context(self._policy, problem) for problem in problems]
        outcomes = iter(solve_by_tree(self._policy, [problem for problem, fit in zip(problems, fits, strict=True) if fit], self._config))
        return [
            next(outcomes).to_row() if fit else {"kind": "skipped", "problem": asdict(problem)}
            for problem, fit in zip(problems, fits, strict=True)
        ]


def fits_context(policy: Policy, problem: Problem) -> bool:
    """Whether the policy's context leaves room for at least one token after the prompt."""
    return policy.max_length is None or len(policy.encode_question(problem.question)) < policy.max_length


def label_problems(
    problems: Sequence[Problem],
    policy: Policy,
    out: Path,
    tree_config: TreeConfig,
    label_config: LabelConfig,
    executor: Executor,
    calibrate_on: int = 64,
) -> LabelSummary:
    """Grow, grade and journal one tree per problem at `out`, then derive the labels; run again to continue.

    With `anchors_per_solution`, tau is calibrated on the greedy solutions of the first `calibrate_on` problems.
    """
    tree_config = resolve_tau(policy, problems[:calibrate_on], tree_config)
    work = TreeWork(policy, problems, tree_config)
    config: dict[str, Any] = {
        "policy": policy.name,
        "tree": asdict(tree_config),
        "problems": content_key(work.keys),
        "num_problems": len(problems),
    }
    with Run.open(out, "label", config) as run:
        tally = executor.execute(run, work)
        num_labels = write_labels(run, label_config, [key for key in work.keys if key in run])
        summary = _summary(run, len(problems), tally.rows_failed, num_labels, tree_config.tau)
        if tally.rows_failed == 0:
            run.finish({**asdict(summary), "labels": asdict(label_config)})
    return summary


def resolve_tau(policy: Policy, problems: Sequence[Problem], config: TreeConfig) -> TreeConfig:
    """The configuration with tau calibrated on greedy solutions of `problems`, where it asks for that."""
    if config.anchors_per_solution is None:
        return config
    prompts = [policy.encode_question(problem.question) for problem in problems]
    completions = policy.generate([Request(prompt, config.max_tokens) for prompt in prompts])
    candidates = []
    for completion in completions:
        can_fork = config.rule.can_fork(policy.token_texts(completion.token_ids))
        candidates.append([entropy for entropy, is_candidate in zip(completion.entropies, can_fork, strict=True) if is_candidate])
    return config.with_tau(round(calibrate_tau(candidates, config.anchors_per_solution), 4))


def write_labels(run: Run, config: LabelConfig, keys: Sequence[str] | None = None) -> int:
    """Derive `labels.jsonl` from the run's trees; return the number of step labels."""
    num_labels = 0

    def counted() -> Iterator[LabelledSolution]:
        nonlocal num_labels
        for outcome in tree_outcomes(run, keys):
            for solution in labelled_solutions(outcome, config, anchor_rule(run)):
                num_labels += len(solution.labels)
                yield solution

    write_labelled(run.directory / LABELS, counted())
    (run.directory / LABEL_CONFIG).write_text(json.dumps({**asdict(config), "rule": asdict(anchor_rule(run))}, indent=2) + "\n")
    return num_labels


def label_format(labels: Path, prm_format: PRMFormat) -> PRMFormat:
    """The format with the segmentation that the labels in a run directory have; unchanged for a bare file of labels."""
    path = labels / LABEL_CONFIG
    if not path.is_file():
        return prm_format
    config = json.loads(path.read_text())
    return replace(prm_format, segmentation=config["segmentation"], rule=AnchorRule(**config["rule"]))


def anchor_rule(run: Run) -> AnchorRule:
    """The rule that the run's trees were grown by."""
    tree = run.config["tree"]
    return AnchorRule(tree["tau"], tree["min_gap"], tree["symbols"])


def tree_outcomes(run: Run, keys: Sequence[str] | None = None) -> Iterator[TreeOutcome]:
    """The trees of a run, in the order of `keys` or of the journal."""
    return (TreeOutcome.from_row(row) for row in run.rows(keys) if row["kind"] == "tree")


def labelled_solutions(outcome: TreeOutcome, config: LabelConfig, rule: AnchorRule) -> Iterator[LabelledSolution]:
    """Every leaf of a tree, cut into steps, each labelled with the leaves that share it."""
    leaves = Leaves(outcome.tree, [end.is_correct for end in outcome.ends], config.weighting)
    value = value_named(config.value)
    for leaf_idx, end in enumerate(outcome.ends):
        steps, step_ends = outcome.path(leaf_idx).steps(config.segmentation, rule)
        labels = tuple(leaves.label(leaf_idx, num_tokens, value) for num_tokens in step_ends)
        yield LabelledSolution(outcome.problem.id, outcome.problem.question, steps, labels, end.is_correct)


def _summary(run: Run, num_problems: int, num_failed: int, num_labels: int, tau: float) -> LabelSummary:
    cost, num_trees, num_leaves, num_correct, num_ungradable = Cost(), 0, 0, 0, 0
    for outcome in tree_outcomes(run):
        cost += outcome.cost
        num_trees += 1
        num_leaves += len(outcome.ends)
        num_correct += sum(end.is_correct for end in outcome.ends)
        num_ungradable += sum(not end.is_gradable for end in outcome.ends)
    return LabelSummary(
        num_problems=num_problems,
        num_trees=num_trees,
        num_failed=num_failed,
        num_skipped=num_problems - num_failed - num_trees,
        num_leaves=num_leaves,
        num_correct=num_correct,
        num_ungradable=num_ungradable,
        num_labels=num_labels,
        tau=tau,
        cost=cost,
    )
