"""Train a PRM from any causal language model on soft step labels.

Invariant: a finished PRM directory is the outcome of exactly one set of labels, base and configuration, which are written
there first; killed and started again with the same, training continues from its last whole checkpoint. Of the processes
that torchrun or accelerate starts all train, and the first alone writes there.
This file chooses what to train on; the loss and the loop are in `trainer.py`, which loads torch.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from forkpoint.errors import RunError
from forkpoint.fingerprint import fingerprint
from forkpoint.prms.layout import FORMAT_FILE, PRMFormat
from forkpoint.records import LabelledSolution
from forkpoint.runs import Run, content_key
from forkpoint.stepdata import labels_digest, read_labelled

T = TypeVar("T")
TRAINING = "training"
"""The run that trains, inside the PRM's directory: configuration, checkpoints while it lasts, report at its end."""


@dataclass(frozen=True)
class TrainConfig:
    """What a PRM is trained with. The defaults suit language models of 1B parameters and above."""

    learning_rate: float = 1e-6
    """Peak; warmed up linearly, then a cosine to 0 (1e-6 in both papers)."""
    num_epochs: float = 1.0
    packing: Literal["tree", "flat"] = "tree"
    """tree: a row is all solutions of a problem, each distinct prefix computed once; flat: a row is one solution. Where the
    model does not compute trees, training is flat, and the report says so."""
    max_pack_tokens: int = 4096
    """Tokens of a tree at most; the solutions of a problem that need more become several rows."""
    batch_size: int = 64
    """Rows per optimiser step, over all processes (64 solutions in arXiv 2412.11006)."""
    micro_batch_size: int = 8
    """Rows per forward pass of one process."""
    warmup_share: float = 0.03
    """Share of the steps, in [0, 1)."""
    weight_decay: float = 0.0
    label_weighting: Literal["uniform", "evidence"] = "uniform"
    """uniform: every step counts once. evidence: a step counts 1 - w, w the width of its label's 95 % interval, divided by
    the mean over all steps; labels without counts have width 1 and do not count."""
    max_solutions_per_problem: int = 0
    """Solutions of one problem to train on at most, right and wrong in turn; 0 takes all."""
    lora_rank: int = 0
    """Rank of LoRA adapters, merged into the saved model; 0 trains all weights."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Modules that get adapters."""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    """Of the weights while training; auto keeps the checkpoint's."""
    seed: int = 0
    save_every: int = 200
    """Optimiser steps between checkpoints."""
    format: PRMFormat = field(default_factory=PRMFormat)

    def __post_init__(self) -> None:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}")
        if self.packing not in ("tree", "flat"):
            raise ValueError(f"packing {self.packing!r} is unknown; choose from tree, flat")
        if self.label_weighting not in ("uniform", "evidence"):
            raise ValueError(f"label_weighting {self.label_weighting!r} is unknown; choose from uniform, evidence")
        if self.learning_rate <= 0 or self.num_epochs <= 0:
            raise ValueError("learning_rate and num_epochs must be above 0")


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What training did."""

    num_rows: int
    """Solutions trained on."""
    num_steps_labelled: int
    num_refused: int
    """Solutions left out because their tags do not fit."""
    refusals: dict[str, int]
    """Why, and how often."""
    loss: float
    """Mean over the last tenth of the optimiser steps."""
    packing: Literal["tree", "flat"]
    """What was done, which differs from what was asked where the model does not compute trees."""
    num_steps: int
    """Optimiser steps."""
    num_tokens: int
    """Tokens computed per epoch, without padding."""
    num_flat_tokens: int
    """Tokens that one row per solution would take."""


def train_prm(
    labels: Path, base: str, out: Path, config: TrainConfig, on_step: Callable[[int, int, float], None] | None = None
) -> TrainReport:
    """Train on the labelled solutions at `labels` from the model `base`, save the PRM at `out`.

    A finished PRM of the same labels, base and configuration at `out` is left as it is; another is refused with
    ConfigDiffers, and RunLocked tells where another process trains there. `on_step` is called with (steps done, steps in
    all, last loss), by the first of several processes alone.
    """
    resolved: dict[str, Any] = {
        "labels": labels_digest(labels),
        "base": fingerprint(Path(base)) if Path(base).is_dir() else base,
        **asdict(config),
    }

    def train(checkpoints: Path) -> TrainReport:
        from forkpoint.trainer import train_rows

        solutions = choose_solutions(list(read_labelled(labels)), config)
        report = train_rows(solutions, base, out, checkpoints, config, on_step)
        if is_first_process():
            config.format.save(out)  # with it the PRM can be loaded
        return report

    return TrainReport(**train_once(out / TRAINING, out / FORMAT_FILE, "train", resolved, train))


def is_first_process() -> bool:
    """Whether this process is alone, or the one of those started by torchrun or accelerate that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def train_once(directory: Path, product: Path, command: str, config: Mapping[str, Any], train: Callable[[Path], Any]) -> dict[str, Any]:
    """The fields of the report that `train(checkpoints)` gives, from the run `directory` where it is finished and `product` is there.

    Of several processes the first alone opens the run; all of them train, and return what it wrote. ValueError in one
    whose configuration is not that of the first, otherwise as `Run.open`.
    """
    checkpoints, key = directory / "checkpoints", content_key(config)
    if not is_first_process():
        is_owed, key_of_first = _shared((True, key))
        if key_of_first != key:
            raise ValueError(
                f"process {os.environ['RANK']} was given other labels, another base or other settings than process 0; "
                "start all of them with the same files and arguments"
            )
        if is_owed:
            train(checkpoints)
        return _shared({})
    with Run.open(directory, command, config) as run:
        is_owed, _ = _shared((not (run.is_finished and product.exists()), key))
        if is_owed:
            run.finish(asdict(train(checkpoints)))
        shutil.rmtree(checkpoints, ignore_errors=True)
        assert run.manifest is not None, "the run has just been finished"
        return _shared(run.manifest["summary"])


def _shared(value: T) -> T:
    """What the first process gives, in every process; one that is alone need not load torch for it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from forkpoint.training_loop import shared

    return shared(value)


def train_report(prm: Path) -> TrainReport:
    """What the training of a finished PRM did. RunError where there is none."""
    with Run.read(prm / TRAINING) as run:
        if run.manifest is None:
            raise RunError(f"the training at {prm} is not finished; run the same command again")
        return TrainReport(**run.manifest["summary"])


def choose_solutions(solutions: Sequence[LabelledSolution], config: TrainConfig) -> list[LabelledSolution]:
    """At most `max_solutions_per_problem` of each problem, right and wrong in turn as far as there are both."""
    limit = config.max_solutions_per_problem
    if limit == 0:
        return list(solutions)
    chosen: list[LabelledSolution] = []
    by_problem: dict[str, list[LabelledSolution]] = {}
    for solution in solutions:
        by_problem.setdefault(solution.problem_id, []).append(solution)
    for problem_id, group in by_problem.items():
        rng = random.Random(f"{config.seed}/{problem_id}")
        kinds = [[solution for solution in group if solution.is_correct == is_correct] for is_correct in (True, False)]
        for kind in kinds:
            rng.shuffle(kind)
        num_right = min(len(kinds[0]), max(limit - len(kinds[1]), (limit + 1) // 2))
        chosen += kinds[0][:num_right] + kinds[1][: limit - num_right]
    return chosen
