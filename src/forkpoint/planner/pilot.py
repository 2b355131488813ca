"""Measured means instead of assumed ones: a finished run of a few problems, scaled up.

Invariant: totals are the run's own, from its journal; a pilot is refused for a stage that does something
else. A pilot cannot know whether its problems are like the rest: take them with `?num=20&seed=0`, not from
the head of a sorted file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.errors import RunError
from forkpoint.estimates import Estimate, bootstrap
from forkpoint.formats.labels_file import LABELS, read_labelled
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import anchor_rule
from forkpoint.labels.rollouts import step_prefixes
from forkpoint.planner.volume import ProblemSet, scaled
from forkpoint.records import Cost
from forkpoint.runs import Run
from forkpoint.runs.run import JOURNAL
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome
from forkpoint.solutions.work import outcome_of

EVALUATE = "evaluate"
"""The directory of the run inside that of an evaluation."""


@dataclass(frozen=True, slots=True)
class Pilot:
    """The measured cost of a finished run of `forkpoint label` or `forkpoint evaluate`."""

    directory: Path
    settings: dict[str, Any]
    """The run's configuration."""
    means: ProblemSet | None
    """Means of its problems; None for a search by bisection, whose journal has no prompts."""
    num_problems: int
    cost: Cost
    sampled_tokens: Estimate | None
    """Sampled tokens per problem, with the 95 % interval over problems; None for a search by bisection."""
    num_rollouts: int
    """The largest number of rollouts that a prefix has."""
    solutions_per_problem: float
    seconds: float
    """Seconds for which the run was open for writing."""
    journal_bytes: int

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens per second: a lower bound for the same machine with more problems side by side."""
        return self.cost.sampled_tokens / self.seconds

    def scaled_cost(self, num_problems: int) -> Cost:
        """The cost of `num_problems` problems like these."""
        return scaled(self.cost, num_problems / self.num_problems)

    def check(self, asked: Mapping[str, Any], num_rollouts: int | None = None) -> None:
        """Raise ValueError unless the pilot did what a stage will do.

        Its configuration must hold `asked`, and its prefixes `num_rollouts` rollouts, unless that is None.
        """
        for name, value in asked.items():
            if self.settings.get(name) != value:
                raise ValueError(
                    f"the pilot {self.directory} had {name} {self.settings.get(name)}, "
                    f"and the stage has {value}; "
                    "make a pilot with the stage's own flags on fewer problems"
                )
        if num_rollouts not in (None, self.num_rollouts):
            raise ValueError(
                f"the pilot {self.directory} has {self.num_rollouts} rollouts per prefix, "
                f"and the stage has {num_rollouts}"
            )


def read_pilot(directory: Path) -> Pilot:
    """The pilot at `directory`: a label run, or what `forkpoint evaluate` wrote.

    FileNotFoundError or RunError if there is none; RunError if it is not finished or nothing was sampled.
    """
    if (directory / EVALUATE / JOURNAL).is_file():
        directory = directory / EVALUATE
    with Run.read(directory) as run:
        if run.command not in ("label", EVALUATE):
            raise RunError(f"{directory} was made by {run.command}; a pilot is a run of label or evaluate")
        if run.manifest is None:
            raise RunError(f"the run at {directory} is not finished; give its command again, then plan")
        pilot = _measured(run, run.manifest["seconds"])
    if pilot.cost.sampled_tokens == 0:
        raise RunError(
            f"nothing was sampled in {directory}; a pilot needs problems that fit the policy's context"
        )
    return pilot


def _measured(run: Run, seconds: float) -> Pilot:
    outcomes = [outcome_of(row) for row in run.rows() if row["kind"] in ("tree", "samples")]
    ids = dict.fromkeys(outcome.problem.id for outcome in outcomes)
    per_problem: dict[str, int] = dict.fromkeys(ids, 0)
    owners: dict[str, str] = {}
    cost, num_rollouts = Cost(), 0
    for outcome in outcomes:
        cost += outcome.cost
        per_problem[outcome.problem.id] += outcome.cost.sampled_tokens
        if run.config.get("plan") == "rollouts":
            prefixes = step_prefixes(
                outcome, LabelConfig(segmentation=run.config["segmentation"]), anchor_rule(run)
            )
            owners |= {prefix.key: outcome.problem.id for prefix in prefixes}
    num_searched = num_paths = 0
    for row in run.rows():
        if row["kind"] == "rollouts":
            row_cost = Cost(**row["cost"])
            cost += row_cost
            num_rollouts = max(num_rollouts, row["first"] + len(row["correct"]))
            if row["prefix"] in owners:
                per_problem[owners[row["prefix"]]] += row_cost.sampled_tokens
        elif row["kind"] == "search":
            num_searched += 1
            num_paths += len(row["paths"])
    num_solutions = num_paths + sum(len(outcome.ends) for outcome in outcomes)
    num_problems = num_searched or len(ids)
    return Pilot(
        directory=run.directory,
        settings=run.config,
        means=_means(run, outcomes, num_problems) if outcomes else None,
        num_problems=num_problems,
        cost=cost,
        sampled_tokens=bootstrap(list(per_problem.values())) if per_problem else None,
        num_rollouts=num_rollouts,
        solutions_per_problem=num_solutions / max(1, num_problems),
        seconds=seconds,
        journal_bytes=(run.directory / JOURNAL).stat().st_size,
    )


def _means(run: Run, outcomes: list[TreeOutcome | SampleOutcome], num_problems: int) -> ProblemSet:
    lengths = [len(outcome.path(idx).completion) for outcome in outcomes for idx in range(len(outcome.ends))]
    prompts = [
        outcome.cost.prompt_tokens / outcome.cost.requests
        for outcome in outcomes
        if isinstance(outcome, SampleOutcome)
    ]
    trees = [outcome.tree for outcome in outcomes if isinstance(outcome, TreeOutcome)]
    prompts += [len(tree.prompt_ids) for tree in trees]
    forks = [branch.fork for tree in trees for branch in tree.branches if branch.parent_idx is not None]
    means = ProblemSet(
        num_problems,
        float(np.mean(prompts)),
        float(np.mean(lengths)),
        float(np.mean(list(_num_steps(run, outcomes)))),
    )
    return replace(means, fork_share=float(np.mean(forks)) / means.solution_tokens) if forks else means


def _num_steps(run: Run, outcomes: list[TreeOutcome | SampleOutcome]) -> Iterator[int]:
    if run.command == "label":
        yield from (len(solution.steps) for solution in read_labelled(run.directory / LABELS))
        return
    for outcome in outcomes:
        for idx in range(len(outcome.ends)):
            yield len(outcome.path(idx).steps("newline", anchor_rule(run))[0])
