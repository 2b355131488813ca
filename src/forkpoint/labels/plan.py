"""The protocol of plans. A plan collects the outcomes under steps into a run, and labels the steps with them.

The plans are `LeafPlan` (leaf_plan.py), `RolloutPlan` (rollouts.py) and `BisectPlan` (bisect.py).
Invariant: a plan collects outcomes, never labels. Labels are derived from the run alone, so any plan of the
same name derives them, whatever its settings are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from forkpoint.checks import check_at_least
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.values import PlanName
from forkpoint.records import LabelledSolution, Policy, Problem
from forkpoint.runs import Run
from forkpoint.runs.work import Executor
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.work import SampleWork, TreeWork
from forkpoint.steps import AnchorRule
from forkpoint.trees.ahead import MAX_WASTE
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import Steering

Case = TypeVar("Case")


@dataclass(frozen=True, slots=True)
class Collected:
    """What a plan has collected into a run."""

    keys: list[str]
    """The rows that labels are derived from, in the order of the problems."""
    num_failed: int = 0
    """Problems that have no row because their work failed."""
    num_rollouts: int | None = None
    """How many completions of each prefix count for labels; None: all."""
    num_rollouts_saved: int = 0
    """Completions that early stopping made unnecessary."""


class Plan(Protocol[Case]):
    """Where the outcomes under a step come from. `Case` is what `cases` reads and `labels` takes."""

    @property
    def name(self) -> PlanName:
        """The name of the plan in commands and in run directories."""
        ...

    @property
    def grows_trees(self) -> bool:
        """Whether solutions are the leaves of EDU trees."""
        ...

    @property
    def has_seed(self) -> bool:
        """Whether outcomes depend on the seed. Trees without rollouts are greedy and do not."""
        ...

    @property
    def keeps_cases(self) -> bool:
        """Whether the cases of a whole run fit into memory while labels of several values are derived."""
        ...

    def identity(self, labels: LabelConfig, rule: AnchorRule) -> dict[str, Any]:
        """The plan's part of a run's configuration: its name, and everything else that its rows depend on."""
        ...

    def collect(self, stage: LabelStage) -> Collected:
        """Sample what the run lacks, and journal it."""
        ...

    def cases(
        self, run: Run, keys: Sequence[str] | None = None, store: RolloutStore | None = None
    ) -> Iterator[Case]:
        """The labelled units of a run, or of its rows `keys`.

        `store` saves reading the run's rollouts again.
        """
        ...

    def labels(
        self, run: Run, cases: Iterable[Case], config: LabelConfig, num_rollouts: int | None = None
    ) -> Iterator[LabelledSolution]:
        """The solutions of all cases, each step labelled.

        `num_rollouts` takes only the first completions of each prefix, if the plan has any. ValueError if the
        run does not hold what such labels need.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """A plan, and what else decides how its outcomes are sampled."""

    plan: Plan[Any]
    seed: int = 0
    """Seed of rollouts, and of sampled solutions; trees are greedy and do not depend on it."""
    steering: Steering | None = None
    """Prunes or chooses the forks of trees by a PRM's scores; ValueError if the plan grows none."""
    on_round: Callable[[int, int], None] = lambda num_done, num_problems: None
    """Called by a search by bisection after every round of rollouts, with (problems done, problems)."""
    max_waste: float = MAX_WASTE
    """The largest share of sampled tokens that may be wasted on forks that are grown ahead of their turn, if
    rows would be empty otherwise; it changes no row."""

    def __post_init__(self) -> None:
        check_at_least(0, max_waste=self.max_waste)
        if self.steering is not None and not self.plan.grows_trees:
            raise ValueError(
                "only trees can be pruned or searched; choose the plan leaves, or rollouts with source tree"
            )

    def identity(self, tree: TreeConfig, labels: LabelConfig) -> dict[str, Any]:
        """What goes into a run's configuration, of this and of the trees."""
        identity = self.plan.identity(labels, tree.rule)
        if self.plan.grows_trees:
            identity["tree"] = asdict(tree)
        if self.steering is not None:
            identity["steering"] = self.steering.identity()
        if self.plan.has_seed:
            identity |= {"seed": self.seed, "max_tokens": tree.max_tokens}
        return identity


@dataclass(frozen=True, slots=True)
class LabelStage:
    """An open label run, and everything that a plan samples with."""

    run: Run
    store: RolloutStore
    """The run's rollouts; gets those that are drawn."""
    policy: Policy
    executor: Executor
    problems: Sequence[Problem]
    tree: TreeConfig
    """How trees are grown, tau resolved; its `max_tokens` and `rule` apply to samples too."""
    labels: LabelConfig
    sampling: Sampling

    def solve(self, work: TreeWork | SampleWork) -> Collected:
        """Grow or sample the solutions that the run lacks; the rows of all problems that did not fail."""
        num_failed = self.executor.execute(self.run, work).rows_failed
        return Collected([key for key in work.keys if key in self.run], num_failed)

    def trees(self) -> TreeWork:
        """One tree per problem."""
        return TreeWork(
            self.policy, self.problems, self.tree, self.sampling.steering, self.sampling.max_waste
        )

    def roll_out(
        self,
        items: Sequence[tuple[Prefix, range]],
        config: RolloutConfig,
        keeps_tokens: bool = False,
        shows_progress: bool = True,
    ) -> None:
        """Draw the samples of prefixes that the run lacks. RuntimeError if some of it failed."""
        self.store.fetch(
            self.run, self.executor, self.policy, items, config, keeps_tokens, shows_progress=shows_progress
        )
