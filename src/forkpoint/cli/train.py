"""`forkpoint train`: a PRM from labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import TrainProgress, print_training, quiet_libraries
from forkpoint.doctor.label_run import examine_origin
from forkpoint.labels.run import label_format
from forkpoint.policies import checkpoint_of
from forkpoint.training.config import TrainConfig
from forkpoint.training.monitor import Tracker
from forkpoint.training.prm import train_prm


@app.command
def train(
    labels: Path,
    *,
    base: str = "lab",
    out: Path,
    preset: str | None = None,  # read before the command is called, see presets.py
    allow_constant_labels: bool = False,
    report_to: Annotated[tuple[Tracker, ...], Parameter(negative="")] = (),
    config: Annotated[TrainConfig, Flat] = TrainConfig(),
) -> int:
    """Train a PRM on labelled steps, from the weights of a language model.

    The defaults suit models of 1B parameters and above; for the lab policy use --preset lab.
    A twentieth of the problems is held out. If the PRM scores them no better than a constant, it is saved
    with a warning and status 1.

    Parameters
    ----------
    labels
        A run directory of `forkpoint label`, or a file of labelled solutions.
    base
        The model to start from: `lab`, a model directory, a GGUF file, or a hub id.
    out
        The directory of the PRM.
    preset
        Settings of a paper: er-prm (arXiv 2412.11006) or edu-prm (arXiv 2503.22233); lab suits the shipped
        policy. They become the defaults of the flags below; flags that are given override them.
    allow_constant_labels
        Train even if all labels are equal, which teaches a PRM to give every step the same score.
    report_to
        Trackers that are told the losses while the training runs, each a package to install: tensorboard
        (files in OUT/training/tensorboard), wandb or trackio. They may change when a training is continued.
    """
    quiet_libraries()
    origin = examine_origin(labels)
    if origin is not None and origin.verdict == "problem":
        raise ValueError(origin.text)
    config = replace(config, format=label_format(labels, config.format))
    with TrainProgress() as progress:
        report = train_prm(
            labels, str(checkpoint_of(base)), out, config, progress, allow_constant_labels, report_to
        )
    return print_training(report, out)
