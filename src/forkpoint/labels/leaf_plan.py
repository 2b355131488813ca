"""The plan `leaves`: one EDU tree per problem, labels from the leaves below each step (see `leaves.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaves import Leaves
from forkpoint.labels.plan import Collected, LabelStage
from forkpoint.labels.rollout_store import RolloutStore
from forkpoint.labels.values import PlanName
from forkpoint.records import LabelledSolution
from forkpoint.runs import Run
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.steps import AnchorRule


@dataclass(frozen=True)
class LeafPlan:
    """The plan of EDU-PRM (arXiv 2503.22233): a step is worth what the leaves below it are worth."""

    name: ClassVar[PlanName] = "leaves"
    grows_trees: ClassVar[bool] = True
    has_seed: ClassVar[bool] = False
    keeps_cases: ClassVar[bool] = False  # every token of every tree

    def identity(self, labels: LabelConfig, rule: AnchorRule) -> dict[str, Any]:
        """Only the name: how the trees are grown is recorded beside it."""
        return {"plan": self.name}

    def collect(self, stage: LabelStage) -> Collected:
        """Grow the trees that the run lacks."""
        return stage.solve(stage.trees())

    def cases(
        self, run: Run, keys: Sequence[str] | None = None, store: RolloutStore | None = None
    ) -> Iterator[TreeOutcome]:
        """The run's trees."""
        return tree_outcomes(run, keys)

    def labels(
        self, run: Run, cases: Iterable[TreeOutcome], config: LabelConfig, num_rollouts: int | None = None
    ) -> Iterator[LabelledSolution]:
        """Every leaf of every tree, each step labelled; `num_rollouts` is ignored."""
        for outcome in cases:
            yield from labelled_solutions(outcome, config, anchor_rule(run))


def anchor_rule(run: Run) -> AnchorRule:
    """The anchor rule of the run's trees or of its steps; the default rule if it has neither."""
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
