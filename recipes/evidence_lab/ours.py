"""What neither paper does: trees and samples of a problem picked from together, by one PRM or by several.

A mix takes all leaves of a problem's EDU tree (tau = 1.0, up to 16) and its first samples (T = 0.7). Invariant: the PRMs are those
of the other arms and saw labels of trees only; nothing here is trained, and no solution is sampled for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from forkpoint.evaluate import bootstrap_seeds
from forkpoint.select import best, weighted_vote

from .lab import Lab, Pick, fields
from .lab import best as best_of
from .lab import weighted as vote_of
from .settings import HT, TREE
from .stock import Attempt
from .units import Floats


@dataclass(frozen=True)
class Mix:
    """How many samples beside the tree, and how many PRMs whose scores are averaged."""

    num_samples: int
    select: str
    num_prms: int = 1

    @property
    def name(self) -> str:
        what = {"best": "best", "weighted": "weighted vote"}[self.select]
        source = f"EDU tree and {self.num_samples} samples" if self.num_samples else "EDU tree"
        return f"{what} of {source}" + (f", {self.num_prms} EDU-PRMs" if self.num_prms > 1 else "")


def ours(lab: Lab) -> dict[str, Any]:
    """Accuracy and tokens of mixes, and their differences from both papers' ways to pick."""
    common = lab.scale.num_other_samples
    for solutions in (HT, TREE):
        lab.judge("edu", solutions)
    lab.judge("er-2", HT)
    scored = [_minima(lab, seed) for seed in lab.seeds]
    solved = list(zip(lab.stock.solutions(TREE), lab.stock.solutions(HT), strict=True))
    tree_tokens = lab.plain(TREE)[f"tokens|{common}"].mean()
    sizes = [n for n in (0, 4, 8, 16) if n <= common]
    mixes = [Mix(n, select, num_prms) for num_prms in (1, 2) for select in ("weighted", "best") for n in sizes]
    found: dict[str, tuple[Floats, float]] = {}
    for mix in mixes:
        groups = [scored[idx : idx + mix.num_prms] for idx in range(0, len(scored) - mix.num_prms + 1, mix.num_prms)]
        if not groups:
            continue
        values = np.stack([_accuracy(solved, group, mix, common) for group in groups])
        tokens = tree_tokens + (lab.plain(HT)[f"tokens|{mix.num_samples}"].mean() if mix.num_samples else 0.0)
        found[mix.name] = values, float(tokens)
    papers = [best_of("edu", TREE, common), *(make("er-2", HT, n) for n in sizes[1:] for make in (best_of, vote_of))]
    papers += [Pick(HT, n, "majority") for n in sizes[1:]]
    rows = [{"name": name, "tokens": tokens, **fields(bootstrap_seeds(values))} for name, (values, tokens) in found.items()]
    rows += [{"name": row_name(pick), "tokens": lab.tokens(pick), **fields(bootstrap_seeds(lab.accuracy(pick)))} for pick in papers]
    differences = []
    for name, (values, tokens) in found.items():
        if len(values) != len(lab.seeds):
            continue
        for pick in papers:
            difference = fields(bootstrap_seeds(values - lab.accuracy(pick)))
            differences.append({"left": name, "right": row_name(pick), **difference, "token_ratio": tokens / lab.tokens(pick)})
    return {"mixes": rows, "differences": differences}


def row_name(pick: Pick) -> str:
    """In words."""
    source = "EDU tree" if pick.solutions == TREE else f"{pick.n} samples"
    how = {"best": "best", "weighted": "weighted vote"}.get(pick.select, pick.select)
    return f"{how} of {source}" + (f", {pick.variant}" if pick.variant else "")


def _minima(lab: Lab, seed: int) -> list[tuple[list[float], list[float]]]:
    """Per problem, the least step score of every leaf and of every sample."""
    sides = []
    for solutions in (TREE, HT):
        sides.append([[float(steps.min()) for steps in scores] for _, scores in lab.judged("edu", seed, solutions).step_scores()])
    return list(zip(*sides, strict=True))


def _accuracy(solved: Sequence[Any], group: Sequence[list[tuple[list[float], list[float]]]], mix: Mix, num_leaves: int) -> Floats:
    right = []
    for problem_idx, (tree, samples) in enumerate(solved):
        attempts: list[Attempt] = [*tree.attempts[:num_leaves], *samples.attempts[: mix.num_samples]]
        scores = np.mean([[*its[problem_idx][0], *its[problem_idx][1][: mix.num_samples]] for its in group], axis=0)
        answers = [attempt.answer for attempt in attempts]
        chosen = best(scores.tolist()) if mix.select == "best" else weighted_vote(answers, scores.tolist())
        right.append(float(attempts[chosen].is_correct))
    return np.array(right)
