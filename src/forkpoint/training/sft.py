"""Supervised fine-tuning of a causal language model on completions, with `transformers.Trainer`.

Loss: cross-entropy of the completion's tokens, including the end token, mean over all completion tokens of a
batch; the prompt is read but not learned. Rows are token ids: nothing is tokenised here, so nothing is
tokenised differently.
Invariant: the saved directory is a model of its own, with the tokenizer, template and end tokens of the base;
killed and started again with the same arguments, training continues from its last complete checkpoint to the
same weights. Several processes train together as in `train_prm`.
The completions are chosen elsewhere (`forkpoint.experiments.raft_keep`); nothing is packed, and no row is
cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from forkpoint.checkpoint import fingerprint, load_pretrained, load_tokenizer
from forkpoint.content_key import content_key
from forkpoint.training.config import SFTConfig, SFTReport, SFTRow
from forkpoint.training.loop import (
    IGNORED,
    LoopTrainer,
    run_trainer,
    trained_model,
    trainer_arguments,
    with_lora,
)
from forkpoint.training.monitor import Append, Monitor
from forkpoint.training.processes import train_once

TRAINING = "training"
"""The run of the training inside the model's directory: configuration, checkpoints during it, report at
its end."""


def fine_tune(
    rows: Sequence[SFTRow],
    base: str | Path,
    out: Path,
    config: SFTConfig,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] | None = None,
) -> SFTReport:
    """Fine-tune the model `base` (a directory or a hub id) on `rows`, saved at `out`; run again to continue.

    A finished model of the same arguments at `out` is left unchanged. `on_step` is called with (steps done,
    steps in all, last loss). ValueError if there are no rows, or if one does not fit the model's vocabulary
    or positions; ConfigDiffers if `out` was started with other arguments, RunLocked if another process is
    training there.
    """
    if not rows:
        raise ValueError("there is nothing to fine-tune on; give at least one row")
    _refuse_misfits(rows, load_pretrained(AutoConfig, base).get_text_config())
    resolved: dict[str, Any] = {
        "base": fingerprint(Path(base)) if Path(base).is_dir() else str(base),
        "rows": content_key([[row.prompt_ids, row.completion_ids] for row in rows]),
        "num_rows": len(rows),
        "seed": seed,
        "sft": asdict(config),
    }

    def train(checkpoints: Path, append: Append | None) -> SFTReport:
        return _train(rows, base, out, checkpoints, config, seed, on_step)

    return SFTReport(**train_once(out / TRAINING, out / "config.json", "sft", resolved, train))


def masked(row: SFTRow) -> dict[str, list[int]]:
    """`input_ids` and `labels` of a row, of equal length; the labels of the prompt are -100."""
    return {
        "input_ids": [*row.prompt_ids, *row.completion_ids],
        "labels": [IGNORED] * len(row.prompt_ids) + list(row.completion_ids),
    }


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows padded on the right to [batch, tokens]; padding is masked and not learned."""
    length = max(len(row["input_ids"]) for row in rows)
    input_ids_B_T = torch.zeros((len(rows), length), dtype=torch.long)
    mask_B_T = torch.zeros((len(rows), length), dtype=torch.long)
    labels_B_T = torch.full((len(rows), length), IGNORED)
    for row_idx, row in enumerate(rows):
        end = len(row["input_ids"])
        input_ids_B_T[row_idx, :end] = torch.tensor(row["input_ids"])
        mask_B_T[row_idx, :end] = 1
        labels_B_T[row_idx, :end] = torch.tensor(row["labels"])
    return {"input_ids": input_ids_B_T, "attention_mask": mask_B_T, "labels": labels_B_T}


def _train(
    rows: Sequence[SFTRow],
    base: str | Path,
    out: Path,
    checkpoints: Path,
    config: SFTConfig,
    seed: int,
    on_step: Callable[[int, int, float], None] | None,
) -> SFTReport:
    torch.manual_seed(seed)
    tokenizer = load_tokenizer(base)
    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)

    def load() -> Any:
        return with_lora(load_pretrained(AutoModelForCausalLM, base, dtype=dtype), config)

    model = load()
    use_cache = getattr(model.config, "use_cache", None)
    train_rows = [masked(row) for row in rows]
    shortest = min(train_rows, key=lambda row: len(row["input_ids"]))
    trainer = LoopTrainer(
        model=model,
        args=trainer_arguments(checkpoints, config, seed),
        train_dataset=[*train_rows, {**shortest, "labels": [IGNORED] * len(shortest["labels"])}],
        data_collator=collate,
    )
    losses = run_trainer(trainer, checkpoints, Monitor(on_step))
    trained = trained_model(trainer, config, load)
    if trained is not None:
        if use_cache is not None:
            trained.config.use_cache = use_cache  # the Trainer turns it off, and that would be saved
        trained.save_pretrained(out)
        tokenizer.save_pretrained(out)
    tenth = max(1, len(losses) // 10)
    num_tokens = sum(len(row.completion_ids) for row in rows)
    return SFTReport(len(rows), num_tokens, sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth)


def _refuse_misfits(rows: Sequence[SFTRow], model_config: Any) -> None:
    limit = getattr(model_config, "max_position_embeddings", None)
    for row_idx, row in enumerate(rows):
        ids = (*row.prompt_ids, *row.completion_ids)
        if not 0 <= min(ids) <= max(ids) < model_config.vocab_size:
            raise ValueError(
                f"row {row_idx} has token ids outside of the model's {model_config.vocab_size}; "
                "was it made by another model?"
            )
        if limit is not None and len(ids) > limit:
            raise ValueError(
                f"row {row_idx} has {len(ids)} tokens, more than the model's {limit} positions; leave it out"
            )
