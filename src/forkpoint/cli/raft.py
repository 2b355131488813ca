"""`forkpoint raft`: a policy improved on its own solutions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from forkpoint.cli.app import Device, Dtype, Flat, app
from forkpoint.cli.console import TrainProgress, print_raft, quiet_libraries, say
from forkpoint.experiments.raft import raft
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.experiments.raft_inputs import RaftInputs
from forkpoint.policies import load_policy
from forkpoint.prms.config import FamilyConfig
from forkpoint.prms.layout import PRMFormat
from forkpoint.problems import load_problems
from forkpoint.runs.workers import WorkersConfig


@app.command(name="raft")
def raft_command(
    problems: str,
    *,
    eval_problems: str,
    base: str = "lab",
    prm: str | None = None,
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    out: Path,
    config: Annotated[RaftConfig, Flat] = RaftConfig(),
    batch_size: int = 64,
    workers: Annotated[WorkersConfig, Flat] = WorkersConfig(),
    template: str | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> int:
    """Improve a policy on its own solutions: sample, keep the best by a PRM, fine-tune, evaluate, T times (RAFT).

    With --select outcome a random right solution is kept instead, as the baseline. Killed at any moment, the same command
    continues.

    Parameters
    ----------
    problems
        What is trained on, as for `forkpoint label`.
    eval_problems
        What every iteration is measured on; shares no question with the others.
    base
        The policy to start from: `lab`, a model directory, or a hub id.
    prm
        A directory made by `forkpoint train`, a public PRM, or the address of a `forkpoint serve`; needed unless --select outcome.
    out
        The run directory; gets raft.json, and the policy of every iteration.
    batch_size
        Problems that are worked on side by side.
    """
    quiet_libraries()
    scorer = family.load(prm, device) if prm else None
    inputs = RaftInputs(
        load_problems(problems),
        load_problems(eval_problems),
        base,
        scorer,
        scorer.format if scorer else PRMFormat(),
        partial(load_policy, device=device, dtype=dtype, batch_size=batch_size, template=template),
    )
    with TrainProgress() as progress, workers.executor(batch_size) as executor:
        report = raft(inputs, out, config, executor, on_stage=say, on_step=progress)
    print_raft(report, f"RAFT: {out}")
    return 0
