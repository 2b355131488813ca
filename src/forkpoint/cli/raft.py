"""`forkpoint raft`: fine-tune a policy on its own solutions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from forkpoint.checkpoint import Device, Dtype
from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import TrainProgress, print_raft, quiet_libraries, say
from forkpoint.experiments.raft import raft
from forkpoint.experiments.raft_config import RaftConfig
from forkpoint.experiments.raft_inputs import RaftInputs
from forkpoint.policies import load_policy
from forkpoint.policies.prompt import prompt_of
from forkpoint.prms.config import FamilyConfig
from forkpoint.prms.layout import PRMFormat
from forkpoint.problems import load_problems
from forkpoint.runs.config import WorkersConfig


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
    instruction: str | None = None,
    system: str | None = None,
    thinking: bool | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> int:
    """Improve a policy on its own solutions (RAFT).

    Each iteration samples solutions, keeps the one of every problem that a PRM scores best, fine-tunes the
    policy on them, and evaluates it. With --select outcome, a random right solution is kept instead, as a
    baseline. If the command is killed, the same command continues.

    Parameters
    ----------
    problems
        Problems to learn from, as for `forkpoint label`.
    eval_problems
        Problems that every iteration is measured on; they must share no question with the others.
    base
        The policy to start from: `lab`, a model directory, a GGUF file, or a hub id.
    prm
        A directory made by `forkpoint train`, a public PRM, or the address of a `forkpoint serve`; required
        unless --select outcome is given.
    out
        The run directory, which gets raft.json and the policy of every iteration.
    batch_size
        Problems that are processed together.
    template
        The prompt with {question} in it; by default, the chat template, or the question and a line break if
        there is none.
    instruction
        The text that follows the question in the user's message of the chat template, or the name of one:
        math-boxed or gsm8k-hash.
    system
        The system message of the chat template, or the name of one: qwen-math or math-boxed.
    thinking
        The value of the switch `enable_thinking` of the chat template.
    device
        Device of the policy and the PRM.
    dtype
        Type of the weights while sampling; auto is bfloat16 on a GPU and float32 elsewhere.
    """
    quiet_libraries()
    prompt = prompt_of(template, instruction, system, thinking)
    scorer = family.load(prm, device) if prm else None
    inputs = RaftInputs(
        load_problems(problems),
        load_problems(eval_problems),
        base,
        scorer,
        scorer.format if scorer else PRMFormat(),
        partial(load_policy, device=device, dtype=dtype, batch_size=batch_size, template=prompt),
    )
    with TrainProgress() as progress, workers.executor(batch_size) as executor:
        report = raft(inputs, out, config, executor, on_stage=say, on_step=progress)
    print_raft(report, f"RAFT: {out}")
    return 0
