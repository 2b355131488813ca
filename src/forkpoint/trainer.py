"""The training loop of a PRM: `transformers.Trainer` with a loss read at the step tags.

Loss: cross-entropy of softmax(good, bad) at each step's tag against [v, 1 - v], mean over the steps of a batch
(ER-PRM, arXiv 2412.11006). accelerate, FSDP, DeepSpeed and the Trainer's resumption apply unchanged.
Invariant: every step of every row that is trained on has its tag in the input; a row that does not fit is refused and
counted.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from forkpoint.errors import LayoutError
from forkpoint.prms.layout import Layout
from forkpoint.prms.tagged import GOOD_CLASS, model_class_of, tag_logits
from forkpoint.records import LabelledSolution
from forkpoint.tokenizer import load_tokenizer
from forkpoint.train import TrainConfig, TrainReport

IGNORED = -100.0


def train_rows(
    solutions: Sequence[LabelledSolution],
    base: str,
    out: Path,
    config: TrainConfig,
    on_step: Callable[[int, int, float], None] | None,
) -> TrainReport:
    """Train from `base`, save weights and tokenizer at `out`; checkpoints are kept there until it is done."""
    torch.manual_seed(config.seed)
    tokenizer: Any = load_tokenizer(base)
    layout = Layout(tokenizer, config.format)
    rows, refusals = layout_rows(solutions, layout)
    if not rows:
        raise ValueError(f"no solution can be trained on; refused: {dict(refusals) or 'none, there are no labelled solutions'}")
    trainer = TagTrainer(
        layout=layout,
        model=_model(base, config),
        args=_arguments(out, config),
        train_dataset=rows,
        data_collator=TagCollator(pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else layout.tag_id),
        callbacks=[_StepCallback(on_step)] if on_step else [],
    )
    trainer.remove_callback(PrinterCallback)  # progress is the caller's business
    torch.set_flush_denormal(True)  # tiny gradients otherwise slow a CPU down by a quarter
    try:
        trainer.train(resume_from_checkpoint=_last_checkpoint(out / "checkpoints"))
    finally:
        torch.set_flush_denormal(False)
    _save(trainer, tokenizer, out, config)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = losses[-max(1, len(losses) // 10) :]
    num_labels = sum(len(row["tag_positions"]) for row in rows)
    return TrainReport(len(rows), num_labels, sum(refusals.values()), dict(refusals), sum(tail) / len(tail))


def layout_rows(solutions: Sequence[LabelledSolution], layout: Layout) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Solutions as token rows, and why the others were refused."""
    rows, refusals = [], Counter[str]()
    for solution in solutions:
        try:
            encoded = layout.encode(solution.question, solution.steps)
        except LayoutError as error:
            refusals["too long" if "max_length" in str(error) else str(error)] += 1
            continue
        rows.append(
            {
                "input_ids": encoded.input_ids,
                "tag_positions": encoded.tag_positions,
                "values": [label.value for label in solution.labels],
            }
        )
    return rows, refusals


@dataclass(frozen=True)
class TagCollator:
    """Rows to tensors: `labels` [batch, tokens] holds the step's value at its tag and -100 elsewhere."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        input_ids_B_T = torch.full((len(rows), length), self.pad_id)
        mask_B_T = torch.zeros((len(rows), length), dtype=torch.long)
        labels_B_T = torch.full((len(rows), length), IGNORED)
        for row_idx, row in enumerate(rows):
            end = len(row["input_ids"])
            input_ids_B_T[row_idx, :end] = torch.tensor(row["input_ids"])
            mask_B_T[row_idx, :end] = 1
            labels_B_T[row_idx, row["tag_positions"]] = torch.tensor(row["values"], dtype=torch.float32)
        return {"input_ids": input_ids_B_T, "attention_mask": mask_B_T, "labels": labels_B_T}


class TagTrainer(Trainer):
    """A Trainer whose loss is read at the step tags."""

    def __init__(self, layout: Layout, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layout = layout
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of all accumulated micro-batches
        self.loss_is_scaled_for_ga = True

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        labels_B_T = inputs["labels"]
        is_tag_B_T = labels_B_T != IGNORED
        logits_K_2 = tag_logits(model, self.layout, inputs["input_ids"], inputs["attention_mask"], is_tag_B_T)
        total = soft_cross_entropy(logits_K_2, labels_B_T[is_tag_B_T])
        num_steps = is_tag_B_T.sum() if num_items_in_batch is None else num_items_in_batch
        loss = total / num_steps
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes
        return (loss, logits_K_2) if return_outputs else loss


def soft_cross_entropy(logits_K_2: torch.Tensor, values_K: torch.Tensor) -> torch.Tensor:
    """sum_k -[v_k ln p_k + (1 - v_k) ln(1 - p_k)] with p = softmax(good, bad)[good]; values in [0, 1]."""
    log_p_K_2 = logits_K_2.log_softmax(-1)
    return -(values_K * log_p_K_2[:, 0] + (1 - values_K) * log_p_K_2[:, 1]).sum()


def _model(base: str, config: TrainConfig) -> Any:
    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    heads: dict[str, Any] = {}
    if config.format.head == "classifier":
        names = {GOOD_CLASS: "good", 1 - GOOD_CLASS: "bad"}
        heads = {"num_labels": 2, "id2label": names, "label2id": {name: idx for idx, name in names.items()}}
    model = model_class_of(config.format).from_pretrained(base, dtype=dtype, **heads)
    if config.lora_rank == 0:
        return model
    from peft import LoraConfig, get_peft_model

    head_names = ["score"] if config.format.head == "classifier" else None
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=list(config.lora_targets), modules_to_save=head_names
    )
    return get_peft_model(model, lora)


def _arguments(out: Path, config: TrainConfig) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        learning_rate=config.learning_rate,
        num_train_epochs=config.num_epochs,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=config.batch_size // config.micro_batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        train_sampling_strategy="group_by_length",
        save_steps=config.save_every,
        save_total_limit=2,
        logging_steps=1,
        seed=config.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
    )


def _save(trainer: Trainer, tokenizer: Any, out: Path, config: TrainConfig) -> None:
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if config.lora_rank:
        model = model.merge_and_unload()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _last_checkpoint(directory: Path) -> str | None:
    """The newest checkpoint that was written whole: the trainer's state is the last file of one."""
    whole = [path for path in directory.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


class _StepCallback(TrainerCallback):
    def __init__(self, on_step: Callable[[int, int, float], None]) -> None:
        self._on_step = on_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self._on_step(state.global_step, state.max_steps, logs["loss"])
