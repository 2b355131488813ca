"""The training loop: arguments of `transformers.Trainer`, LoRA, progress, and checkpoints.

Several processes, started by torchrun or accelerate, train one model: each gets a part of every batch, and
the loss is the loss of the whole batch. Only the first process writes, reports and makes decisions that could
differ between processes; see docs/how-to/training_at_scale.md.
Invariant: training that was killed continues from the last complete checkpoint and ends with the same
weights. With any number of processes, every row is learned once per epoch, in the same batch as with one
process.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from forkpoint.training.config import LoopConfig
from forkpoint.training.held_out import HeldOut
from forkpoint.training.monitor import Append, Monitor, OnStep, trackers

T = TypeVar("T")
IGNORED = -100
"""The label of tokens and steps that are not learned."""
PATIENCE = timedelta(hours=2)
"""How long processes wait for one that saves a large model. The launcher notices at once if a process
dies."""
NUM_CHECKS = 10
"""How often held-out rows are scored during a training that does not say otherwise."""
HELD_OUT = "held_out"
"""The name of a check's figures in the Trainer's history and in the journal."""
NUM_POOLED_BATCHES = 50
"""Number of batches whose rows are sorted by length together: few enough to stay shuffled, enough to pad
little."""


class LengthSampler(Sampler[int]):
    """Shuffled rows, with similar lengths in one batch; the order depends only on the seed and the epoch.

    The samplers of transformers draw from the global random state, so an epoch that is continued in its
    middle has another order than an uninterrupted one. The batch with the longest row comes first: if memory
    runs out, it runs out at once.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, num_blank: int = 0) -> None:
        """Every epoch ends with `num_blank` times the index after the last row, which is the blank row."""
        self._lengths, self._batch_size, self._seed, self._num_blank = (
            list(lengths),
            batch_size,
            seed,
            num_blank,
        )
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths) + self._num_blank

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self._seed}/{self._epoch}")
        idxs = list(range(len(self._lengths)))
        rng.shuffle(idxs)
        pool = NUM_POOLED_BATCHES * self._batch_size
        batches: list[list[int]] = []
        for start in range(0, len(idxs), pool):
            pooled = sorted(idxs[start : start + pool], key=lambda idx: -self._lengths[idx])
            batches += [
                pooled[first : first + self._batch_size] for first in range(0, len(pooled), self._batch_size)
            ]
        rng.shuffle(batches)
        longest = max(
            range(len(batches)), key=lambda which: max(self._lengths[idx] for idx in batches[which])
        )
        batches[0], batches[longest] = batches[longest], batches[0]
        # incomplete batches last, or they would shift all others
        batches.sort(key=lambda batch: len(batch) < self._batch_size)
        return iter([idx for batch in batches for idx in batch] + [len(idxs)] * self._num_blank)


class LoopTrainer(Trainer):
    """A Trainer that continues in the middle of an epoch as if it had not been interrupted.

    The last row of its `train_dataset` is blank: all its labels are IGNORED. Accelerate deals micro-batches
    to the processes in turn, and all processes need the same number of rows. If an epoch does not divide
    evenly, blank rows make up the difference (accelerate itself would repeat some rows). A single process
    needs no blank rows.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthSampler:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        *rows, _ = dataset
        num_processes = self.args.world_size
        num_at_once = self.args.train_batch_size * num_processes
        num_blank = -len(rows) % num_at_once if num_processes > 1 else 0
        batch_size = num_at_once * self.args.gradient_accumulation_steps
        sampler = LengthSampler(
            [len(row["input_ids"]) for row in rows], batch_size, self.args.seed, num_blank
        )
        self.add_callback(_EpochCallback(sampler))
        return sampler

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # the trainer's state, which completes a checkpoint, comes next


def processes() -> PartialState:
    """The processes that train together, including this one; in the first call they wait for each other."""
    _leave_at_exit()
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


@cache
def _leave_at_exit() -> None:
    """End the process group before the interpreter exits; its threads can otherwise abort the process."""
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


def shared(value: T) -> T:
    """The value that the first process passes, returned in every process."""
    processes()
    values: list[T] = broadcast_object_list([value])
    return values[0]


def trainer_arguments(
    checkpoints: Path, config: LoopConfig, seed: int, adam_beta2: float = 0.999
) -> TrainingArguments:
    """Linear warm-up, then a cosine to 0; a checkpoint every `save_every` optimiser steps, the last two kept.

    ValueError if a batch cannot be divided equally among the processes.
    """
    num_at_once = config.micro_batch_size * processes().num_processes
    if config.batch_size % num_at_once:
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of micro_batch_size {config.micro_batch_size} "
            f"times {processes().num_processes} processes; give a smaller micro_batch_size, or start fewer "
            "processes"
        )
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        learning_rate=config.learning_rate,
        num_train_epochs=config.num_epochs,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // num_at_once,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        adam_beta2=adam_beta2,
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=1,
        seed=seed,
        # DeepSpeed compares this with accelerate's setting
        bf16=os.environ.get("ACCELERATE_MIXED_PRECISION") == "bf16",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
    )
    # one GPU per process: the Trainer would spread a batch over all GPUs that it sees
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def with_lora(model: Any, config: LoopConfig, modules_to_save: Sequence[str] | None = None) -> Any:
    """The model with adapters of rank `lora_rank`, or the unchanged model if the rank is 0."""
    if config.lora_rank == 0:
        return model
    from peft import LoraConfig, get_peft_model

    kept = list(modules_to_save) if modules_to_save else None
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=list(config.lora_targets),
        modules_to_save=kept,
    )
    return get_peft_model(model, lora)


def run_trainer(trainer: Trainer, checkpoints: Path, monitor: Monitor) -> list[float]:
    """Train, from the last complete checkpoint if there is one; returns the losses of all optimiser steps.

    The losses of steps before the checkpoint are included.
    """
    trainer.remove_callback(PrinterCallback)  # progress is the caller's business
    if trainer.is_world_process_zero():
        if monitor.append is not None:
            trainer.add_callback(_JournalCallback(monitor.append))
        if monitor.on_step is not None:
            trainer.add_callback(_StepCallback(monitor.on_step))
        for name in trackers(monitor.report_to):
            callback = INTEGRATION_TO_CALLBACK[name]()
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                # the directory of checkpoints, where it would write, is removed in the end
                callback.logging_dir = str(checkpoints.with_name("tensorboard"))
            trainer.add_callback(callback)
    torch.set_flush_denormal(True)  # otherwise tiny gradients slow a CPU down by a quarter
    try:
        trainer.train(resume_from_checkpoint=shared(last_checkpoint(checkpoints)))
    finally:
        torch.set_flush_denormal(False)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained_model(trainer: Trainer, config: LoopConfig, load: Callable[[], Any]) -> Any | None:
    """The trained model, adapters merged, in the first process and None in the others; all must call this.

    `load` returns the model that training began with; it receives the weights if no process has all of them
    (FSDP, DeepSpeed).
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        if not trainer.is_world_process_zero():
            return None
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
    else:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if not trainer.is_world_process_zero():
            return None
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]  # or the loaded model would be split again
        model = load()
        model.load_state_dict(weights)
    return model.merge_and_unload() if config.lora_rank else model


def last_checkpoint(directory: Path) -> str | None:
    """The newest complete checkpoint. The trainer's state is its last file, and may itself be incomplete."""
    for path in sorted(directory.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(path)
    return None


class _EpochCallback(TrainerCallback):
    """Tells a sampler the epoch; accelerate does not do so if it continues in the middle of one."""

    def __init__(self, sampler: LengthSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._sampler.set_epoch(int(state.epoch or 0))


class CheckCallback(TrainerCallback):
    """Has held-out rows scored every `every` optimiser steps, and after the last one.

    If `every` is 0, they are scored at `NUM_CHECKS` steps.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        every = self._every or math.ceil(state.max_steps / NUM_CHECKS)
        if state.global_step % every == 0 or state.global_step >= state.max_steps:
            control.should_evaluate = True


class _JournalCallback(TrainerCallback):
    """Journals the loss of every optimiser step, and the figures of every check.

    A checkpoint may be older than the last row: the rows of steps that are done again have their keys
    already. A checkpoint whose rows are missing, since a power cut took them, brings them along.
    """

    def __init__(self, append: Append) -> None:
        self._append = append

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._append(row for entry in state.log_history for row in _rows(entry))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._append(_rows(state.log_history[-1]))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._append(_rows(state.log_history[-1]))


def _rows(entry: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the row of an entry of the Trainer's history, if it is one of a step or a check."""
    if "loss" in entry:
        yield f"step/{entry['step']}", {name: entry[name] for name in ("step", "loss", "learning_rate")}
    if HELD_OUT in entry:
        figures = asdict(HeldOut.of_row(entry[HELD_OUT]))  # a checkpoint sorts the names
        yield f"{HELD_OUT}/{entry['step']}", {"step": entry["step"], HELD_OUT: figures}


class _StepCallback(TrainerCallback):
    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        if logs and "loss" in logs:
            self._on_step(state.global_step, state.max_steps, logs["loss"])
