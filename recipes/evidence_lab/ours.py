"""Leaves weighted by the policy, and picks from trees and samples together; neither paper does this.

A pool consists of the leaves of a problem's EDU tree (up to 16) and its first samples (T = 0.7). A growing
pool takes samples until the vote is clear. Invariant: the PRMs are those of the other arms, and no solution
is sampled for this arm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from forkpoint.estimates import bootstrap_seeds
from forkpoint.select import SHARPNESS, best, sharpened, vote_share, weighted_vote

from .lab import Lab, Pick, fields
from .lab import best as best_of
from .lab import weighted as vote_of
from .settings import DENSE, HT, OTHER_HT, TREE
from .units import Floats

GROWTH = 2
"""Number of samples that a growing pool takes at a time."""
SHARES = (0.3, 0.5, 0.7, 0.9)
"""Shares of the vote at which a pool stops growing.

On valid problems (one seed) 0.5 had the accuracy of all 16 samples for half of their tokens.
"""
SLACK = 1.02
"""A pick that costs at most this factor more than another counts as costing no more."""


@dataclass(frozen=True)
class Way:
    """How one answer is selected from a tree and samples."""

    num_samples: int
    """Largest number of samples."""
    enough: float | None = None
    """The winner's share of the vote at which the pool stops growing; None to take all samples at once."""
    select: str = "weighted"
    prm: str = "edu"
    num_prms: int = 1
    """Number of PRMs whose scores are averaged."""
    tree: str = TREE
    num_leaves: int | None = None
    """Largest number of leaves, weighted by the policy, with sharpened scores.

    None for all leaves that every PRM scores, each counted once.
    """

    @property
    def name(self) -> str:
        how = {"best": "best", "weighted": "vote"}[self.select]
        tree = "tree"
        if self.num_leaves is not None:
            how, tree = "policy-weighted vote", f"tree of {self.num_leaves}, tau = {_number(self.tree)}"
        if self.enough is not None:
            source = f"{tree}, then samples until {self.enough:g} of the vote"
        else:
            source = f"{tree} and {self.num_samples} samples" if self.num_samples else tree
        return f"{how} of {source}; {self.prm}" + (f", {self.num_prms} PRMs" if self.num_prms > 1 else "")


@dataclass(frozen=True)
class Candidate:
    """A leaf or a sample."""

    answer: str | None
    is_correct: bool
    num_tokens: int
    scores: tuple[float, ...]
    """The minimum of its step scores, for every PRM."""
    weight: float = 1.0
    """The weight of its vote before its score; 1 on average over the leaves of a tree."""


Pool = tuple[list[Candidate], list[Candidate]]


def ways(most: int, prms: Sequence[str]) -> list[Way]:
    """Return all ways that are tried with the first PRM, and some with the others."""
    sizes = [n for n in (0, 4, 8, 16) if n <= most]
    plain = [Way(n) for n in sizes]
    growing = [Way(most, enough) for enough in SHARES]
    others = [
        way for prm in prms[1:] for way in (Way(0, prm=prm), Way(most, 0.5, prm=prm), Way(most, prm=prm))
    ]
    paired = [*(Way(n, num_prms=2) for n in sizes), Way(most, 0.5, num_prms=2)]
    return [*plain, *growing, *others, *paired, *(Way(n, select="best") for n in sizes), *policy_ways(most)]


def policy_ways(most: int) -> list[Way]:
    """Return the ways with leaves weighted by the policy, with the PRMs of both papers."""
    found = []
    for prm in ("edu", "er-2"):
        for num_leaves in (n for n in (4, 8, 16) if n <= most):
            of_tree = Way(0, prm=prm, num_leaves=num_leaves)
            found += [of_tree, replace(of_tree, tree=DENSE), replace(of_tree, num_samples=most, enough=0.5)]
    return found


def ours(lab: Lab) -> dict[str, Any]:
    """Return accuracy and tokens of every way, with differences.

    The differences are from the best way of each paper, or with samples alone, for no more tokens; they also
    show what each part of a way adds.
    """
    most = lab.scale.num_other_samples
    prms = ("edu", "soft", "edu-own") if lab.setting.is_first else ("edu", "soft")
    pools = cache(lambda prm, tree: [_pools(lab, prm, tree, seed) for seed in lab.seeds])
    papers = paper_picks(lab)
    rows, differences = [], []
    measured: dict[Way, tuple[Floats, float]] = {}
    for way in ways(most, prms):
        seed_pools = pools(way.prm, way.tree)
        if way.num_leaves is not None:
            shares = lab.stock.leaf_shares(way.tree, way.num_leaves)
            seed_pools = [_weighted(of_seed, shares) for of_seed in seed_pools]
        groups = [
            seed_pools[idx : idx + way.num_prms]
            for idx in range(0, len(seed_pools) - way.num_prms + 1, way.num_prms)
        ]
        if not groups:
            continue
        found = np.array(
            [[_outcome(_joined(parts), way, most) for parts in zip(*group, strict=True)] for group in groups]
        )
        values, tokens = found[:, :, 0], float(found[:, :, 1].mean())
        rows.append(
            {"name": way.name, "tokens": tokens, "num_seeds": len(groups), **fields(bootstrap_seeds(values))}
        )
        if len(groups) != len(lab.seeds):
            continue
        measured[way] = values, tokens
        for paper, picks in papers.items():
            pick = _best_within(lab, picks, SLACK * tokens)
            if pick is not None:
                difference = fields(bootstrap_seeds(values - lab.accuracy(pick)))
                ratio = tokens / lab.tokens(pick)
                differences.append(
                    {
                        "left": way.name,
                        "paper": paper,
                        "right": row_name(pick),
                        **difference,
                        "token_ratio": ratio,
                    }
                )
    picks = [
        *(pick for best_picks in papers.values() for pick in best_picks),
        *(Pick(HT, n, "majority") for n in lab.sizes(HT)),
    ]
    rows += [
        {"name": row_name(pick), "tokens": lab.tokens(pick), **fields(bootstrap_seeds(lab.accuracy(pick)))}
        for pick in picks
    ]
    return {"ways": rows, "differences": differences, "parts": _parts(lab, measured)}


def _parts(lab: Lab, measured: dict[Way, tuple[Floats, float]]) -> list[dict[str, Any]]:
    """Compare every way with policy-weighted leaves with the same way without or with another part.

    The parts are other picks from the same tree, no samples after it, and the EDU-PRM.
    """
    found = []
    for way, (values, tokens) in measured.items():
        if way.num_leaves is None:
            continue
        others: list[tuple[str, Floats, float]] = []
        if way.enough is None:
            picks = [make(way.prm, way.tree, way.num_leaves) for make in (best_of, vote_of)]
            others += [(row_name(pick), lab.accuracy(pick), lab.tokens(pick)) for pick in picks]
        else:
            without = replace(way, num_samples=0, enough=None)
            others.append((without.name, *measured[without]))
        if way.prm != "edu":
            with_edu = replace(way, prm="edu")
            others.append((with_edu.name, *measured[with_edu]))
        for name, other_values, other_tokens in others:
            difference = fields(bootstrap_seeds(values - other_values))
            found.append(
                {"left": way.name, "right": name, **difference, "token_ratio": tokens / other_tokens}
            )
    return found


def paper_picks(lab: Lab) -> dict[str, list[Pick]]:
    """Return the ways to compare with: the best of each paper, a vote by the same scores, samples.

    The vote with the same scores is in neither paper. Trees at tau = 1.0 and samples selected by an EDU-PRM
    go as far as every PRM scores. Samples at other temperatures exist only in the first setting.
    """
    common = lab.scale.num_other_samples

    def both(variant: str, solutions: str, most: int | None = None) -> list[Pick]:
        sizes = [n for n in lab.sizes(solutions) if most is None or n <= most]
        return [make(variant, solutions, n) for n in sizes for make in (best_of, vote_of)]

    samples = [
        pick for ht in (HT, *(OTHER_HT if lab.setting.is_first else ())) for pick in both("edu", ht, common)
    ]
    return {
        "EDU-PRM": [*both("edu", TREE, common), *both("edu", DENSE)],
        "ER-PRM": both("er-2", HT),
        "samples": samples,
    }


def _best_within(lab: Lab, picks: Sequence[Pick], tokens: float) -> Pick | None:
    """Return the one with the highest accuracy on the test problems, which favours the papers."""
    fitting = [pick for pick in picks if lab.tokens(pick) <= tokens]
    return max(fitting, key=lambda pick: float(lab.accuracy(pick).mean()), default=None)


def row_name(pick: Pick) -> str:
    """Describe a way in words."""
    number = _number(pick.solutions)
    source = (
        f"tree of {pick.n}, tau = {number}"
        if pick.solutions in (TREE, DENSE)
        else f"{pick.n} samples, T = {number}"
    )
    how = {"best": "best", "weighted": "vote"}.get(pick.select, pick.select)
    return f"{how} of {source}" + (f"; {pick.variant}" if pick.variant else "")


def _number(solutions: str) -> float:
    """Their tau or temperature."""
    return float(solutions.split("-")[-1])


def _pools(lab: Lab, prm: str, tree: str, seed: int) -> list[Pool]:
    """Return the scored leaves of the tree and samples for each problem."""
    sides = []
    for solutions in (tree, HT):
        lab.judge(prm, solutions)
        scored = lab.judged(prm, seed, solutions).step_scores()
        sides.append(
            [
                [
                    Candidate(attempt.answer, attempt.is_correct, attempt.num_tokens, (float(steps.min()),))
                    for attempt, steps in zip(item.attempts, scores, strict=True)
                ]
                for item, scores in scored
            ]
        )
    return list(zip(*sides, strict=True))


def _weighted(pools: Sequence[Pool], shares: Sequence[Sequence[float]]) -> list[Pool]:
    """Return the same candidates with the leaves that have a share, and their weights."""
    found = []
    for (leaves, samples), leaf_shares in zip(pools, shares, strict=True):
        kept = zip(leaves[: len(leaf_shares)], leaf_shares, strict=True)
        found.append(([replace(leaf, weight=share * len(leaf_shares)) for leaf, share in kept], samples))
    return found


def _joined(pools: Sequence[Pool]) -> Pool:
    """Return the same candidates with the scores of all PRMs."""
    if len(pools) == 1:
        return pools[0]
    sides = zip(*pools, strict=True)
    leaves, samples = (
        [
            replace(copies[0], scores=tuple(one.scores[0] for one in copies))
            for copies in zip(*side, strict=True)
        ]
        for side in sides
    )
    return leaves, samples


def _outcome(pool: Pool, way: Way, most: int) -> tuple[float, float]:
    """Return whether the answer is right, and the tokens it took."""
    leaves, samples = pool
    num = way.num_samples if way.enough is None else 0
    candidates = [*leaves, *samples[:num]]
    if way.enough is not None:
        while num < most and vote_share(*_ballot(candidates, way)) < way.enough:
            candidates += samples[num : num + GROWTH]
            num += GROWTH
    answers, scores = _ballot(candidates, way)
    chosen = best(scores) if way.select == "best" else weighted_vote(answers, scores)
    return float(candidates[chosen].is_correct), float(sum(item.num_tokens for item in candidates))


def _ballot(candidates: Sequence[Candidate], way: Way) -> tuple[list[str | None], list[float]]:
    scores = [sum(item.scores) / len(item.scores) for item in candidates]
    votes = sharpened(
        scores, [item.weight for item in candidates], 1 if way.num_leaves is None else SHARPNESS
    )
    return [item.answer for item in candidates], votes
