"""How far labels are from the truth: the true value of a prefix, estimated once with many rollouts.

The true value is the probability that the policy, sampling at temperature 1, reaches the right answer from
the prefix.
Invariant: prefixes are drawn with a seed from the journal of a label run, each at most once, and their
rollouts are journaled; an estimate is made once and serves all labels that are compared with it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from forkpoint.checks import check_at_least, check_choice
from forkpoint.content_key import content_key
from forkpoint.evaluation.metrics import LabelQuality, label_quality
from forkpoint.labels.leaf_plan import anchor_rule, tree_outcomes
from forkpoint.labels.leaves import WEIGHTINGS, Leaves
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.values import mean
from forkpoint.records import Cost, Policy
from forkpoint.runs import Run
from forkpoint.runs.work import Executor
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.steps import SEGMENTATIONS, AnchorRule, Segmentation


@dataclass(frozen=True)
class PrefixConfig:
    """Which prefixes get a true value, and how precise it is."""

    num_prefixes: int = 100
    """Number of prefixes."""
    num_rollouts: int = 64
    """Rollouts per prefix; the standard error of a true value of 0.5 is 0.5 / sqrt(num_rollouts)."""
    segmentation: Segmentation = "newline"
    """How solutions are cut into steps; a prefix ends with a step."""
    seed: int = 0
    """Seed of the choice of prefixes and of their rollouts."""

    def __post_init__(self) -> None:
        check_at_least(1, num_prefixes=self.num_prefixes, num_rollouts=self.num_rollouts)
        check_choice("segmentation", self.segmentation, SEGMENTATIONS)


@dataclass(frozen=True, slots=True)
class LabelledPrefix:
    """A prefix that ends with a step, and the labels that its tree gives it."""

    prefix: Prefix
    labels: dict[str, float]
    """Mean outcome of the leaves below, by weighting."""


def draw_prefixes(
    outcomes: Sequence[TreeOutcome], config: PrefixConfig, rule: AnchorRule
) -> list[LabelledPrefix]:
    """Distinct prefixes that are not whole solutions; each tree gives one before any gives a second."""
    rng = random.Random(config.seed)
    order = list(outcomes)
    rng.shuffle(order)
    drawn: list[LabelledPrefix] = []
    piles: list[list[LabelledPrefix]] = []
    for outcome in order:  # stops early: labelling all trees would take long, and few are needed
        if len(drawn) == config.num_prefixes:
            break
        if pile := _labelled_prefixes(outcome, config, rule):
            rng.shuffle(pile)
            drawn.append(pile.pop())
            piles.append(pile)
    while len(drawn) < config.num_prefixes and any(piles):
        drawn += [pile.pop() for pile in piles if pile]
    return drawn[: config.num_prefixes]


def _labelled_prefixes(outcome: TreeOutcome, config: PrefixConfig, rule: AnchorRule) -> list[LabelledPrefix]:
    """The distinct prefixes of a tree."""
    right = [end.is_correct for end in outcome.ends]
    plans = {weighting: Leaves(outcome.tree, right, weighting) for weighting in WEIGHTINGS}
    found: dict[tuple[int, ...], LabelledPrefix] = {}
    for leaf_idx in range(len(outcome.ends)):
        path = outcome.path(leaf_idx)
        for num_tokens in path.steps(config.segmentation, rule)[1][:-1]:
            ids = path.completion.token_ids[:num_tokens]
            labels: dict[str, float] = {
                weighting: plan.label(leaf_idx, num_tokens, mean).value for weighting, plan in plans.items()
            }
            text = "".join(path.token_texts[:num_tokens])
            found.setdefault(ids, LabelledPrefix(Prefix(outcome.problem, ids, text), labels))
    return list(found.values())


@dataclass(frozen=True, slots=True)
class LabelTruth:
    """Labels of both weightings against the same true values."""

    quality: dict[str, LabelQuality]
    """Figures by weighting."""
    num_rollouts: int
    cost: Cost


def measure_labels(
    labels: Path, policy: Policy, out: Path, config: PrefixConfig, executor: Executor, max_tokens: int
) -> LabelTruth:
    """Compare the labels of a label run with true values, journaled at `out`; run again to continue."""
    with Run.read(labels) as label_run:
        prefixes = draw_prefixes(list(tree_outcomes(label_run)), config, anchor_rule(label_run))
    rollouts = RolloutConfig(config.num_rollouts, 1.0, max_tokens=max_tokens, seed=config.seed)
    wanted = [(item.prefix, range(config.num_rollouts)) for item in prefixes]
    identity = {
        "policy": policy.name,
        "prefixes": content_key([item.prefix.key for item in prefixes]),
        **asdict(config),
    }
    with Run.open(out, "true values", identity) as run:
        store = RolloutStore(run)
        store.fetch(run, executor, policy, wanted, rollouts)
        run.finish({"num_prefixes": len(prefixes)})
    truths = [fmean(store.outcomes(item.prefix)) for item in prefixes]
    quality: dict[str, LabelQuality] = {
        weighting: label_quality([item.labels[weighting] for item in prefixes], truths)
        for weighting in WEIGHTINGS
    }
    return LabelTruth(quality, config.num_rollouts, store.cost)
