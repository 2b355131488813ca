"""Compare trees steered by a PRM (P-EDU, MCTS-EDU) with plain ones: accuracy, and tokens of policy and PRM.

The PRM of every seed steers trees of its own block of test problems, so the blocks of all seeds cover the
test problems.
Invariant: the plain, the pruned and the searched tree of a problem may have the same number of leaves and are
judged by the same PRM.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from forkpoint.estimates import bootstrap
from forkpoint.evaluation.metrics import Attempts, curve
from forkpoint.prms import load_prm
from forkpoint.problems import load_problems
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor, Run, complete
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.solutions.work import TreeWork
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import Steering, SteeringConfig

from .lab import Lab, fields
from .settings import MAX_TOKENS
from .units import Floats

TAU, NUM_LEAVES = 0.5, 16
PICKS = ("best", "weighted", "policy-weighted", "oracle")
MODES = {
    "plain": SteeringConfig(),
    "P-EDU, below 0.2": SteeringConfig(prune_below=0.2),
    "P-EDU, below 0.05": SteeringConfig(prune_below=0.05),
    "MCTS-EDU": SteeringConfig(expand="mcts"),
}


def steering(lab: Lab) -> dict[str, Any]:
    """Return best-of-N of every mode, both kinds of tokens, and paired differences from the plain tree."""
    found = lab.by_seed("steering", MODES, partial(_grown, lab))
    ids = [problem.id for seed in lab.seeds for problem in block(lab, seed)]
    joined = {
        mode: {name: _per_problem(ids, np.concatenate(blocks)) for name, blocks in values.items()}
        for mode, values in found.items()
    }
    rows, contrasts = [], []
    for mode, quantities in joined.items():
        row: dict[str, Any] = {
            "mode": mode,
            "policy_tokens": quantities["policy_tokens"].mean(),
            "prm_tokens": quantities["prm_tokens"].mean(),
        }
        rows.append({**row, **{name: fields(bootstrap(quantities[name])) for name in PICKS}})
        if mode != "plain":
            for name in PICKS:
                difference = fields(bootstrap(quantities[name] - joined["plain"][name]))
                contrasts.append({"left": mode, "right": "plain", "select": name, **difference})
    return {"modes": rows, "differences": contrasts, "num_leaves": NUM_LEAVES, "tau": TAU}


def block(lab: Lab, seed: int) -> Sequence[Problem]:
    """Return the test problems of a seed."""
    problems = load_problems(lab.setting.problems("test", lab.scale.num_test))
    start = seed * lab.scale.num_search_problems
    return [problems[(start + idx) % len(problems)] for idx in range(lab.scale.num_search_problems)]


def _per_problem(ids: Sequence[str], values: Floats) -> Floats:
    """Return one value for every problem: the mean over the seeds that had it."""
    by_problem: dict[str, list[float]] = {}
    for problem_id, value in zip(ids, values, strict=True):
        by_problem.setdefault(problem_id, []).append(float(value))
    return np.array([np.mean(seed_values) for seed_values in by_problem.values()])


def _grown(lab: Lab, seed: int, mode: str) -> dict[str, Floats]:
    problems, policy = block(lab, seed), lab.stock.policy
    prm = load_prm(lab.unit("edu", seed).prm)
    steered = Steering(MODES[mode], prm, prm.format) if mode != "plain" else None
    work = TreeWork(
        policy, problems, TreeConfig(num_leaves=NUM_LEAVES, tau=TAU, max_tokens=MAX_TOKENS), steered
    )
    directory = lab.directory / "steering" / f"{'-'.join(mode.replace(',', '').split())}-seed{seed}"
    with Run.open(
        directory, "steering", {"mode": mode, "seed": seed, "policy": policy.name, "problems": len(problems)}
    ) as run:
        complete(run, LocalExecutor(chunk_size=32), work)
        outcomes = [TreeOutcome.from_row(row) for row in run.rows(work.keys)]
        run.finish({})
    attempts = []
    for outcome in outcomes:
        steps = [outcome.path(idx).steps("newline", prm.format.rule)[0] for idx in range(len(outcome.ends))]
        scores = prm.score([outcome.problem.question] * len(steps), steps)
        attempts.append(
            Attempts(
                outcome.problem.id,
                outcome.solutions(),
                tuple(tuple(step_scores) for step_scores in scores),
                outcome.tree,
            )
        )
    points = {
        (point.select, point.aggregate): point.accuracy_P
        for point in curve(attempts, [NUM_LEAVES], is_exchangeable=False)
    }
    return {
        **{select: points[select, "min"] for select in ("best", "weighted", "policy-weighted")},
        "oracle": points["oracle", None],
        "policy_tokens": np.array([float(outcome.cost.sampled_tokens) for outcome in outcomes]),
        "prm_tokens": np.array(
            [float(outcome.scoring.tokens) if outcome.scoring else 0.0 for outcome in outcomes]
        ),
    }
