"""What every training here shares: arguments of `transformers.Trainer`, LoRA, progress, and which checkpoint to go on from.

Invariant: training that was killed continues from a checkpoint that was written whole, to the same weights.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

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

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._batch_size, self._seed = list(lengths), batch_size, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self._seed}/{self._epoch}")
        idxs = list(range(len(self._lengths)))
        rng.shuffle(idxs)
        pool = NUM_POOLED_BATCHES * self._batch_size
        batches: list[list[int]] = []
        for start in range(0, len(idxs), pool):
            pooled = sorted(idxs[start : start + pool], key=lambda idx: -self._lengths[idx])
            batches += [pooled[first : first + self._batch_size] for first in range(0, len(pooled), self._batch_size)]
        rng.shuffle(batches)
        longest = max(range(len(batches)), key=lambda which: max(self._lengths[idx] for idx in batches[which]))
        batches[0], batches[longest] = batches[longest], batches[0]
        batches.sort(key=lambda batch: len(batch) < self._batch_size)  # incomplete ones last, or they would shift all others
        return iter([idx for batch in batches for idx in batch])


class LoopTrainer(Trainer):
    """A Trainer that continues in the middle of an epoch as if it had not been interrupted."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthSampler:
        rows: Any = train_dataset if train_dataset is not None else self.train_dataset
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthSampler([len(row["input_ids"]) for row in rows], batch_size, self.args.seed)


def trainer_arguments(checkpoints: Path, config: LoopConfig, seed: int) -> TrainingArguments:
    """Linear warm-up, then a cosine to 0; a checkpoint every `save_every` optimiser steps, the last two kept."""
    return TrainingArguments(
        output_dir=str(checkpoints),
        learning_rate=config.learning_rate,
        num_train_epochs=config.num_epochs,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=1,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
    )


def with_lora(model: Any, config: LoopConfig, modules_to_save: Sequence[str] | None = None) -> Any:
    """The model with adapters of rank `lora_rank`, or as it is where that is 0."""
    if config.lora_rank == 0:
        return model
    from peft import LoraConfig, get_peft_model

    kept = list(modules_to_save) if modules_to_save else None
    lora = LoraConfig(r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=list(config.lora_targets), modules_to_save=kept)
    return get_peft_model(model, lora)


def run_trainer(trainer: Trainer, checkpoints: Path, on_step: OnStep | None) -> list[float]:
    """Train, from the last whole checkpoint if there is one; returns the loss of every optimiser step, earlier ones included."""
    trainer.remove_callback(PrinterCallback)  # progress is the caller's business
    if on_step:
        trainer.add_callback(_StepCallback(on_step))
    torch.set_flush_denormal(True)  # tiny gradients otherwise slow a CPU down by a quarter
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    finally:
        torch.set_flush_denormal(False)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained_model(trainer: Trainer, config: LoopConfig) -> Any:
    """The trained model, adapters merged."""
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
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


class _StepCallback(TrainerCallback):
    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._on_step(state.global_step, state.max_steps, logs["loss"])
