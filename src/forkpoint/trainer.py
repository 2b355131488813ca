"""The training loop of a PRM: `transformers.Trainer` with a loss read at the step tags.

Loss: cross-entropy of softmax(good, bad) at each step's tag against [v, 1 - v], mean over the steps of a batch
(ER-PRM, arXiv 2412.11006). accelerate, FSDP, DeepSpeed and the Trainer's resumption apply unchanged.
Invariant: every step of every solution that is trained on has its tag in the input; one that does not fit is refused and
counted. Packed as trees, a batch has the loss and the gradient that its solutions have one by one.
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
from forkpoint.prms.layout import EncodedSolution, Layout
from forkpoint.prms.packing import group_rows, model_inputs, pack, takes_tree_mask
from forkpoint.prms.tagged import GOOD_CLASS, model_class_of, tag_logits
from forkpoint.records import LabelledSolution
from forkpoint.tokenizer import load_tokenizer
from forkpoint.train import TrainConfig, TrainReport


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
    chosen, encoded, refusals = layout_rows(solutions, layout)
    if not chosen:
        raise ValueError(f"no solution can be trained on; refused: {dict(refusals) or 'none, there are no labelled solutions'}")
    model = _model(base, config)
    packing = config.packing
    if packing == "tree" and not takes_tree_mask(model, max(len(row.input_ids) for row in encoded)):
        packing = "flat"
    rows = pack_rows(chosen, encoded, config.max_pack_tokens if packing == "tree" else 0)
    trainer = TagTrainer(
        layout=layout,
        model=model,
        args=_arguments(out, config),
        train_dataset=rows,
        data_collator=TagCollator(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else layout.tag_id, model.dtype),
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
    return TrainReport(
        num_rows=len(chosen),
        num_steps_labelled=sum(len(solution.labels) for solution in chosen),
        num_refused=sum(refusals.values()),
        refusals=dict(refusals),
        loss=sum(tail) / len(tail),
        packing=packing,
        num_steps=trainer.state.global_step,
        num_tokens=sum(len(row["input_ids"]) for row in rows),
        num_flat_tokens=sum(len(row.input_ids) for row in encoded),
    )


def layout_rows(
    solutions: Sequence[LabelledSolution], layout: Layout
) -> tuple[list[LabelledSolution], list[EncodedSolution], Counter[str]]:
    """The solutions that fit, their tokens, and why the others were refused."""
    chosen, encoded, refusals = [], [], Counter[str]()
    for solution in solutions:
        try:
            encoded.append(layout.encode(solution.question, solution.steps))
        except LayoutError as error:
            refusals["too long" if "max_length" in str(error) else str(error)] += 1
            continue
        chosen.append(solution)
    return chosen, encoded, refusals


def pack_rows(solutions: Sequence[LabelledSolution], encoded: Sequence[EncodedSolution], max_nodes: int) -> list[dict[str, Any]]:
    """Rows of the training set: solutions of one question as a tree of at most `max_nodes` tokens; one by one where that is 0."""
    groups = (
        group_rows([solution.question for solution in solutions], encoded, max_nodes)
        if max_nodes
        else [[idx] for idx in range(len(encoded))]
    )
    rows = []
    for group in groups:
        packed = pack([encoded[idx] for idx in group])
        values = [label.value for idx in group for label in solutions[idx].labels]
        rows.append({"input_ids": packed.input_ids, "pack": packed, "values": values})  # input_ids: read by the sampler
    return rows


@dataclass(frozen=True)
class TagCollator:
    """Rows to tensors: a model's inputs, and for each of the K steps its value (`labels`) and its place."""

    pad_id: int
    dtype: torch.dtype = torch.float32
    """Of an attention mask that is added."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        packs = [row["pack"] for row in rows]
        places = [(row, column) for row, item in enumerate(packs) for tags in item.tags for column in tags]
        tag_rows_K, tag_columns_K = torch.tensor(places).T
        values_K = torch.tensor([value for row in rows for value in row["values"]])
        return {**model_inputs(packs, self.pad_id, self.dtype), "tag_rows": tag_rows_K, "tag_columns": tag_columns_K, "labels": values_K}


class TagTrainer(Trainer):
    """A Trainer whose loss is read at the step tags."""

    def __init__(self, layout: Layout, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layout = layout
        self.model_accepts_loss_kwargs = True  # makes the Trainer count the labels of all accumulated micro-batches
        self.loss_is_scaled_for_ga = True

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        values_K, rows_K, columns_K = inputs["labels"], inputs["tag_rows"], inputs["tag_columns"]
        model_inputs = {name: tensor for name, tensor in inputs.items() if name not in ("labels", "tag_rows", "tag_columns")}
        logits_K_2 = tag_logits(model, self.layout, model_inputs, rows_K, columns_K)
        total = soft_cross_entropy(logits_K_2, values_K)
        num_steps = len(values_K) if num_items_in_batch is None else num_items_in_batch
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
