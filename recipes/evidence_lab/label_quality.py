"""Compare labels with the true values of the same prefixes, per token spent.

The true value of a prefix is the share of right answers among many completions; the judged labels use other
completions. Prefixes are step ends of labelled trees, at most one per tree. Invariant: every estimator is
judged on the same prefixes, except bisection, which chooses its own prefixes and is judged on some of those.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from forkpoint.estimates import bootstrap
from forkpoint.evaluation.label_truth import LabelledPrefix, PrefixConfig, draw_prefixes
from forkpoint.evaluation.metrics import spearman
from forkpoint.labels.leaf_plan import anchor_rule, tree_outcomes
from forkpoint.labels.leaves import tally_label
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.values import mean
from forkpoint.runs import LocalExecutor, Run
from forkpoint.solutions.sample import RolloutConfig

from .lab import Lab, fields
from .settings import MAX_TOKENS
from .stock import patiently

NUM_ESTIMATES = 32
"""Number of first completions used for rollout labels; the others give the true value."""
STOPPING = RolloutPlan(stop_early=True)
"""The rollout plan whose rounds and width early stopping uses."""


def label_quality(lab: Lab) -> dict[str, Any]:
    """Return error, bias, correlation and tokens of every kind of label."""
    with Run.read(lab.stock.labels("edu")) as run:
        config = PrefixConfig(num_prefixes=lab.scale.num_truths, num_rollouts=lab.scale.num_truth_rollouts)
        drawn = draw_prefixes(list(tree_outcomes(run)), config, anchor_rule(run))
    outcomes, tokens = _rolled_out(lab, "truths", [item.prefix for item in drawn])
    num_estimates = min(NUM_ESTIMATES, lab.scale.num_truth_rollouts // 2)
    truths = [float(np.mean(prefix_outcomes[num_estimates:])) for prefix_outcomes in outcomes]
    per_rollout = tokens / lab.scale.num_truth_rollouts
    edu = lab.stock.label_cost("edu")
    per_edu_label = edu.solutions / _labels_per_tree(lab)
    rows = [
        _row("leaves, uniform", [item.labels["uniform"] for item in drawn], truths, per_edu_label),
        _row("leaves, policy-weighted", [item.labels["policy"] for item in drawn], truths, per_edu_label),
    ]
    for k in (k for k in (1, 2, 4, 8, 16, 32) if k <= num_estimates):
        rows.append(
            _row(
                f"rollouts, k = {k}",
                [float(np.mean(prefix_outcomes[:k])) for prefix_outcomes in outcomes],
                truths,
                k * per_rollout,
            )
        )
    rows.append(_stopped(outcomes, truths, per_rollout, num_estimates))
    rows.append(_blend(drawn, outcomes, truths, per_edu_label, per_rollout))
    rows.append(_bisected(lab))
    return {"labels": rows, "num_truth_rollouts": lab.scale.num_truth_rollouts - num_estimates}


def _rolled_out(lab: Lab, name: str, prefixes: Sequence[Prefix]) -> tuple[list[tuple[bool, ...]], int]:
    """Return the outcomes of many completions of each prefix, and their mean total of tokens."""
    num = lab.scale.num_truth_rollouts
    policy = lab.stock.policy
    config = RolloutConfig(num, 1.0, max_tokens=MAX_TOKENS, seed=1)

    def work() -> tuple[list[tuple[bool, ...]], int]:
        with Run.open(
            lab.stock.directory / name,
            "true values",
            {"policy": policy.name, "num": num, "prefixes": len(prefixes)},
        ) as run:
            store = RolloutStore(run)
            store.fetch(
                run,
                LocalExecutor(chunk_size=4),
                policy,
                [(prefix, range(num)) for prefix in prefixes],
                config,
            )
            run.finish({})
            return [store.outcomes(prefix) for prefix in prefixes], store.cost.sampled_tokens // len(prefixes)

    return patiently(work)


def _labels_per_tree(lab: Lab) -> float:
    """Return distinct prefixes that end with a step and are not a whole solution."""
    with Run.read(lab.stock.labels("edu")) as run:
        rule, counts = anchor_rule(run), []
        for outcome in tree_outcomes(run):
            paths = [outcome.path(idx) for idx in range(len(outcome.ends))]
            counts.append(
                len(
                    {
                        path.completion.token_ids[:end]
                        for path in paths
                        for end in path.steps("newline", rule)[1][:-1]
                    }
                )
            )
    return float(np.mean(counts))


def _row(name: str, labels: Sequence[float], truths: Sequence[float], tokens: float) -> dict[str, Any]:
    errors = np.subtract(labels, truths)
    return {
        "label": name,
        "tokens_per_label": tokens,
        "error": fields(bootstrap(np.abs(errors))),
        "squared_error": fields(bootstrap(errors**2)),
        "bias": fields(bootstrap(errors)),
        "correlation": spearman(np.asarray(labels), np.asarray(truths)),
        "num_prefixes": len(labels),
    }


def _narrow(outcomes: Sequence[bool]) -> bool:
    label = tally_label(sum(outcomes), len(outcomes), mean)
    return label.high - label.low <= STOPPING.max_width


def _stopped(
    outcomes: Sequence[tuple[bool, ...]], truths: Sequence[float], per_rollout: float, most: int
) -> dict[str, Any]:
    """Draw as `RolloutPlan(stop_early=True)` does: rounds of four until the interval is narrow."""
    labels, drawn = [], []
    for prefix_outcomes in outcomes:
        num = next(
            (
                num
                for num in range(STOPPING.round_size, most + 1, STOPPING.round_size)
                if _narrow(prefix_outcomes[:num])
            ),
            most,
        )
        labels.append(float(np.mean(prefix_outcomes[:num])))
        drawn.append(num)
    return _row("rollouts, stopped early", labels, truths, float(np.mean(drawn)) * per_rollout)


def _blend(
    drawn: Sequence[LabelledPrefix], outcomes: Sequence[tuple[bool, ...]], truths: Sequence[float],
    per_edu_label: float, per_rollout: float
) -> dict[str, Any]:  # fmt: skip
    """Average the weighted leaves with four rollouts if they disagree among themselves.

    Else use them alone.
    """
    labels, num_rolled = [], 0
    for item, prefix_outcomes in zip(drawn, outcomes, strict=True):
        leaves = item.labels["policy"]
        if 0 < leaves < 1:
            num_rolled += 1
            labels.append((leaves + float(np.mean(prefix_outcomes[: STOPPING.round_size]))) / 2)
        else:
            labels.append(leaves)
    tokens = per_edu_label + STOPPING.round_size * per_rollout * num_rolled / len(drawn)
    return _row("policy-weighted leaves, 4 rollouts where unsure", labels, truths, tokens)


def _bisected(lab: Lab) -> dict[str, Any]:
    """Compare some of the prefixes that bisection evaluated with their own true values."""
    labels: dict[tuple[str, tuple[int, ...]], tuple[Prefix, float]] = {}
    with Run.read(lab.stock.labels("omega")) as run:
        encode = lab.stock.policy.encode_question
        problems = {problem.id: problem for problem in lab.stock.train_problems("omega")}
        num_labels = 0
        for row in run.rows():
            if row["kind"] != "search":
                continue
            problem, seen = problems[row["problem"]["id"]], set()
            for path in row["paths"]:
                text = ""
                for step, prefix_outcomes in zip(path["steps"][:-1], path["outcomes"][:-1], strict=True):
                    text += step
                    if prefix_outcomes is None or text in seen:
                        continue
                    seen.add(text)
                    num_labels += 1
                    ids = encode(
                        problem.question + "\n" + text.removesuffix("\n")
                    )  # the template ends with a line break
                    prompt = encode(problem.question)
                    prefix = Prefix(problem, tuple(ids[len(prompt) :]), text)
                    labels[problem.id, prefix.token_ids] = prefix, float(np.mean(prefix_outcomes))
    chosen = random.Random(0).sample(sorted(labels), min(lab.scale.num_truths // 2, len(labels)))
    outcomes, _ = _rolled_out(lab, "truths-omega", [labels[key][0] for key in chosen])
    cost = lab.stock.label_cost("omega")
    tokens = cost.rollouts * len(problems) / max(1, num_labels)
    return _row(
        "bisection, k = 8",
        [labels[key][1] for key in chosen],
        [float(np.mean(prefix_outcomes)) for prefix_outcomes in outcomes],
        tokens,
    )
