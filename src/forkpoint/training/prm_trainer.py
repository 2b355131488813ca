"""The training loop of a PRM: `transformers.Trainer` with a loss that is read at the step tags.

Loss: cross-entropy of softmax(good, bad) at each step's tag against [v, 1 - v], mean over the steps of a
batch (ER-PRM, arXiv 2412.11006). A batch is all rows between two optimiser steps: those of all processes and
of all accumulated micro-batches.
Invariant: every step of every solution that is trained on has its tag in the input; a solution that does not
fit is refused and counted. A batch packed as trees has the same loss and gradient as its solutions one by
one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from forkpoint.checkpoint import load_pretrained, load_tokenizer
from forkpoint.errors import LayoutError, TooLongError
from forkpoint.prms.layout import EncodedSolution, Layout
from forkpoint.prms.packing import INPUT_NAMES, group_rows, model_inputs, pack, tag_places, takes_trees
from forkpoint.prms.tagged import GOOD_CLASS, model_class_of, tag_logits
from forkpoint.records import LabelledSolution
from forkpoint.training.config import TrainConfig, TrainReport
from forkpoint.training.loop import (
    IGNORED,
    LoopTrainer,
    OnStep,
    run_trainer,
    shared,
    trained_model,
    trainer_arguments,
    with_lora,
)


def train_rows(
    solutions: Sequence[LabelledSolution],
    base: str,
    out: Path,
    checkpoints: Path,
    config: TrainConfig,
    on_step: OnStep | None,
) -> TrainReport:
    """Train from `base`, or from the last checkpoint in `checkpoints`; save weights and tokenizer at `out`.

    All processes that train together call this with the same arguments; the first one saves.
    """
    torch.manual_seed(config.seed)
    tokenizer: Any = load_tokenizer(base)
    layout = Layout(tokenizer, config.format)
    chosen, encoded, refusals = layout_rows(solutions, layout)
    if not chosen:
        raise ValueError(
            "no solution can be trained on; refused: "
            f"{dict(refusals) or 'none, there are no labelled solutions'}"
        )
    model = _model(base, config)
    packing = config.packing
    if packing == "tree" and not shared(takes_trees(model, max(len(row.input_ids) for row in encoded))):
        packing = "flat"
    rows = pack_rows(
        chosen, encoded, config.max_pack_tokens if packing == "tree" else 0, label_weights(chosen, config)
    )
    trainer = TagTrainer(
        layout=layout,
        model=model,
        args=trainer_arguments(checkpoints, config, config.seed),
        train_dataset=[*rows, blank_of(rows)],
        data_collator=TagCollator(
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else layout.tag_id, model.dtype
        ),
    )
    losses = run_trainer(trainer, checkpoints, on_step)
    trained = trained_model(trainer, config, load=lambda: _model(base, config))
    if trained is not None:
        trained.save_pretrained(out)
        tokenizer.save_pretrained(out)
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
            refusals["too long" if isinstance(error, TooLongError) else str(error)] += 1
            continue
        chosen.append(solution)
    return chosen, encoded, refusals


def pack_rows(
    solutions: Sequence[LabelledSolution],
    encoded: Sequence[EncodedSolution],
    max_nodes: int,
    weights: Sequence[Sequence[float]] | None = None,
) -> list[dict[str, Any]]:
    """Rows of the training set: solutions of one question as trees of at most `max_nodes` tokens.

    If `max_nodes` is 0, a row is one solution.
    """
    groups = (
        group_rows([solution.question for solution in solutions], encoded, max_nodes)
        if max_nodes
        else [[idx] for idx in range(len(encoded))]
    )
    rows = []
    for group in groups:
        packed = pack([encoded[idx] for idx in group])
        values = [label.value for idx in group for label in solutions[idx].labels]
        row_weights = [weight for idx in group for weight in weights[idx]] if weights else [1.0] * len(values)
        # the sampler reads input_ids
        rows.append({"input_ids": packed.input_ids, "pack": packed, "values": values, "weights": row_weights})
    return rows


def blank_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A short row from which nothing is learned."""
    row = min(rows, key=lambda row: len(row["input_ids"]))
    num_steps = len(row["values"])
    return {**row, "values": [float(IGNORED)] * num_steps, "weights": [0.0] * num_steps}


def label_weights(solutions: Sequence[LabelledSolution], config: TrainConfig) -> list[list[float]] | None:
    """The weights of all steps, one list per solution, with a mean of 1; None if every step counts once."""
    if config.label_weighting == "uniform":
        return None
    raw = [[1.0 - (label.high - label.low) for label in solution.labels] for solution in solutions]
    total, num = sum(map(sum, raw)), sum(map(len, raw))
    if total == 0:
        raise ValueError("label_weighting evidence needs labels with counts; these have none, so use uniform")
    return [[weight * num / total for weight in weights] for weights in raw]


@dataclass(frozen=True)
class TagCollator:
    """Turns rows into tensors: the model's inputs, and value (`labels`), weight and place of K steps."""

    pad_id: int
    dtype: torch.dtype = torch.float32
    """Type of the mask that is added to the attention scores of trees."""

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        packs = [row["pack"] for row in rows]
        tag_rows_K, tag_columns_K = tag_places(packs)
        values_K = torch.tensor([value for row in rows for value in row["values"]])
        weights_K = torch.tensor([weight for row in rows for weight in row["weights"]])
        steps = {
            "tag_rows": tag_rows_K,
            "tag_columns": tag_columns_K,
            "weights": weights_K,
            "labels": values_K,
        }
        return {**model_inputs(packs, self.pad_id, self.dtype), **steps}


class TagTrainer(LoopTrainer):
    """A Trainer whose loss is read at the step tags."""

    def __init__(self, layout: Layout, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layout = layout
        self.loss_is_scaled_for_ga = True  # each micro-batch is divided by the steps of the whole batch

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """The next micro-batches of this process, and the number of steps in those of all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        num_steps = torch.tensor(
            sum(int((batch["labels"] != IGNORED).sum()) for batch in batches), device=device
        )
        return batches, self.accelerator.reduce(num_steps)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        values_K, rows_K, columns_K = inputs["labels"], inputs["tag_rows"], inputs["tag_columns"]
        read = {name: inputs[name] for name in INPUT_NAMES if name in inputs}
        logits_K_2 = tag_logits(model, self.layout, read, rows_K, columns_K)
        total = soft_cross_entropy(logits_K_2, values_K, inputs["weights"])
        # times the number of processes, because their gradients are averaged
        loss = total / num_items_in_batch * self.accelerator.num_processes
        return (loss, logits_K_2) if return_outputs else loss


def soft_cross_entropy(
    logits_K_2: torch.Tensor, values_K: torch.Tensor, weights_K: torch.Tensor | None = None
) -> torch.Tensor:
    """sum_k -w_k [v_k ln p_k + (1 - v_k) ln(1 - p_k)] with p = softmax(good, bad)[good].

    Values are in [0, 1]; weights are 1 by default.
    """
    log_p_K_2 = logits_K_2.log_softmax(-1)
    losses_K = -(values_K * log_p_K_2[:, 0] + (1 - values_K) * log_p_K_2[:, 1])
    return losses_K.sum() if weights_K is None else (weights_K * losses_K).sum()


def _model(base: str, config: TrainConfig) -> Any:
    dtype = config.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    heads: dict[str, Any] = {}
    if config.format.head == "classifier":
        names = {GOOD_CLASS: "good", 1 - GOOD_CLASS: "bad"}
        heads = {"num_labels": 2, "id2label": names, "label2id": {name: idx for idx, name in names.items()}}
    model = load_pretrained(model_class_of(config.format), base, dtype=dtype, **heads)
    return with_lora(model, config, ["score"] if config.format.head == "classifier" else None)
