"""How far labels are from the truth: the true value of a prefix, estimated once with many rollouts.

The true value is the probability that the policy, sampling at temperature 1, reaches the right answer from the prefix.
Invariant: prefixes are drawn by a seed from the journal of a label run, each at most once, and their rollouts are
journaled, so an estimate is made once whatever labels are compared with it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from forkpoint.evaluate import LabelQuality, label_quality
from forkpoint.label_run import anchor_rule, tree_outcomes
from forkpoint.labels import WEIGHTINGS, Leaves, mean
from forkpoint.outcomes import TreeOutcome, graded, paths_of
from forkpoint.records import Cost, Executor, Policy, Problem
from forkpoint.rollouts import RolloutConfig, sample
from forkpoint.runs import Run, content_key
from forkpoint.segment import AnchorRule, Segmentation


@dataclass(frozen=True)
class PrefixConfig:
    """Which prefixes are looked at, and how closely."""

    num_prefixes: int = 100
    num_rollouts: int = 64
    """Rollouts per prefix: the standard error of a true value of .5 is .5 / sqrt(num_rollouts)."""
    segmentation: Segmentation = "newline"
    """Prefixes end where steps end."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first tokens of a leaf's path, up to a step's end, and the labels that the tree gives it."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    path_ids: tuple[int, ...]
    text: str
    labels: dict[str, float]
    """By weighting, the mean of the leaves below."""


def draw_prefixes(outcomes: Sequence[TreeOutcome], config: PrefixConfig, rule: AnchorRule) -> list[Prefix]:
    """Distinct prefixes that are no whole solution, at most one per tree until every tree has given one."""
    rng = random.Random(config.seed)
    piles = [_prefixes(outcome, config, rule) for outcome in outcomes]
    for pile in piles:
        rng.shuffle(pile)
    rng.shuffle(piles)
    drawn: list[Prefix] = []
    while len(drawn) < config.num_prefixes and any(piles):
        drawn += [pile.pop() for pile in piles if pile]
    return drawn[: config.num_prefixes]


def _prefixes(outcome: TreeOutcome, config: PrefixConfig, rule: AnchorRule) -> list[Prefix]:
    right = [end.is_correct for end in outcome.ends]
    plans = {weighting: Leaves(outcome.tree, right, weighting) for weighting in WEIGHTINGS}
    found: dict[tuple[int, ...], Prefix] = {}
    for leaf_idx in range(len(outcome.ends)):
        path = outcome.path(leaf_idx)
        for num_tokens in path.steps(config.segmentation, rule)[1][:-1]:
            ids = path.completion.token_ids[:num_tokens]
            labels: dict[str, float] = {weighting: plan.label(leaf_idx, num_tokens, mean).value for weighting, plan in plans.items()}
            text = "".join(path.token_texts[:num_tokens])
            found.setdefault(ids, Prefix(outcome.problem, outcome.tree.prompt_ids, ids, text, labels))
    return list(found.values())


class RolloutWork:
    """The rollouts of every prefix, counted."""

    def __init__(self, policy: Policy, prefixes: Sequence[Prefix], config: RolloutConfig) -> None:
        self._policy, self._prefixes, self._config = policy, prefixes, config
        self.keys = [
            content_key({"rollouts": asdict(config), "policy": policy.name, "prefix": [*item.prompt_ids, -1, *item.path_ids]})
            for item in prefixes
        ]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        self._policy.reset_cache()
        prefixes = [self._prefixes[idx] for idx in idxs]
        limits = [max(1, self._config.max_tokens - len(item.path_ids)) for item in prefixes]
        sampled = sample(self._policy, [item.prompt_ids + item.path_ids for item in prefixes], self._config, limits)
        texts = [
            [item.text + path.text for path in paths_of(self._policy, completions)]
            for item, (completions, _) in zip(prefixes, sampled, strict=True)
        ]
        ends = graded([item.problem for item in prefixes], texts)
        return [
            {"kind": "rollouts", "num_correct": sum(end.is_correct for end in its_ends), "num_total": len(its_ends), "cost": asdict(cost)}
            for its_ends, (_, cost) in zip(ends, sampled, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class LabelTruth:
    """Labels of both weightings against the same true values."""

    quality: dict[str, LabelQuality]
    """By weighting."""
    num_rollouts: int
    cost: Cost


def measure_labels(labels: Path, policy: Policy, out: Path, config: PrefixConfig, executor: Executor, max_tokens: int) -> LabelTruth:
    """Compare the labels of a label run with true values, which are journaled at `out`; run again to continue."""
    with Run.read(labels) as label_run:
        prefixes = draw_prefixes(list(tree_outcomes(label_run)), config, anchor_rule(label_run))
    work = RolloutWork(policy, prefixes, RolloutConfig(config.num_rollouts, 1.0, max_tokens=max_tokens, seed=config.seed))
    with Run.open(out, "true values", {"policy": policy.name, "prefixes": content_key(work.keys), **asdict(config)}) as run:
        if executor.execute(run, work).rows_failed:
            raise RuntimeError(f"some prefixes failed, see {out / 'failures.jsonl'}; run the same command to try again")
        rows = list(run.rows(work.keys))
        run.finish({"num_prefixes": len(rows)})
    truths = [row["num_correct"] / row["num_total"] for row in rows]
    quality: dict[str, LabelQuality] = {
        weighting: label_quality([item.labels[weighting] for item in prefixes], truths) for weighting in WEIGHTINGS
    }
    return LabelTruth(quality, config.num_rollouts, sum((Cost(**row["cost"]) for row in rows), Cost()))
