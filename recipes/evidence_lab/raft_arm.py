"""One iteration of RAFT with every kind of PRM and by outcome: what the fine-tuned policy solves.

Invariant: all runs of a seed learn from samples of the same prompts and differ only in the sample that is
kept. The base is measured once.
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

import numpy as np

from forkpoint.estimates import bootstrap_seeds
from forkpoint.experiments.raft import raft
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.experiments.raft_inputs import RaftInputs
from forkpoint.prms import load_prm
from forkpoint.prms.layout import PRMFormat
from forkpoint.problems import load_problems
from forkpoint.runs import LocalExecutor, Run
from forkpoint.training.config import SFTConfig

from .lab import Lab, fields
from .settings import MAX_TOKENS
from .units import Floats

KEPT_BY = ("outcome", "soft", "hard", "er-2", "orm", "edu")
SFT = SFTConfig(learning_rate=2e-4, batch_size=16, micro_batch_size=16)


def raft_arm(lab: Lab) -> dict[str, Any]:
    """Return greedy and one-sample accuracies after one iteration, with gains and differences from soft."""
    found = lab.by_seed("raft", KEPT_BY, partial(_tuned, lab))
    stacked = {
        kept_by: {name: np.stack(values) for name, values in quantities.items()}
        for kept_by, quantities in found.items()
    }
    rows, contrasts = [], []
    for kept_by, quantities in stacked.items():
        row = {name: fields(bootstrap_seeds(quantities[name])) for name in ("greedy", "sampled")}
        gains = {
            f"{name}_gain": fields(bootstrap_seeds(quantities[name] - quantities[f"base_{name}"]))
            for name in ("greedy", "sampled")
        }
        rows.append({"kept_by": kept_by, **row, **gains, "num_seeds": len(lab.seeds)})
        if kept_by != "soft":
            for name in ("greedy", "sampled"):
                difference = fields(bootstrap_seeds(quantities[name] - stacked["soft"][name]))
                contrasts.append({"left": kept_by, "right": "soft", "of": name, **difference})
    return {"raft": rows, "differences": contrasts}


def _tuned(lab: Lab, seed: int, kept_by: str) -> dict[str, Floats]:
    directory = lab.directory / "raft" / f"{kept_by}-seed{seed}"
    problems = load_problems(
        f"{lab.setting.family}:train?num={lab.scale.num_raft_prompts}&seed={1000 + seed}"
        f"&level={lab.setting.level}"
    )
    test = load_problems(lab.setting.problems("test", lab.scale.num_test))
    prm = None if kept_by == "outcome" else load_prm(lab.unit(kept_by, seed).prm)
    config = RaftConfig(
        num_iterations=1, num_samples=8, max_tokens=MAX_TOKENS, select="outcome" if prm is None else "prm",
        num_eval_samples=1, seed=seed, sft=SFT,
    )  # fmt: skip
    base = lab.directory / "raft" / "base" / f"seed{seed}"

    def reuse_base(stage: str) -> None:
        if stage.startswith("iteration 0") and base.exists() and not (directory / "iter-0").exists():
            shutil.copytree(base, directory / "iter-0")

    prm_format = prm.format if prm else PRMFormat()
    inputs = RaftInputs(problems, test, lab.setting.policy, prm, prm_format)
    raft(inputs, directory, config, LocalExecutor(chunk_size=32), on_stage=reuse_base)
    if not base.exists():
        shutil.copytree(directory / "iter-0", base.with_suffix(".partial"), dirs_exist_ok=True)
        base.with_suffix(".partial").rename(base)
    with Run.read(directory) as run:
        accuracies = {iteration: next(iter(run.rows([f"{iteration}/evaluation"]))) for iteration in (0, 1)}
    return {
        f"{'base_' if iteration == 0 else ''}{name}": np.array(row[name])
        for iteration, row in accuracies.items()
        for name in ("greedy", "sampled")
    }
