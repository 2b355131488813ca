"""The output of the command line: tables on stdout, progress and stages on stderr.

Invariant: only this file and `forkpoint.cli` print; numbers are formatted here and computed elsewhere.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from forkpoint.estimates import Estimate
from forkpoint.experiments.raft_report import RaftReport
from forkpoint.report.headline import DEFAULT_SELECT
from forkpoint.training.config import TrainReport
from forkpoint.training.held_out import HeldOut
from forkpoint.training.processes import is_first_process

out_console = Console(quiet=not is_first_process())
err_console = Console(stderr=True)


def quiet_libraries() -> None:
    """Turn off the progress bars of transformers; those of this file show the progress."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


class SearchProgress:
    """Prints about every ten seconds how many problems have been searched."""

    def __init__(self) -> None:
        self._next = time.monotonic()

    def __call__(self, num_done: int, num_problems: int) -> None:
        if time.monotonic() >= self._next or num_done == num_problems:
            say(f"bisect: {num_done} of {num_problems} problems searched")
            self._next = time.monotonic() + 10


def say(stage: str) -> None:
    """Print the name of a stage on stderr."""
    err_console.print(f"· {stage}", highlight=False)


class TrainProgress:
    """A progress bar for optimiser steps; if stderr is not a terminal, ten lines instead."""

    def __init__(self) -> None:
        columns = [
            TextColumn("train  loss {task.fields[loss]:.3f}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        ]
        self._bar = Progress(
            *columns, console=err_console, disable=not (err_console.is_terminal and is_first_process())
        )
        self._task = self._bar.add_task("", total=None, loss=float("nan"), visible=False)
        self._num_done, self._next_share = 0, 0.1

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, num_done: int, num_steps: int, loss: float) -> None:
        if num_done <= self._num_done:
            self._next_share = 0.1  # another training has begun
        self._num_done = num_done
        self._bar.update(
            self._task, completed=num_done, total=num_steps, loss=loss, visible=num_done < num_steps
        )
        if not err_console.is_terminal and num_done >= self._next_share * num_steps:
            err_console.print(f"train: {num_done}/{num_steps} steps, loss {loss:.3f}", highlight=False)
            self._next_share += 0.1


def print_training(report: TrainReport, prm: Path) -> int:
    """Print how a training went, one sentence per fact; returns the exit status.

    The status is 1, with a warning on stderr, if the PRM scores held-out problems no better than a constant
    that could be beaten.
    """
    import torch

    refused = f"; {report.num_refused:,} refused: {report.refusals}" if report.num_refused else ""
    out_console.print(
        f"trained on {report.num_rows:,} solutions with {report.num_steps_labelled:,} step labels{refused}; "
        f"last loss {report.loss:.4f}; PRM at {prm}",
        highlight=False,
        soft_wrap=True,
    )
    for sentence in _held_out_sentences(report.held_out):
        out_console.print(sentence, highlight=False, soft_wrap=True)
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    out_console.print(f"torch uses {threads}", highlight=False)
    if report.held_out is None or report.held_out.beats_constant:
        return 0
    if report.held_out.constant_is_perfect:
        if is_first_process():
            err_console.print(
                f"warning: all labels are {report.held_out.constant:.0f}, so nothing says whether the PRM at "
                f"{prm} tells good steps from bad ones",
                highlight=False,
                soft_wrap=True,
            )
        return 0
    if is_first_process():
        err_console.print(
            f"WARNING: the PRM at {prm} is no better than a constant: on problems that it was not trained "
            f"on, its loss is {report.held_out.loss:.4f}, and that of the score "
            f"{report.held_out.constant:.3f} for every step is {report.held_out.constant_loss:.4f}. It is "
            "saved, but do not rely on its scores. Look at the labels with `forkpoint doctor`, or train with "
            "another learning rate, for longer, or on more problems.",
            style="bold red",
            highlight=False,
            soft_wrap=True,
        )
    return 1


def _held_out_sentences(found: HeldOut | None) -> list[str]:
    """How the scores of held-out problems compare with a constant, their order, and their calibration."""
    if found is None:
        return ["no problem was held out, so nothing is known about scores of new problems"]
    bias = found.mean_score - found.mean_label
    who = "1 problem was" if found.num_problems == 1 else f"{found.num_problems:,} problems were"
    return [
        f"{who} held out, with {found.num_steps:,} step labels: loss {found.loss:.4f}, "
        f"and {found.constant_loss:.4f} for the constant {found.constant:.3f}",
        f"gain over the constant {found.gain:+.4f} "
        f"({found.gain_low:+.4f} .. {found.gain_high:+.4f}) per step",
        "the AUC is unknown: all held-out labels are on one side of 0.5"
        if found.auc is None
        else f"AUC {found.auc:.3f} for telling steps with a label of at least 0.5 from the others",
        f"calibration error {found.ece:.3f} over ten bins; mean score {found.mean_score:.3f} "
        f"for a mean label of {found.mean_label:.3f} ({bias:+.3f})",
    ]


def print_results(results: dict[str, Any]) -> None:
    """The content of results.json: accuracies at the largest N, comparisons, label quality, first errors."""
    largest = max(row["n"] for row in results["rows"])
    table = Table(
        "sampler",
        "pick",
        "n",
        "accuracy",
        "95 % interval",
        "tokens/problem",
        title="accuracy on held-out problems",
    )
    # the default search leads, as in the report
    for row in sorted(results["rows"], key=lambda row: row["select"] != DEFAULT_SELECT):
        if row["select"] == "greedy" or (row["n"] == largest and row["aggregate"] in (None, "min")):
            sampler = (
                "greedy"
                if row["select"] == "greedy"
                else f"HT T={row['temperature']:g}"
                if row["sampler"] == "ht"
                else "EDU tree"
            )
            pick = row["select"] + (f" ({row['aggregate']})" if row["aggregate"] else "")
            table.add_row(
                sampler, pick, str(row["n"]),
                f"{row['accuracy']:.3f}", f"{row['ci_low']:.3f} .. {row['ci_high']:.3f}",
                f"{row['sampled_tokens_per_problem']:.0f}",
            )  # fmt: skip
    out_console.print(table)
    for item in results["comparisons"]:
        interval = f"{item['ci_low']:+.3f} .. {item['ci_high']:+.3f}"
        out_console.print(
            f"{item['name']}: {item['difference']:+.3f} ({interval}), tokens x {item['token_ratio']:.2f}",
            highlight=False,
        )
    if results["label_quality"]:
        for weighting, found in results["label_quality"]["by_weighting"].items():
            out_console.print(
                f"labels ({weighting} leaves) against true values: mean absolute error {found['mae']:.3f} "
                f"({found['mae_low']:.3f} .. {found['mae_high']:.3f}), bias {found['bias']:+.3f}, "
                f"rank correlation {found['correlation']:.2f}, {found['num_labels']} prefixes",
                highlight=False,
            )
    if results["first_error"]:
        found = results["first_error"]
        out_console.print(
            f"first wrong step: F1 {found['f1']:.3f} "
            f"(on wrong {found['acc_error']:.3f}, on right {found['acc_correct']:.3f}), "
            f"threshold {found['threshold']:.2f}, {found['num_solutions']} solutions",
            highlight=False,
        )


def print_sweep(results: dict[str, Any]) -> None:
    """The content of sweep.json: best-of-N by variant, and differences from majority and variant 1."""
    sizes = sorted({row["n"] for row in results["rows"]})
    names = [variant["name"] for variant in results["variants"]]
    how = results["variants"][0]["train"]["format"]["aggregate"]
    found = {(row["variant"], row["select"], row["aggregate"], row["n"]): row for row in results["rows"]}
    num_problems, num_seeds = results["rows"][0]["num_problems"], results["config"]["num_seeds"]
    title = f"best-of-N ({how}), {num_problems} problems, {num_seeds} seeds, with 95 % intervals"
    table = Table(
        "",
        *(f"N = {n}" for n in sizes),
        f"minus majority, N = {sizes[-1]}",
        f"minus {names[0]}, N = {sizes[-1]}",
        title=title,
    )
    for name, select, aggregate in [
        (None, "majority", None),
        *((name, "best", how) for name in names),
        (None, "oracle", None),
    ]:
        cells = [found[name, select, aggregate, n] for n in sizes]
        shown = [f"{cell['mean']:.3f} ({cell['ci_low']:.3f} .. {cell['ci_high']:.3f})" for cell in cells]
        paired = {
            row["minus"]: f"{row['mean']:+.3f} ({row['ci_low']:+.3f} .. {row['ci_high']:+.3f})"
            for row in results["differences"]
            if (row["variant"], row["select"], row["aggregate"], row["n"])
            == (name, select, aggregate, sizes[-1])
        }
        table.add_row(name or select, *shown, paired.get("majority", ""), paired.get(names[0], ""))
    out_console.print(table)


def print_raft(report: RaftReport, title: str) -> None:
    """Accuracy by iteration, and its gain over the base on the same problems."""
    table = Table("iteration", "kept", "kept right", "greedy", "sampled", "sampled minus base", title=title)
    for item in report.iterations:
        kept = (f"{item.kept.num_kept:,}", f"{item.kept.kept_accuracy:.3f}") if item.kept else ("", "")
        gain = _interval(item.sampled_gain, "+") if item.sampled_gain else ""
        table.add_row(str(item.iteration), *kept, _interval(item.greedy), _interval(item.sampled), gain)
    out_console.print(table)


def _interval(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.mean:{sign}.3f} ({estimate.low:{sign}.3f} .. {estimate.high:{sign}.3f})"
