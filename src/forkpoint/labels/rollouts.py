"""The plan `rollouts`: a step is worth what completions of its prefix are worth (Math-Shepherd, ER-PRM).

Solutions are sampled (or taken from EDU trees), cut into steps, and every distinct prefix that ends with a step, the last
step excepted, is completed k times; the last step's outcome is the solution's own.
Invariant: the run holds solutions and outcomes, never labels. Labels of any value are derived from the same completions;
with early stopping, only of values that the stopping has not biased.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaves import final_label, tally_label
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.values import OUTCOME
from forkpoint.records import LabelledSolution, Policy, Problem
from forkpoint.runs import Run
from forkpoint.runs.work import Executor
from forkpoint.solutions.outcomes import SampleOutcome, TreeOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.work import outcome_of
from forkpoint.steps import AnchorRule

Source = Literal["samples", "tree"]


@dataclass(frozen=True)
class RolloutPlan:
    """Which solutions are labelled, and how often each prefix is completed."""

    source: Source = "samples"
    """Where the solutions come from: independent samples, or the leaves of an EDU tree."""
    num_solutions: int = 8
    """Sampled per problem (15 in arXiv 2412.11006)."""
    solution_temperature: float = 0.7
    """0.7 in arXiv 2412.11006."""
    num_rollouts: int = 16
    """k: completions of every prefix (16 in arXiv 2412.11006). Asking for more later samples only what is missing."""
    rollout_temperature: float = 1.0
    """1.0 in arXiv 2412.11006, and what makes outcomes samples of the policy itself."""
    rollout_top_p: float = 1.0
    stop_early: bool = False
    """Complete a prefix no further once the interval of its label is at most `max_width` wide: for the value hit that is
    once a completion was right. Labels of other values cannot then be derived from the run (of hit), or are slightly biased."""
    max_width: float = 0.3
    """Of the 95 % interval of the label, in [0, 1); used with `stop_early`."""
    round_size: int = 4
    """With `stop_early`: completions between two looks."""

    def __post_init__(self) -> None:
        if self.source not in ("samples", "tree"):
            raise ValueError(f"source {self.source!r} is unknown; choose from samples, tree")
        for name in ("num_solutions", "num_rollouts", "round_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; {getattr(self, name)} was given")
        for name in ("solution_temperature", "rollout_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name} must be above 0: completions at 0 are all the same; {getattr(self, name)} was given"
                )
        if not 0 < self.rollout_top_p <= 1:
            raise ValueError(f"rollout_top_p must be in (0, 1]; {self.rollout_top_p} was given")
        if not 0 <= self.max_width < 1:
            raise ValueError(f"max_width must be in [0, 1); {self.max_width} was given")

    def solutions(self, max_tokens: int, seed: int) -> RolloutConfig:
        """How solutions are sampled, where they are."""
        return RolloutConfig(self.num_solutions, self.solution_temperature, 1.0, max_tokens, seed)

    def rollouts(self, max_tokens: int, seed: int) -> RolloutConfig:
        """How completions are drawn."""
        return RolloutConfig(
            self.num_rollouts, self.rollout_temperature, self.rollout_top_p, max_tokens, seed
        )

    def identity(self, labels: LabelConfig, rule: AnchorRule) -> dict[str, Any]:
        """What the rows of a run depend on. The number of rollouts is not part of it: more can be added."""
        drawn = {"temperature": self.rollout_temperature, "top_p": self.rollout_top_p}
        stop = (
            {"value": labels.canonical_value, "max_width": self.max_width, "round_size": self.round_size}
            if self.stop_early
            else None
        )
        solutions = {
            "source": self.source,
            "num": self.num_solutions,
            "temperature": self.solution_temperature,
        }
        if self.source == "tree":
            solutions = {"source": self.source}
        return {
            "plan": "rollouts",
            "solutions": solutions,
            "rollouts": drawn,
            "stop": stop,
            **cuts(labels, rule),
        }


def cuts(labels: LabelConfig, rule: AnchorRule) -> dict[str, Any]:
    """Where prefixes end, which is fixed when they are sampled."""
    return {
        "segmentation": labels.segmentation,
        "rule": asdict(rule) if labels.segmentation == "entropy" else None,
    }


def sample_rollouts(
    run: Run, store: RolloutStore, executor: Executor, policy: Policy, outcomes: Sequence[SampleOutcome | TreeOutcome], labels: LabelConfig,
    plan: RolloutPlan, rule: AnchorRule, config: RolloutConfig,
) -> int:  # fmt: skip
    """Complete every distinct prefix of the solutions as often as the plan says; the requests of all problems together.

    `store` holds the run's rollouts, and gets those that are drawn. Returns how many completions early stopping made unnecessary.
    """
    prefixes = list(
        dict.fromkeys(prefix for outcome in outcomes for prefix in step_prefixes(outcome, labels, rule))
    )
    open_prefixes, level = prefixes, 0
    while open_prefixes:
        items = []
        for prefix in open_prefixes:
            spans = store.spans(prefix)
            start = spans[level - 1].stop if level else 0
            size = (
                min(plan.round_size, plan.num_rollouts - start)
                if plan.stop_early
                else plan.num_rollouts - start
            )
            items.append((prefix, spans[level] if level < len(spans) else range(start, start + size)))
        store.fetch(run, executor, policy, items, config)
        level += 1
        open_prefixes = [
            prefix
            for prefix, span in items
            if span.stop < plan.num_rollouts
            and not (plan.stop_early and _is_decided(store, prefix, span.stop, labels, plan))
        ]
    return sum(max(0, plan.num_rollouts - len(store.outcomes(prefix))) for prefix in prefixes)


def step_prefixes(
    outcome: SampleOutcome | TreeOutcome, labels: LabelConfig, rule: AnchorRule
) -> Iterator[Prefix]:
    """The prefixes of a problem's solutions that end with a step which is not the last."""
    for idx in range(len(outcome.ends)):
        path = outcome.path(idx)
        for end in path.steps(labels.segmentation, rule)[1][:-1]:
            yield Prefix(outcome.problem, path.completion.token_ids[:end], "".join(path.token_texts[:end]))


@dataclass(frozen=True, slots=True)
class LabelledCase:
    """A solution, its steps, and what completions of each prefix came to; the last step has none."""

    problem: Problem
    steps: tuple[str, ...]
    outcomes: tuple[tuple[bool, ...], ...]
    is_correct: bool


def rollout_cases(run: Run, store: RolloutStore, keys: Sequence[str] | None = None) -> Iterator[LabelledCase]:
    """The solutions of a run (or of the rows `keys`) with the outcomes of their prefixes; a list of them serves labels of any value."""
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
            yield LabelledCase(
                outcome.problem, steps, tuple(store.outcomes(prefix) for prefix in prefixes), end.is_correct
            )


def rollout_labels(
    run: Run, cases: Iterable[LabelledCase], config: LabelConfig, num_rollouts: int | None
) -> Iterator[LabelledSolution]:
    """The solution of every case of a run with a label per step, from the first `num_rollouts` completions of each prefix (None: all).

    ValueError where the run's steps were cut otherwise, where early stopping has biased the value, or where a prefix has
    fewer completions than asked for.
    """
    stop = run.config["stop"]
    _refuse_other_cuts(run, config)
    if (
        stop
        and "hit" in (stop["value"], config.canonical_value)
        and config.canonical_value not in (stop["value"], OUTCOME)
    ):
        raise ValueError(
            f"{run.directory} stopped early for the value {stop['value']}, which biases {config.canonical_value}; "
            f"derive {stop['value']} or outcome, or sample without early stopping"
        )
    value = config.step_value
    for case in cases:
        labels, steps = [], case.steps
        if config.step_segmentation == "solution":
            steps = ("".join(steps),)
        else:
            for outcomes in case.outcomes:
                if not outcomes or (num_rollouts and not stop and len(outcomes) < num_rollouts):
                    raise ValueError(
                        f"a prefix of {case.problem.id} has {len(outcomes)} rollouts, {num_rollouts or 'some'} are needed; label on"
                    )
                taken = outcomes[:num_rollouts]
                labels.append(tally_label(sum(taken), len(taken), value))
        yield LabelledSolution(
            case.problem.id,
            case.problem.question,
            steps,
            (*labels, final_label(case.is_correct)),
            case.is_correct,
        )


def _is_decided(
    store: RolloutStore, prefix: Prefix, num: int, labels: LabelConfig, plan: RolloutPlan
) -> bool:
    label = tally_label(sum(store.outcomes(prefix)[:num]), num, labels.step_value)
    return label.high - label.low <= plan.max_width


def _refuse_other_cuts(run: Run, config: LabelConfig) -> None:
    if config.step_segmentation not in (run.config["segmentation"], "solution"):
        raise ValueError(
            f"the prefixes of {run.directory} end with {run.config['segmentation']} steps; labels of {config.segmentation} steps "
            "need rollouts of their own"
        )
    if config.weighting != "uniform":
        raise ValueError(
            "rollouts are samples of the policy and count once each; weighting policy is for the leaves of trees"
        )
