"""What every training here shares: arguments of `transformers.Trainer`, LoRA, progress, and which checkpoint to go on from.

Started by torchrun or accelerate, several processes train one model: a batch is dealt out to them, and the loss is that of
the whole batch. The first process alone writes, reports and decides what could differ; see docs/how-to/training_at_scale.md.
Invariant: training that was killed continues from a checkpoint that was written whole, to the same weights; as many
processes as there may be, every row is learned once per epoch, in the batch in which one process would learn it.
"""

from __future__ import annotations

import atexit
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

T = TypeVar("T")
IGNORED = -100
"""The label of what is not learned."""
PATIENCE = timedelta(hours=2)
"""How long processes wait for one that saves a large model; one that has died is noticed at once, by the launcher."""
OnStep = Callable[[int, int, float], None]
"""Told (steps done, steps in all, last loss)."""


NUM_POOLED_BATCHES = 50
"""Rows of so many batches are sorted by length together: few enough to stay shuffled, enough for little padding."""


class LoopConfig(Protocol):
    """The fields that trainings have in common; see `TrainConfig` and `SFTConfig`."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def num_epochs(self) -> float: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def micro_batch_size(self) -> int: ...
    @property
    def warmup_share(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def lora_targets(self) -> tuple[str, ...]: ...
    @property
    def save_every(self) -> int: ...


class LengthSampler(Sampler[int]):
    """Shuffled rows, those of similar length in one batch; the order depends on the seed and the epoch alone.

    The samplers of transformers draw from the global random state, so an epoch that is continued in its middle has another
    order than one that is not interrupted. The batch with the longest row is the first: memory runs out at once or never.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, num_blank: int = 0) -> None:
        """`num_blank` times the index after the last row ends every epoch."""
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
        batches.sort(
            key=lambda batch: len(batch) < self._batch_size
        )  # incomplete ones last, or they would shift all others
        return iter([idx for batch in batches for idx in batch] + [len(idxs)] * self._num_blank)


class LoopTrainer(Trainer):
    """A Trainer that continues in the middle of an epoch as if it had not been interrupted.

    The last row of its `train_dataset` is blank: all its labels are IGNORED. Accelerate deals micro-batches out to the
    processes in turn, and all need the same number of rows; where an epoch does not come out even, blank rows make up
    the difference (accelerate itself would learn some rows twice). One process alone needs none.
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
        self.accelerator.wait_for_everyone()  # the trainer's state, which makes a checkpoint whole, comes next


def processes() -> PartialState:
    """The processes that train together, this one among them; at the first call they wait for each other."""
    _leave_at_exit()
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


@cache
def _leave_at_exit() -> None:
    """Have the group of processes ended before the interpreter is; its threads can end a process that is done with an abort."""
    atexit.register(lambda: dist.destroy_process_group() if dist.is_initialized() else None)


def shared(value: T) -> T:
    """What the first process gives, in every process."""
    processes()
    values: list[T] = broadcast_object_list([value])
    return values[0]


def trainer_arguments(checkpoints: Path, config: LoopConfig, seed: int) -> TrainingArguments:
    """Linear warm-up, then a cosine to 0; a checkpoint every `save_every` optimiser steps, the last two kept.

    ValueError where the processes cannot have equal parts of a batch.
    """
    num_at_once = config.micro_batch_size * processes().num_processes
    if config.batch_size % num_at_once:
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of micro_batch_size {config.micro_batch_size} times "
            f"{processes().num_processes} processes; give a smaller micro_batch_size, or start fewer processes"
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
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=1,
        seed=seed,
        bf16=os.environ.get("ACCELERATE_MIXED_PRECISION")
        == "bf16",  # DeepSpeed compares it with what accelerate was told
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
    )
    arguments._n_gpu = min(
        arguments.n_gpu, 1
    )  # one process has one GPU: the Trainer would spread a batch over all it sees
    return arguments


def with_lora(model: Any, config: LoopConfig, modules_to_save: Sequence[str] | None = None) -> Any:
    """The model with adapters of rank `lora_rank`, or as it is where that is 0."""
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


def run_trainer(trainer: Trainer, checkpoints: Path, on_step: OnStep | None) -> list[float]:
    """Train, from the last whole checkpoint if there is one; returns the loss of every optimiser step, earlier ones included."""
    trainer.remove_callback(PrinterCallback)  # progress is the caller's business
    if on_step and trainer.is_world_process_zero():
        trainer.add_callback(_StepCallback(on_step))
    torch.set_flush_denormal(True)  # tiny gradients otherwise slow a CPU down by a quarter
    try:
        trainer.train(resume_from_checkpoint=shared(last_checkpoint(checkpoints)))
    finally:
        torch.set_flush_denormal(False)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained_model(trainer: Trainer, config: LoopConfig, load: Callable[[], Any]) -> Any | None:
    """The trained model whole, adapters merged, in the first process; None in the others, all of which have to call this.

    `load` gives the model that training began with; it takes the weights where no process has them all (FSDP, DeepSpeed).
    """
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        if not trainer.is_world_process_zero():
            return None
        model: Any = trainer.accelerator.unwrap_model(trainer.model)
    else:
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if not trainer.is_world_process_zero():
            return None
        unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]  # or the loaded model would be in parts again
        model = load()
        model.load_state_dict(weights)
    return model.merge_and_unload() if config.lora_rank else model


def last_checkpoint(directory: Path) -> str | None:
    """The newest checkpoint that was written whole: the trainer's state is the last file of one, and may itself be torn."""
    for path in sorted(directory.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2])):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(path)
    return None


class _EpochCallback(TrainerCallback):
    """Tells a sampler the epoch; accelerate does not reach it where it continues in the middle of one."""

    def __init__(self, sampler: LengthSampler) -> None:
        self._sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._sampler.set_epoch(int(state.epoch or 0))


class _StepCallback(TrainerCallback):
    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        if logs and "loss" in logs:
            self._on_step(state.global_step, state.max_steps, logs["loss"])
