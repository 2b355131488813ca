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
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from forkpoint.checkpoint import load_pretrained, load_tokenizer
from forkpoint.errors import LayoutError, TooLongError
from forkpoint.prms.layout import EncodedSolution, Layout
from forkpoint.prms.packing import INPUT_NAMES, group_rows, model_inputs, pack, tag_places, takes_trees
from forkpoint.prms.tagged import GOOD_CLASS, model_class_of, tag_logits
from forkpoint.records import LabelledSolution
from forkpoint.training.config import TrainConfig, TrainReport
from forkpoint.training.held_out import HeldOut, ScoredSteps, held_out_questions, measured
from forkpoint.training.loop import (
    HELD_OUT,
    IGNORED,
    CheckCallback,
    LoopTrainer,
    run_trainer,
    shared,
    trained_model,
    trainer_arguments,
    with_lora,
)
from forkpoint.training.monitor import Monitor


def train_rows(
    solutions: Sequence[LabelledSolution],
    base: str,
    out: Path,
    checkpoints: Path,
    config: TrainConfig,
    monitor: Monitor,
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
    max_nodes = config.max_pack_tokens if packing == "tree" else 0
    apart = held_out_questions([row.question for row in chosen], config.held_out_share, config.seed)
    held_out = [idx for idx, solution in enumerate(chosen) if solution.question in apart]
    held_out_rows = pack_rows(
        [chosen[idx] for idx in held_out], [encoded[idx] for idx in held_out], max_nodes
    )
    learned = [idx for idx, solution in enumerate(chosen) if solution.question not in apart]
    chosen, encoded = [chosen[idx] for idx in learned], [encoded[idx] for idx in learned]
    rows = pack_rows(chosen, encoded, max_nodes, label_weights(chosen, config))
    trainer = TagTrainer(
        layout=layout,
        checks=Checks(held_out_rows, mean_value(rows), config.evaluate_every),
        model=model,
        args=trainer_arguments(checkpoints, config, config.seed, config.adam_beta2),
        train_dataset=[*rows, blank_of(rows)],
        data_collator=TagCollator(
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else layout.tag_id, model.dtype
        ),
    )
    losses = run_trainer(trainer, checkpoints, monitor)
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
        held_out=trainer.last_check(),
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
        row = {"pack": packed, "values": values, "weights": row_weights}
        # the sampler reads input_ids
        rows.append({**row, "input_ids": packed.input_ids, "question": solutions[group[0]].question})
    return rows


def mean_value(rows: Sequence[dict[str, Any]]) -> float:
    """The mean label of the steps of all rows."""
    values = [value for row in rows for value in row["values"]]
    return float(sum(values) / len(values))


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


@dataclass(frozen=True)
class Checks:
    """What is measured during the training: rows that are not trained on, against a constant."""

    rows: Sequence[dict[str, Any]]
    constant: float
    """The mean label of the steps that are trained on."""
    every: int
    """Optimiser steps between two checks; 0 is a tenth of the training."""


class TagTrainer(LoopTrainer):
    """A Trainer whose loss is read at the step tags, and which scores held-out rows now and then."""

    def __init__(self, layout: Layout, checks: Checks, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layout = layout
        self.checks = checks
        if checks.rows:
            self.add_callback(CheckCallback(checks.every))
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

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the held-out rows; the figures join the history, from which `last_check` reads them.

        All processes call this: each scores some of the rows, and all of them get the same figures.
        """
        found = measured(self._scored(), self.checks.constant)
        figures = {
            "loss": found.loss,
            "constant_loss": found.constant_loss,
            "auc": found.auc,
            "ece": found.ece,
        }
        metrics = {f"eval_{name}": value for name, value in figures.items() if value is not None}
        self.log(dict(metrics))
        entry: dict[str, Any] = self.state.log_history[-1]
        entry[HELD_OUT] = asdict(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def last_check(self) -> HeldOut | None:
        """The figures of the last check; None if there was none."""
        history: list[dict[str, Any]] = self.state.log_history
        found = [entry[HELD_OUT] for entry in history if HELD_OUT in entry]
        return HeldOut.of_row(found[-1]) if found else None

    def _scored(self) -> ScoredSteps:
        """The held-out steps with scores and losses, in the order of the rows."""
        distinct = dict.fromkeys(row["question"] for row in self.checks.rows)
        problem_idxs = {question: idx for idx, question in enumerate(distinct)}
        size, num_processes = self.args.train_batch_size, self.args.world_size
        # similar lengths together, or most of a batch would be padding
        order = sorted(range(len(self.checks.rows)), key=lambda idx: len(self.checks.rows[idx]["input_ids"]))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        # the processes of a sharded model must all call it, and equally often
        batches += [[] for _ in range(-len(batches) % num_processes)]
        parts: list[tuple[int, list[float], list[float]]] = []
        model = self.model_wrapped
        model.eval()
        with torch.no_grad():
            for batch in batches[self.args.process_index :: num_processes]:
                parts += self._scored_batch(model, batch)
        model.train()
        if num_processes > 1:
            parts = gather_object(parts)
        scored = sorted(parts)
        return ScoredSteps(
            np.array(
                [problem_idxs[self.checks.rows[idx]["question"]] for idx, scores, _ in scored for _ in scores]
            ),
            np.array([value for idx, *_ in scored for value in self.checks.rows[idx]["values"]]),
            np.array([score for _, scores, _ in scored for score in scores]),
            np.array([loss for *_, losses in scored for loss in losses]),
        )

    def _scored_batch(self, model: Any, batch: Sequence[int]) -> list[tuple[int, list[float], list[float]]]:
        """The index, scores and losses of every row of a batch; an empty batch runs the model, too."""
        rows = [self.checks.rows[idx] for idx in batch or [0]]
        inputs: dict[str, Any] = self._prepare_inputs(self.data_collator(rows))
        read = {name: inputs[name] for name in INPUT_NAMES if name in inputs}
        with self.compute_loss_context_manager():
            logits_K_2 = tag_logits(model, self.layout, read, inputs["tag_rows"], inputs["tag_columns"])
        log_p_K_2 = logits_K_2.double().log_softmax(-1).cpu().numpy()
        values_K = np.array([value for row in rows for value in row["values"]])
        losses_K = -(values_K * log_p_K_2[:, 0] + (1 - values_K) * log_p_K_2[:, 1])
        scores_K = np.exp(log_p_K_2[:, 0])
        ends = np.cumsum([len(row["values"]) for row in rows])
        places = [slice(end - len(row["values"]), end) for row, end in zip(rows, ends, strict=True)]
        # an empty batch has one row and no index
        return [
            (idx, scores_K[place].tolist(), losses_K[place].tolist())
            for idx, place in zip(batch, places, strict=False)
        ]


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
    if config.format.head == "classifier" and config.head_dropout is not None:
        model.config.classifier_dropout = model.dropout.p = config.head_dropout
    return with_lora(model, config, ["score"] if config.format.head == "classifier" else None)
