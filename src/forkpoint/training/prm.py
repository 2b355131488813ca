"""Train a PRM from any causal language model on soft step labels.

Invariant: a finished PRM directory is the outcome of exactly one combination of labels, base and
configuration, which is written there first; killed and started again with the same combination, training
continues from its last complete checkpoint. All processes that torchrun or accelerate starts train, but only
the first one writes there.
This file chooses the solutions to train on; the loss and the loop are in `prm_trainer.py`, which loads torch.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from forkpoint.checkpoint import fingerprint
from forkpoint.errors import RunError
from forkpoint.formats.labels_file import labels_digest, read_labelled
from forkpoint.prms.layout import FORMAT_FILE
from forkpoint.records import LabelledSolution
from forkpoint.runs import Run
from forkpoint.runs.run import CONFIG
from forkpoint.training.config import TrainConfig, TrainReport
from forkpoint.training.monitor import Append, Monitor, OnStep, Tracker, trackers
from forkpoint.training.processes import is_first_process, train_once

NONE_HELD_OUT: dict[str, Any] = {"held_out_share": 0.0, "evaluate_every": 0}
"""What trainings did before they had these settings."""
TRAINING = "training"
"""The run of the training inside the PRM's directory: configuration, checkpoints during it, report at its
end."""


def train_prm(
    labels: Path,
    base: str,
    out: Path,
    config: TrainConfig,
    on_step: OnStep | None = None,
    allow_constant_labels: bool = False,
    report_to: Sequence[Tracker] = (),
) -> TrainReport:
    """Train on the labelled solutions at `labels`, starting from the model `base`, and save the PRM at `out`.

    A finished PRM of the same labels, base and configuration at `out` is left unchanged. ConfigDiffers if
    `out` holds another training, RunLocked if another process is training there, ValueError if all labels
    are equal and `allow_constant_labels` is not set, MissingPackageError if a tracker is not installed.
    `on_step` is called with (steps done, steps in all, last loss), in the first of several processes only;
    `report_to` names trackers that are told of every step, which may be others when a training is continued.
    """
    trackers(report_to)
    config, left_out = as_started(out / TRAINING, config)
    resolved: dict[str, Any] = {
        "labels": labels_digest(labels),
        "base": fingerprint(Path(base)) if Path(base).is_dir() else base,
        **{name: value for name, value in config.to_row().items() if name not in left_out},
    }

    def train(checkpoints: Path, append: Append | None) -> TrainReport:
        from forkpoint.training.prm_trainer import train_rows

        solutions = choose_solutions(list(read_labelled(labels)), config)
        if not allow_constant_labels:
            _refuse_constant_labels(labels, solutions)
        report = train_rows(
            solutions, base, out, checkpoints, config, Monitor(on_step, tuple(report_to), append)
        )
        if is_first_process():
            config.format.save(out)  # makes the PRM loadable
        return report

    return TrainReport.of_summary(train_once(out / TRAINING, out / FORMAT_FILE, "train", resolved, train))


def as_started(directory: Path, config: TrainConfig) -> tuple[TrainConfig, frozenset[str]]:
    """Return how a training that an older version started in `directory` is continued.

    It has no setting for held-out problems: it holds none out unless `config` asks for it by other values
    than the defaults, and the names of these settings, which are returned, are not compared.
    """
    try:
        started = json.loads((directory / CONFIG).read_bytes())["config"]
    except (OSError, ValueError, LookupError, TypeError):
        return config, frozenset()  # a new training, or something that `Run.open` refuses
    given, default = asdict(config), asdict(TrainConfig())
    left_out = frozenset(
        name
        for name, none in NONE_HELD_OUT.items()
        if name not in started and given[name] in (none, default[name])
    )
    return replace(config, **{name: NONE_HELD_OUT[name] for name in left_out}), left_out


def _refuse_constant_labels(labels: Path, solutions: Sequence[LabelledSolution]) -> None:
    values = {label.value for solution in solutions for label in solution.labels}
    if len(values) == 1:
        raise ValueError(
            f"all labels at {labels} are {values.pop():g}, so a PRM would learn to give one score to every "
            "step; label both right and wrong solutions, or give --allow-constant-labels"
        )


def train_report(prm: Path) -> TrainReport:
    """The report of the training of a finished PRM. RunError if it is not finished."""
    with Run.read(prm / TRAINING) as run:
        if run.manifest is None:
            raise RunError(f"the training at {prm} is not finished; run the same command again")
        return TrainReport.of_summary(run.manifest["summary"])


def choose_solutions(solutions: Sequence[LabelledSolution], config: TrainConfig) -> list[LabelledSolution]:
    """At most `max_solutions_per_problem` of each problem, half of them right and half wrong if possible."""
    limit = config.max_solutions_per_problem
    if limit == 0:
        return list(solutions)
    chosen: list[LabelledSolution] = []
    by_problem: dict[str, list[LabelledSolution]] = {}
    for solution in solutions:
        by_problem.setdefault(solution.problem_id, []).append(solution)
    for problem_id, group in by_problem.items():
        rng = random.Random(f"{config.seed}/{problem_id}")
        kinds = [
            [solution for solution in group if solution.is_correct == is_correct]
            for is_correct in (True, False)
        ]
        for kind in kinds:
            rng.shuffle(kind)
        num_right = min(len(kinds[0]), max(limit - len(kinds[1]), (limit + 1) // 2))
        chosen += kinds[0][:num_right] + kinds[1][: limit - num_right]
    return chosen
