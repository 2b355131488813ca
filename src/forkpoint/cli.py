"""The `forkpoint` command: the only file that reads argv or prints.

Every flag, default and help text comes from the configuration dataclass of the stage that it configures.
Exit status: 0 done; 1 done in part (the message says what is owed); 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from forkpoint import __version__
from forkpoint.demo import DemoConfig, run_demo
from forkpoint.errors import ForkpointError
from forkpoint.evaluate_run import EvaluateConfig, evaluate_policy, write_results
from forkpoint.grade import grade_file
from forkpoint.lab.check import CheckConfig, check_policy
from forkpoint.lab.problem_set import lab_story
from forkpoint.label_run import LabelConfig, label_format, label_problems
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.prefix_values import PrefixConfig, measure_labels
from forkpoint.prms import load_prm
from forkpoint.problems import load_problems
from forkpoint.report import write_report
from forkpoint.runs import LocalExecutor
from forkpoint.score import read_solutions, score_rows, write_lines
from forkpoint.select import Aggregate
from forkpoint.train import TrainConfig, train_prm
from forkpoint.tree import TreeConfig

app = App(name="forkpoint", version=__version__, help="Process reward models without annotators.")
lab_app = App(name="lab", help="The built-in problems with an exact step oracle, and their tiny policy.")
app.command(lab_app)
out_console = Console()
err_console = Console(stderr=True)

Flat = Parameter(name="*")
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@app.command
def demo(*, out: Path = Path("runs/demo"), config: Annotated[DemoConfig, Flat] = DemoConfig(), batch_size: int = 64) -> int:
    """Do it all with the shipped policy: grow trees, label, train a PRM, evaluate, write a report.

    Parameters
    ----------
    out
        Where everything goes; run again to continue or to look again.
    batch_size
        Problems that are worked on side by side.
    """
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    with TrainProgress() as progress:
        result = run_demo(out, config, LocalExecutor(chunk_size=batch_size), say, progress)
    report = write_report(out)
    _print_results(result.results)
    out_console.print(f"\nWritten: {out / 'results.json'}, {report}", highlight=False, soft_wrap=True)
    out_console.print(NEXT_STEPS, highlight=False, soft_wrap=True)
    return 0


NEXT_STEPS = """
Next, with your own model and data (any transformers causal language model, a directory or a hub id):
  forkpoint label gsm8k:train.jsonl --policy DIR_OR_HUB_ID --anchors-per-solution 8 --out runs/labels
  forkpoint train runs/labels --base DIR_OR_HUB_ID --out runs/prm
  forkpoint evaluate gsm8k:test.jsonl --policy DIR_OR_HUB_ID --prm runs/prm --out runs/evaluation"""


@app.command
def label(
    problems: str,
    *,
    policy: str = "lab",
    out: Path,
    tree: Annotated[TreeConfig, Flat] = TreeConfig(),
    labels: Annotated[LabelConfig, Flat] = LabelConfig(),
    batch_size: int = 64,
    template: str | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> int:
    """Grow an EDU tree on every problem, grade its leaves, label its steps.

    Killed at any moment, the same command continues. OUT/journal.jsonl holds the trees, OUT/labels.jsonl the labels.

    Parameters
    ----------
    problems
        lab:train?num=500&seed=0, gsm8k:FILE.jsonl, math:FILE.jsonl, jsonl:FILE?question=Q&answer=A, parquet:..., hub:OWNER/NAME?split=...
    policy
        `lab` (the shipped one), a model directory, or a hub id.
    out
        The run directory.
    batch_size
        Problems whose trees grow side by side.
    template
        The prompt with {question} in it; without one the chat template, and without that the question and a line break.
    """
    quiet_libraries()
    loaded = load_policy(policy, device=device, dtype=dtype, batch_size=batch_size, template=template)
    summary = label_problems(load_problems(problems), loaded, out, tree, labels, LocalExecutor(chunk_size=batch_size))
    table = Table(title=f"labelled: {out}", show_header=False)
    for name, value in asdict(summary).items():
        if name != "cost":
            table.add_row(name, f"{value:g}" if isinstance(value, float) else f"{value:,}")
    for name, value in asdict(summary.cost).items():
        table.add_row(name, f"{value:,}")
    out_console.print(table)
    if summary.num_failed:
        err_console.print(f"{summary.num_failed} problems failed, see {out / 'failures.jsonl'}; run the same command to try them again")
    return 1 if summary.num_failed else 0


@app.command
def train(
    labels: Path,
    *,
    base: str = "lab",
    out: Path,
    config: Annotated[TrainConfig, Flat] = TrainConfig(),
) -> int:
    """Train a PRM on labelled steps, from the weights of a language model.

    The defaults suit models of 1B parameters and above; for the lab policy use --learning-rate 1e-3 --batch-size 32.

    Parameters
    ----------
    labels
        A run directory of `forkpoint label`, or a file of labelled solutions.
    base
        The model to start from: `lab`, a model directory, or a hub id.
    out
        The directory of the PRM.
    """
    quiet_libraries()
    config = replace(config, format=label_format(labels, config.format))
    base = str(LAB_POLICY) if base == "lab" else base
    with TrainProgress() as progress:
        report = train_prm(labels, base, out, config, progress)
    out_console.print(
        f"trained on {report.num_rows:,} solutions with {report.num_steps_labelled:,} step labels; "
        f"refused {report.num_refused:,} {report.refusals or ''}; last loss {report.loss:.4f}; PRM at {out}",
        highlight=False,
    )
    return 0


@app.command
def score(prm: Path, file: Path, *, out: Path, aggregate: Aggregate | None = None, device: Device = "auto") -> int:
    """Score the steps of solutions: JSON lines with `question` and `steps` (or `solution`, cut at line ends).

    Each line is written back with `step_scores` and `score`. Nothing is written unless every line can be scored.

    Parameters
    ----------
    prm
        A directory made by `forkpoint train`.
    file
        The solutions.
    out
        Where the scored lines go.
    aggregate
        What makes one score of the steps' (last, min, prod, mean); without it, what the PRM was saved with.
    """
    quiet_libraries()
    scorer = load_prm(prm, device)
    rows = score_rows(read_solutions(file), scorer, aggregate or scorer.format.aggregate, scorer.format.segmentation)
    write_lines(out, rows)
    out_console.print(f"scored {len(rows):,} solutions, {sum(len(row['step_scores']) for row in rows):,} steps: {out}", highlight=False)
    return 0


@app.command
def evaluate(
    problems: str,
    *,
    policy: str = "lab",
    prm: Path | None = None,
    out: Path,
    threshold_problems: str | None = None,
    labels: Path | None = None,
    prefixes: Annotated[PrefixConfig, Parameter(name="prefixes")] = PrefixConfig(),
    config: Annotated[EvaluateConfig, Flat] = EvaluateConfig(),
    tree: Annotated[TreeConfig, Parameter(name="tree")] = TreeConfig(),
    batch_size: int = 64,
    template: str | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> int:
    """Measure greedy, majority, best-of-N and oracle accuracy against sampled tokens, for HT samples and EDU trees.

    Parameters
    ----------
    problems
        As for `forkpoint label`.
    policy
        `lab`, a model directory, or a hub id.
    prm
        A directory made by `forkpoint train`; without it nothing is scored.
    out
        The run directory; gets results.json and report.html.
    threshold_problems
        Lab problems that choose the first-error threshold, such as lab:valid?num=200; lab problems only.
    labels
        A run directory of `forkpoint label` whose labels are held against many rollouts of the same prefixes.
    batch_size
        Problems that are worked on side by side.
    template
        The prompt with {question} in it.
    """
    quiet_libraries()
    loaded = load_policy(policy, device=device, dtype=dtype, batch_size=batch_size, template=template)
    scorer = load_prm(prm, device) if prm else None
    tree = replace(tree, num_leaves=config.num_samples, max_tokens=config.max_tokens)
    started = time.monotonic()
    evaluation = evaluate_policy(
        load_problems(problems),
        loaded,
        out / "evaluate",
        config,
        tree,
        LocalExecutor(chunk_size=batch_size),
        scorer,
        scorer.format if scorer else None,
        threshold_problems=load_problems(threshold_problems) if threshold_problems else (),
        on_stage=say,
    )
    executor = LocalExecutor(chunk_size=batch_size)
    truth = measure_labels(labels, loaded, out / "truth", prefixes, executor, config.max_tokens) if labels else None
    resolved = {"problems": problems, "policy": policy, "prm": str(prm) if prm else None, "evaluate": asdict(config), "tree": asdict(tree)}
    results = write_results(out, evaluation, resolved, loaded, {"evaluate": round(time.monotonic() - started, 1)}, truth)
    _print_results(results)
    out_console.print(f"Written: {out / 'results.json'}, {write_report(out)}", highlight=False, soft_wrap=True)
    return 0


@app.command
def report(directory: Path) -> int:
    """Write DIRECTORY/report.html from DIRECTORY/results.json: one file, no network.

    Parameters
    ----------
    directory
        What `forkpoint demo` or `forkpoint evaluate` wrote.
    """
    out_console.print(str(write_report(directory)), highlight=False, soft_wrap=True)
    return 0


@app.command
def grade(file: Path, *, grader: str = "math", out: Path | None = None) -> int:
    """Grade JSON lines with `reference` and `prediction`, and print the counts.

    Parameters
    ----------
    file
        The answers; a line may name its own `grader`.
    grader
        numeric, math, exact, choice, or module:function of your own.
    out
        Where each verdict goes, as JSON lines.
    """
    counts = grade_file(file, grader, out)
    table = Table(title=str(file), show_header=False)
    for name, value in asdict(counts).items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    out_console.print(table)
    return 0


@lab_app.command
def show(problems: str = "lab:test?num=3") -> int:
    """Print lab problems with their right solutions.

    Parameters
    ----------
    problems
        lab:train, lab:valid, lab:test, lab:easy, lab:hard, with ?num=..&seed=..&level=..
    """
    for problem in load_problems(problems):
        out_console.print(f"[{problem.id}]", style="dim", markup=False)
        out_console.print(f"{problem.question}\n{lab_story(problem.id).solution}\n", highlight=False, markup=False)
    return 0


@lab_app.command
def check(policy: str = "lab", *, config: Annotated[CheckConfig, Flat] = CheckConfig(), batch_size: int = 64) -> int:
    """Measure a policy on lab problems: greedy, sampled, majority and oracle accuracy, and its anchors.

    Parameters
    ----------
    policy
        `lab`, a model directory, or a hub id.
    batch_size
        Sequences decoded side by side.
    """
    quiet_libraries()
    result = check_policy(load_policy(policy, batch_size=batch_size), config, say)
    table = Table("", "mean", "95 % interval", "problems", title=f"{policy} on {config.problems}")
    for name in ("greedy", "sampled", "majority", "oracle", "anchors"):
        estimate = getattr(result, name)
        table.add_row(name, f"{estimate.mean:.3f}", f"{estimate.low:.3f} .. {estimate.high:.3f}", str(estimate.num_problems))
    out_console.print(table)
    out_console.print(f"first errors of greedy solutions: {result.first_errors}", highlight=False)
    return 0


def quiet_libraries() -> None:
    """Keep transformers' own progress bars off the terminal; ours say how far the work is."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]


def say(stage: str) -> None:
    """Tell what is being done, on stderr."""
    err_console.print(f"· {stage}", highlight=False)


class TrainProgress:
    """A bar for optimiser steps; on a stream that is no terminal, a line every tenth of the way."""

    def __init__(self) -> None:
        columns = [
            TextColumn("train  loss {task.fields[loss]:.3f}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        ]
        self._bar = Progress(*columns, console=err_console, disable=not err_console.is_terminal)
        self._task = self._bar.add_task("", total=None, loss=float("nan"), visible=False)
        self._next_share = 0.1

    def __enter__(self) -> TrainProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, num_done: int, num_steps: int, loss: float) -> None:
        self._bar.update(self._task, completed=num_done, total=num_steps, loss=loss, visible=num_done < num_steps)
        if not err_console.is_terminal and num_done >= self._next_share * num_steps:
            err_console.print(f"train: {num_done}/{num_steps} steps, loss {loss:.3f}", highlight=False)
            self._next_share += 0.1


def _print_results(results: dict[str, Any]) -> None:
    largest = max(row["n"] for row in results["rows"])
    table = Table("sampler", "pick", "n", "accuracy", "95 % interval", "tokens/problem", title="accuracy on held-out problems")
    for row in results["rows"]:
        if row["select"] == "greedy" or (row["n"] == largest and row["aggregate"] in (None, "min")):
            sampler = "greedy" if row["select"] == "greedy" else f"HT T={row['temperature']:g}" if row["sampler"] == "ht" else "EDU tree"
            pick = row["select"] + (f" ({row['aggregate']})" if row["aggregate"] else "")
            table.add_row(
                sampler, pick, str(row["n"]), f"{row['accuracy']:.3f}", f"{row['ci_low']:.3f} .. {row['ci_high']:.3f}",
                f"{row['sampled_tokens_per_problem']:.0f}",
            )  # fmt: skip
    out_console.print(table)
    for item in results["comparisons"]:
        interval = f"{item['ci_low']:+.3f} .. {item['ci_high']:+.3f}"
        out_console.print(f"{item['name']}: {item['difference']:+.3f} ({interval}), tokens x {item['token_ratio']:.2f}", highlight=False)
    if results["label_quality"]:
        for weighting, found in results["label_quality"]["by_weighting"].items():
            out_console.print(
                f"labels ({weighting} leaves) against true values: mean absolute error {found['mae']:.3f}, bias {found['bias']:+.3f}, "
                f"rank correlation {found['correlation']:.2f}, {found['num_labels']} prefixes",
                highlight=False,
            )
    if results["first_error"]:
        found = results["first_error"]
        out_console.print(
            f"first wrong step: F1 {found['f1']:.3f} (on wrong {found['acc_error']:.3f}, on right {found['acc_correct']:.3f}), "
            f"threshold {found['threshold']:.2f}, {found['num_solutions']} solutions",
            highlight=False,
        )


def main(argv: list[str] | None = None) -> None:
    """Run the command line; bad input ends with one sentence on stderr and status 2."""
    try:
        sys.exit(app(argv, result_action="return_value"))
    except KeyboardInterrupt:
        err_console.print("interrupted; run the same command again to continue")
        sys.exit(130)
    except (ForkpointError, ValueError, TypeError, OSError) as error:
        err_console.print(f"forkpoint: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
