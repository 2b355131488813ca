"""The plan `rollouts`: a step is worth what completions of its prefix are worth (Math-Shepherd, ER-PRM).

Solutions are sampled (or taken from EDU trees), cut into steps, and every distinct prefix that ends with a
step, except the last step, is completed k times; the last step's outcome is the solution's own.
Invariant: the run holds solutions and outcomes, never labels. Labels of any value are derived from the same
completions; with early stopping, only of values that the stopping has not biased.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from forkpoint.checks import check_above, check_at_least, check_choice, check_within
from forkpoint.labels.cases import RolledOutSolution
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaves import tally_label
from forkpoint.labels.plan import Collected, LabelStage
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.values import OUTCOME, PlanName
from forkpoint.records import LabelledSolution
from forkpoint.runs import Run
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.work import SampleWork, outcome_of
from forkpoint.steps import AnchorRule

SolutionSource = Literal["samples", "tree"]
SOLUTION_SOURCES: tuple[SolutionSource, ...] = ("samples", "tree")
PROBLEMS_AT_A_TIME = 1024
"""Problems whose solutions are held in memory while their prefixes are rolled out: enough to keep many
workers busy."""


@dataclass(frozen=True)
class RolloutPlan:
    """Which solutions are labelled, and how often each prefix is completed."""

    name: ClassVar[PlanName] = "rollouts"
    has_seed: ClassVar[bool] = True
    keeps_cases: ClassVar[bool] = True

    source: SolutionSource = "samples"
    """Where the solutions come from: independent samples, or the leaves of an EDU tree."""
    num_solutions: int = 8
    """Solutions sampled per problem (15 in arXiv 2412.11006)."""
    solution_temperature: float = 0.7
    """Temperature at which solutions are sampled (0.7 in arXiv 2412.11006)."""
    num_rollouts: int = 16
    """Completions of every prefix, k (16 in arXiv 2412.11006). Asking for more later samples only the missing
    ones."""
    rollout_temperature: float = 1.0
    """Temperature of the completions (1.0 in arXiv 2412.11006, at which outcomes are samples of the policy
    itself)."""
    rollout_top_p: float = 1.0
    """Probability mass of the tokens that completions are sampled from."""
    stop_early: bool = False
    """Complete a prefix no further once the interval of its label is at most `max_width` wide; for the value
    hit, once a completion is right. Such a run gives no other labels if the value is hit, and none of hit if
    it is another; labels of the other values are then slightly biased."""
    max_width: float = 0.3
    """Width of a label's 95 % interval, in [0, 1), at which `stop_early` stops."""
    round_size: int = 4
    """Completions that `stop_early` draws of a prefix before it looks at the interval again."""

    def __post_init__(self) -> None:
        check_choice("source", self.source, SOLUTION_SOURCES)
        check_at_least(
            1,
            num_solutions=self.num_solutions,
            num_rollouts=self.num_rollouts,
            round_size=self.round_size,
        )
        # at 0 all completions of a prefix are the same
        check_above(
            0, solution_temperature=self.solution_temperature, rollout_temperature=self.rollout_temperature
        )
        check_within("(0, 1]", rollout_top_p=self.rollout_top_p)
        check_within("[0, 1)", max_width=self.max_width)

    def solutions(self, max_tokens: int, seed: int) -> RolloutConfig:
        """How solutions are sampled, unless they come from trees."""
        return RolloutConfig(self.num_solutions, self.solution_temperature, 1.0, max_tokens, seed)

    def rollouts(self, max_tokens: int, seed: int) -> RolloutConfig:
        """How completions are drawn."""
        return RolloutConfig(
            self.num_rollouts, self.rollout_temperature, self.rollout_top_p, max_tokens, seed
        )

    @property
    def grows_trees(self) -> bool:
        return self.source == "tree"

    def identity(self, labels: LabelConfig, rule: AnchorRule) -> dict[str, Any]:
        """What the rows of a run depend on. The number of rollouts is not part of it: more can be added."""
        return {
            "plan": self.name,
            "solutions": self._solution_identity(),
            "rollouts": {"temperature": self.rollout_temperature, "top_p": self.rollout_top_p},
            "stop": self._stop_identity(labels),
            "segmentation": labels.segmentation,
            "rule": asdict(rule) if labels.segmentation == "entropy" else None,
        }

    def _solution_identity(self) -> dict[str, Any]:
        if self.grows_trees:
            return {"source": self.source}
        return {"source": self.source, "num": self.num_solutions, "temperature": self.solution_temperature}

    def _stop_identity(self, labels: LabelConfig) -> dict[str, Any] | None:
        if not self.stop_early:
            return None
        return {"value": labels.canonical_value, "max_width": self.max_width, "round_size": self.round_size}

    def collect(self, stage: LabelStage) -> Collected:
        """Sample the solutions that the run lacks, then complete their prefixes."""
        sampled = self.solutions(stage.tree.max_tokens, stage.sampling.seed)
        solved = stage.solve(
            stage.trees() if self.grows_trees else SampleWork(stage.policy, stage.problems, sampled)
        )
        num_saved = 0
        for start in range(0, len(solved.keys), PROBLEMS_AT_A_TIME):
            rows = stage.run.rows(solved.keys[start : start + PROBLEMS_AT_A_TIME])
            num_saved += self._complete(stage, [outcome_of(row) for row in rows if row["kind"] != "skipped"])
        return replace(solved, num_rollouts=self.num_rollouts, num_rollouts_saved=num_saved)

    def _complete(self, stage: LabelStage, outcomes: Sequence[SampleOutcome | TreeOutcome]) -> int:
        """Complete every distinct prefix of the solutions as often as the plan says.

        The requests of all problems go out together.

        Returns the number of completions that early stopping made unnecessary.
        """
        store, config = stage.store, self.rollouts(stage.tree.max_tokens, stage.sampling.seed)
        prefixes = list(
            dict.fromkeys(
                prefix
                for outcome in outcomes
                for prefix in step_prefixes(outcome, stage.labels, stage.tree.rule)
            )
        )
        open_prefixes, level = prefixes, 0
        while open_prefixes:
            items = [(prefix, self._next_span(store.spans(prefix), level)) for prefix in open_prefixes]
            stage.roll_out(items, config)
            level += 1
            open_prefixes = [
                prefix
                for prefix, span in items
                if span.stop < self.num_rollouts
                and not (self.stop_early and self._is_decided(store, prefix, span.stop, stage.labels))
            ]
        return sum(max(0, self.num_rollouts - len(store.outcomes(prefix))) for prefix in prefixes)

    def _next_span(self, spans: Sequence[range], level: int) -> range:
        """The samples of a prefix that round `level` draws; `spans` are those of the rounds in the run."""
        if level < len(spans):
            return spans[level]
        start = spans[level - 1].stop if level else 0
        num_left = self.num_rollouts - start
        return range(start, start + (min(self.round_size, num_left) if self.stop_early else num_left))

    def _is_decided(self, store: RolloutStore, prefix: Prefix, num: int, labels: LabelConfig) -> bool:
        label = tally_label(sum(store.outcomes(prefix)[:num]), num, labels.step_value)
        return label.high - label.low <= self.max_width

    def cases(
        self, run: Run, keys: Sequence[str] | None = None, store: RolloutStore | None = None
    ) -> Iterator[RolledOutSolution]:
        """The solutions of a run with the outcomes of their prefixes."""
        store = store or RolloutStore(run)
        rule = AnchorRule(**(run.config["rule"] or {}))
        for row in run.rows(keys):
            if row["kind"] not in ("samples", "tree"):
                continue
            outcome = outcome_of(row)
            for idx, end in enumerate(outcome.ends):
                path = outcome.path(idx)
                steps, step_ends = path.steps(run.config["segmentation"], rule)
                prefixes = [
                    Prefix(outcome.problem, path.completion.token_ids[:num], "") for num in step_ends[:-1]
                ]
                outcomes = tuple(store.outcomes(prefix) for prefix in prefixes)
                yield RolledOutSolution(outcome.problem, steps, outcomes, end.is_correct)

    def labels(
        self,
        run: Run,
        cases: Iterable[RolledOutSolution],
        config: LabelConfig,
        num_rollouts: int | None = None,
    ) -> Iterator[LabelledSolution]:
        """The solutions with a label per step, from the first `num_rollouts` completions per prefix (or all).

        ValueError if the run's steps were cut in another way, if early stopping has biased the value, or if a
        prefix has fewer completions than asked for.
        """
        _refuse_other_cuts(run, config)
        _refuse_biased_values(run, config)
        for case in cases:
            if config.step_segmentation != "solution":
                _refuse_missing_rollouts(case, None if run.config["stop"] else num_rollouts)
            yield case.labelled(config, num_rollouts)


def step_prefixes(
    outcome: SampleOutcome | TreeOutcome, labels: LabelConfig, rule: AnchorRule
) -> Iterator[Prefix]:
    """The prefixes of a problem's solutions that end with a step, except the whole solutions."""
    for idx in range(len(outcome.ends)):
        path = outcome.path(idx)
        for end in path.steps(labels.segmentation, rule)[1][:-1]:
            yield Prefix(outcome.problem, path.completion.token_ids[:end], "".join(path.token_texts[:end]))


def _refuse_missing_rollouts(case: RolledOutSolution, num_rollouts: int | None) -> None:
    for outcomes in case.outcomes:
        if len(outcomes) < (num_rollouts or 1):
            raise ValueError(
                f"a prefix of {case.problem.id} has {len(outcomes)} rollouts, "
                f"{num_rollouts or 'some'} are needed; "
                "run the label command again"
            )


def _refuse_biased_values(run: Run, config: LabelConfig) -> None:
    if not run.config["stop"]:
        return
    stopped_for, asked = run.config["stop"]["value"], config.canonical_value
    if "hit" in (stopped_for, asked) and asked not in (stopped_for, OUTCOME):
        raise ValueError(
            f"{run.directory} stopped early for the value {stopped_for}, which biases {asked}; "
            f"derive {stopped_for} or outcome, or sample without early stopping"
        )


def _refuse_other_cuts(run: Run, config: LabelConfig) -> None:
    if config.step_segmentation not in (run.config["segmentation"], "solution"):
        raise ValueError(
            f"the prefixes of {run.directory} end with {run.config['segmentation']} steps; "
            f"labels of {config.segmentation} steps need rollouts of their own"
        )
    if config.weighting != "uniform":
        raise ValueError(
            "rollouts are samples of the policy and count once each; "
            "weighting policy is for the leaves of trees"
        )
