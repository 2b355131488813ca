"""Trees as the report draws them: `trees.json` beside `results.json`.

Invariant: all content is in the journal or derived from it; each part of a step is listed once, on the branch
that owns its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from forkpoint.evaluation.metrics import Attempts
from forkpoint.labels.leaves import Leaves
from forkpoint.labels.values import mean
from forkpoint.prms.layout import PRMFormat
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.trees.grow import TreeConfig


def tree_views(
    outcomes: Sequence[TreeOutcome],
    attempts: Sequence[Attempts],
    config: TreeConfig,
    prm_format: PRMFormat,
    num_trees: int = 6,
) -> list[dict[str, Any]]:
    """The first trees with right and wrong leaves, as JSON objects; `attempts` holds their step scores."""
    pairs = [
        (outcome, item)
        for outcome, item in zip(outcomes, attempts, strict=True)
        if 0 < sum(end.is_correct for end in outcome.ends) < len(outcome.ends)
    ]
    return [tree_view(outcome, item, config, prm_format) for outcome, item in pairs[:num_trees]]


def tree_view(
    outcome: TreeOutcome, attempts: Attempts, config: TreeConfig, prm_format: PRMFormat
) -> dict[str, Any]:
    """One tree: branches token by token, and the labelled and scored parts of steps on them."""
    token_names = {
        token_id: text
        for branch, texts in zip(outcome.tree.branches, outcome.branch_texts, strict=True)
        for token_id, text in zip(branch.completion.token_ids, texts, strict=True)
    }
    branches = []
    for branch_idx, branch in enumerate(outcome.tree.branches):
        own, path = branch.completion, outcome.path(branch_idx)
        anchors = set(config.rule.anchors(path.completion.entropies, config.rule.can_fork(path.token_texts)))
        branches.append(
            {
                "parent_idx": branch.parent_idx,
                "fork": branch.fork,
                "tokens": list(outcome.branch_texts[branch_idx]),
                "entropies": list(own.entropies),
                "logprobs": list(own.logprobs),
                "runner_ups": [
                    token_names.get(token_id, f"token {token_id}") for token_id in own.runner_up_ids
                ],
                "is_anchor": [branch.fork + offset in anchors for offset in range(len(own))],
                "answer": outcome.ends[branch_idx].answer,
                "is_correct": outcome.ends[branch_idx].is_correct,
                "finish": own.finish,
            }
        )
    return {
        "problem_id": outcome.problem.id,
        "question": outcome.problem.question,
        "reference": outcome.problem.answer,
        "tau": config.tau,
        "prompt_text": outcome.problem.question,
        "branches": branches,
        "fragments": _fragments(outcome, attempts, prm_format),
    }


def _fragments(outcome: TreeOutcome, attempts: Attempts, prm_format: PRMFormat) -> list[dict[str, Any]]:
    leaves = Leaves(outcome.tree, [end.is_correct for end in outcome.ends])
    fragments = []
    for branch_idx, branch in enumerate(outcome.tree.branches):
        _, ends = outcome.path(branch_idx).steps(prm_format.segmentation, prm_format.rule)
        scores = attempts.step_scores[branch_idx] if attempts.step_scores else [None] * len(ends)
        for start, end, score in zip((0, *ends), ends, scores, strict=False):
            if end > branch.fork:
                label = asdict(leaves.label(branch_idx, end, mean))
                fragments.append(
                    {"branch_idx": branch_idx, "start": start, "end": end, "label": label, "score": score}
                )
    return fragments
