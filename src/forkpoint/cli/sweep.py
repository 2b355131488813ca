"""`forkpoint sweep`: one PRM per label value, compared on the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import TrainProgress, out_console, print_sweep, quiet_libraries, say
from forkpoint.experiments.sweep import SweepConfig, SweepInputs, run_sweep, variants_of
from forkpoint.labels.config import LabelConfig
from forkpoint.policies import checkpoint_of
from forkpoint.policies.config import PolicyConfig
from forkpoint.problems import load_problems
from forkpoint.runs import LocalExecutor, Run
from forkpoint.training.config import TrainConfig


@app.command
def sweep(
    labels: Path,
    *,
    problems: str,
    values: tuple[str, ...] = ("mean",),
    learning_rates: tuple[float, ...] = (),
    base: str = "lab",
    out: Path,
    preset: str | None = None,  # read before the command is called, see presets.py
    config: Annotated[SweepConfig, Flat] = SweepConfig(),
    train: Annotated[TrainConfig, Parameter(name="train")] = TrainConfig(),
    policy: Annotated[PolicyConfig, Flat] = PolicyConfig(),
) -> int:
    """Train one PRM per label value (or learning rate) from one label run, and compare them all.

    All PRMs score the same samples. An eta sweep: --values mean --values er:0.1 --values er:2 --values er:10
    --values hit --values outcome. The first value is the reference of the paired differences.

    Parameters
    ----------
    labels
        A run directory of `forkpoint label`.
    problems
        Test problems, as for `forkpoint label`.
    values
        Label values: mean, hit, er:ETA, outcome.
    learning_rates
        Peak learning rates, each combined with every value; by default, the one of the preset.
    base
        The model that PRMs start from.
    out
        The directory of the sweep, which gets sweep.json.
    preset
        As for `forkpoint train`.
    """
    quiet_libraries()
    with Run.read(labels) as run:
        segmentation = run.config.get("segmentation", LabelConfig().segmentation)
    inputs = SweepInputs(
        labels,
        variants_of(values, learning_rates, LabelConfig(segmentation=segmentation), train),
        str(checkpoint_of(base)),
        load_problems(problems),
        policy.load(),
    )
    executor = LocalExecutor(chunk_size=policy.batch_size)
    with TrainProgress() as progress:
        results = run_sweep(inputs, out, config, executor, say, progress)
    print_sweep(results)
    out_console.print(f"Written: {out / 'sweep.json'}", highlight=False, soft_wrap=True)
    return 0
