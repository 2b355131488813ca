"""The label stage: problems -> outcomes (EDU trees, rollouts, bisection) -> step labels, in a resumable run.

Invariant: the journal holds solutions and verdicts, never labels; `labels.jsonl` is derived from it and can
be derived again with another value, weighting or segmentation without the policy (`relabel`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from forkpoint.checkpoint import read_json_object
from forkpoint.content_key import content_key
from forkpoint.errors import RunError
from forkpoint.formats.labels_file import (
    JOURNAL_DIGEST,
    LABEL_CONFIG,
    LABELS,
    LABELS_DIGEST,
    labels_digest,
    write_labelled,
)
from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import LeafPlan, anchor_rule
from forkpoint.labels.plan import Collected, LabelStage, Plan, Sampling
from forkpoint.labels.rollout_store import RolloutStore
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.values import PlanName
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Cost, LabelledSolution, Policy, Problem, Request
from forkpoint.runs import Run
from forkpoint.runs.durable import replace_file
from forkpoint.runs.work import Executor
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.solutions.work import outcome_of
from forkpoint.steps import AnchorRule, calibrate_tau
from forkpoint.trees.grow import TreeConfig

NUM_CALIBRATION_PROBLEMS = 64
"""Problems whose greedy solutions tau is calibrated on, the first ones."""
NOT_RECORDED = ("num_inner_labels", "num_single_labels", "num_cut_off", "num_rollouts_cut_off")
"""Fields of a summary that a manifest does not hold: they are counted whenever labels are derived."""
LEAVES = Sampling(LeafPlan())
"""The labels of EDU-PRM: leaves of one tree per problem."""
PLANS: Mapping[PlanName, Plan[Any]] = {plan.name: plan for plan in (LeafPlan(), RolloutPlan(), BisectPlan())}
"""Every plan by its name, with its default settings."""


@dataclass(frozen=True, slots=True)
class LabelSummary:
    """What a label run holds."""

    num_problems: int
    num_failed: int
    """Problems that are still owed; the run's failures.jsonl says why."""
    num_skipped: int
    """Problems whose prompt does not fit the policy's context."""
    num_solutions: int
    """Solutions sampled: leaves of trees, or samples."""
    num_correct: int
    num_ungradable: int
    """Solutions that could not be graded and count as wrong; always 0 for bisection, which does not count
    them."""
    num_labels: int
    num_rollouts: int
    """Graded completions of prefixes."""
    num_rollouts_saved: int
    """Completions that early stopping made unnecessary."""
    tau: float
    cost: Cost
    """What the policy computed."""
    num_pruned: int = 0
    """Anchors that were never forked because of their score (P-EDU)."""
    num_prm_tokens: int = 0
    """Tokens that a PRM read to steer trees."""
    num_inner_labels: int = 0
    """Labels of steps that are not the last one of their solution."""
    num_single_labels: int = 0
    """Inner labels that rest on one outcome, such as those of steps that only one leaf of a tree has."""
    num_cut_off: int = 0
    """Solutions that ended for lack of room; they count as wrong. Always 0 for bisection, whose solutions are
    rollouts."""
    num_rollouts_cut_off: int = 0
    """Graded completions of prefixes that ended for lack of room; they count as wrong."""

    @property
    def num_solved(self) -> int:
        """Problems that have solutions, right or wrong."""
        return self.num_problems - self.num_failed - self.num_skipped

    @property
    def warnings(self) -> tuple[str, ...]:
        """Signs that a PRM has little to learn from these labels, one sentence each."""
        found = []
        num_cut_off = self.num_cut_off + self.num_rollouts_cut_off
        if num_cut_off:
            found.append(
                f"{num_cut_off:,} of {self.num_solutions + self.num_rollouts:,} solutions and rollouts were "
                "cut off and count as wrong: raise --max-tokens if the policy's context has room"
            )
        if self.num_solutions and self.num_correct in (0, self.num_solutions):
            found.append(
                f"{self.num_correct:,} of {self.num_solutions:,} solutions are right, so every label says "
                f"the same and a PRM learns nothing: take {'harder' if self.num_correct else 'easier'} "
                "problems, or more solutions per problem"
            )
        if self.num_single_labels > self.num_inner_labels / 2:
            share = self.num_single_labels / self.num_inner_labels
            found.append(
                f"{self.num_single_labels:,} of {self.num_inner_labels:,} labels of steps before the last "
                f"({share:.0%}) rest on one outcome, so they repeat the verdict on one solution: grow trees "
                "with more leaves, or draw more rollouts per step"
            )
        return tuple(found)


def label_problems(
    problems: Sequence[Problem],
    policy: Policy,
    out: Path,
    tree_config: TreeConfig,
    label_config: LabelConfig,
    executor: Executor,
    sampling: Sampling = LEAVES,
) -> LabelSummary:
    """Sample, grade and journal outcomes at `out`, then derive the labels; run again to continue.

    `tree_config` says how trees are grown; its `max_tokens` limits samples and rollouts too. With
    `anchors_per_solution`, tau is calibrated on the greedy solutions of the first `NUM_CALIBRATION_PROBLEMS`
    problems.
    """
    label_config.check()
    tree_config = resolve_tau(policy, problems[:NUM_CALIBRATION_PROBLEMS], tree_config)
    config = {
        "policy": policy.name,
        "entropies": policy.entropy_bound,
        "problems": content_key([asdict(problem) for problem in problems]),
        "num_problems": len(problems),
        **sampling.identity(tree_config, label_config),
    }
    with Run.open(out, "label", config) as run:
        stage = LabelStage(
            run, RolloutStore(run), policy, executor, problems, tree_config, label_config, sampling
        )
        collected = sampling.plan.collect(stage)
        cases = sampling.plan.cases(run, collected.keys, stage.store)
        written = write_labels(run, label_config, num_rollouts=collected.num_rollouts, cases=cases)
        summary = _summary(stage, collected, written)
        if summary.num_failed == 0:
            recorded = {name: count for name, count in asdict(summary).items() if name not in NOT_RECORDED}
            run.finish({**recorded, "labels": asdict(label_config)})
            record_labels(run, label_config, out / LABELS)  # the journal has its canonical order now
    return summary


def relabel(
    directory: Path,
    configs: Sequence[tuple[LabelConfig, Path]],
    num_rollouts: int | None = None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> list[int]:
    """Derive labels from the outcomes of a run, without its policy: one file per configuration.

    Returns the number of labels in each file. Beside each file FILE.jsonl, FILE.label_config.json says what
    it holds. `num_rollouts` takes only the first completions of each prefix. `on_warning` is told if the run
    is not finished. RunError if the directory is no label run.
    """
    for config, _ in configs:
        config.check()
    with Run.read(directory) as run:
        if run.command != "label":
            raise RunError(f"{directory} was made by {run.command}, not by label")
        if not run.is_finished:
            on_warning(
                f"{directory} is not finished: the labels are those of the problems that are done; "
                "run its forkpoint label again for the others"
            )
        plan = PLANS[run.config["plan"]]
        cases = list(plan.cases(run)) if plan.keeps_cases else None
        return [
            write_labels(run, config, num_rollouts=num_rollouts, path=path, cases=cases).num_labels
            for config, path in configs
        ]


@dataclass(slots=True)
class WrittenLabels:
    """Counts of the labels of a file."""

    num_labels: int = 0
    num_inner: int = 0
    """Labels of steps that are not the last one of their solution."""
    num_single: int = 0
    """Inner labels that rest on one outcome."""


def write_labels(
    run: Run,
    config: LabelConfig,
    keys: Sequence[str] | None = None,
    num_rollouts: int | None = None,
    path: Path | None = None,
    cases: Iterable[Any] | None = None,
) -> WrittenLabels:
    """Derive labels from the run's outcomes into `path` (None: the run's `labels.jsonl`).

    `cases`, if they have been read already, are what the run's plan gives for `keys`.
    """
    written = WrittenLabels()

    def counted() -> Iterator[LabelledSolution]:
        for solution in derive_labels(run, config, keys, num_rollouts, cases):
            written.num_labels += len(solution.labels)
            written.num_inner += len(solution.labels) - 1
            written.num_single += sum(label.num_total == 1 for label in solution.labels[:-1])
            yield solution

    path = path or run.directory / LABELS
    write_labelled(path, counted())
    record_labels(run, config, path)
    return written


def record_labels(run: Run, config: LabelConfig, path: Path) -> None:
    """Write beside the file of labels at `path` how they were derived, and from which journal.

    A finished run of an older version, which recorded no hashes, stays as it is.
    """
    fields = {**asdict(config), "rule": asdict(anchor_rule(run))}
    beside = label_config_of(path)
    if run.is_finished and _holds(beside, fields):
        return
    fields |= {LABELS_DIGEST: labels_digest(path), JOURNAL_DIGEST: run.journal.digest}
    replace_file(beside, [(json.dumps(fields, indent=2, allow_nan=False) + "\n").encode()])


def _holds(path: Path, fields: dict[str, Any]) -> bool:
    """Whether a file exists and is the JSON of `fields`."""
    try:
        return path.is_file() and read_json_object(path) == fields
    except ValueError:
        return False


def read_label_config(path: Path) -> dict[str, Any] | None:
    """The label configuration beside the labels at `path`, with the anchor rule as `rule`.

    `path` is a run directory or a file. None if nothing says how the labels were derived; ValueError names
    the file that says it if it is damaged.
    """
    beside = label_config_of(path / LABELS if path.is_dir() else path)
    if not beside.is_file():
        return None
    fields = read_json_object(beside)
    return {name: value for name, value in fields.items() if name not in (LABELS_DIGEST, JOURNAL_DIGEST)}


def derive_labels(
    run: Run,
    config: LabelConfig,
    keys: Sequence[str] | None = None,
    num_rollouts: int | None = None,
    cases: Iterable[Any] | None = None,
) -> Iterator[LabelledSolution]:
    """Every solution of the run, or of its rows `keys`, in labelled steps; `cases` as in `write_labels`."""
    plan = PLANS[run.config["plan"]]
    return plan.labels(run, plan.cases(run, keys) if cases is None else cases, config, num_rollouts)


def label_config_of(path: Path) -> Path:
    """The path of the configuration of a file of labels, whether or not it exists."""
    return path.parent / LABEL_CONFIG if path.name == LABELS else path.with_suffix("." + LABEL_CONFIG)


def label_format(labels: Path, prm_format: PRMFormat) -> PRMFormat:
    """`prm_format` with the segmentation of the labels at `labels`, a run directory or a file.

    The format is unchanged if the labels have no configuration beside them.
    """
    fields = read_label_config(labels)
    if fields is None:
        return prm_format
    rule = AnchorRule(**fields.pop("rule"))
    return replace(prm_format, segmentation=LabelConfig(**fields).step_segmentation, rule=rule)


def resolve_tau(policy: Policy, problems: Sequence[Problem], config: TreeConfig) -> TreeConfig:
    """The configuration with tau calibrated on greedy solutions of `problems`, if it asks for that."""
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


def _summary(stage: LabelStage, collected: Collected, written: WrittenLabels) -> LabelSummary:
    cost, num_solved, num_solutions, num_correct, num_ungradable = stage.store.cost, 0, 0, 0, 0
    num_pruned = num_prm_tokens = num_cut_off = 0
    for row in stage.run.rows(collected.keys):
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
            num_cut_off += outcome.num_cut_off
            num_ungradable += sum(not end.is_gradable for end in outcome.ends)
    return LabelSummary(
        num_problems=len(stage.problems),
        num_failed=collected.num_failed,
        num_skipped=len(stage.problems) - collected.num_failed - num_solved,
        num_solutions=num_solutions,
        num_correct=num_correct,
        num_ungradable=num_ungradable,
        num_labels=written.num_labels,
        num_rollouts=stage.store.num_rollouts,
        num_rollouts_saved=collected.num_rollouts_saved,
        tau=stage.tree.tau,
        cost=cost,
        num_pruned=num_pruned,
        num_prm_tokens=num_prm_tokens,
        num_inner_labels=written.num_inner,
        num_single_labels=written.num_single,
        num_cut_off=num_cut_off,
        num_rollouts_cut_off=stage.store.num_cut_off,
    )
