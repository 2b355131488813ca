"""The `forkpoint` command: the only file that reads argv; what it shows is in `console.py`.

Every flag, default and help text comes from the configuration dataclass of the stage that it configures.
Exit status: 0 done; 1 done in part (the message says what is owed); 2 bad input; 130 interrupted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from rich.table import Table

from forkpoint import __version__, formats
from forkpoint.bisect_plan import BisectPlan
from forkpoint.console import (
    SearchProgress,
    TrainProgress,
    err_console,
    out_console,
    print_raft,
    print_results,
    print_sweep,
    quiet_libraries,
    say,
)
from forkpoint.demo import DemoConfig, run_demo
from forkpoint.errors import ForkpointError
from forkpoint.evaluate_run import EvaluateConfig, evaluate_policy, write_results
from forkpoint.grade import grade_file
from forkpoint.lab.check import CheckConfig, check_policy
from forkpoint.lab.problem_set import lab_story
from forkpoint.label_config import LabelConfig
from forkpoint.label_run import LABELS, label_format, label_problems, relabel
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.prefix_values import PrefixConfig, measure_labels
from forkpoint.presets import preset_named, with_overrides
from forkpoint.prms import load_prm
from forkpoint.problems import load_problems
from forkpoint.raft import RaftConfig, raft
from forkpoint.records import Executor
from forkpoint.report import write_report
from forkpoint.rollout_plan import RolloutPlan
from forkpoint.runs import LocalExecutor, PoolExecutor, Run
from forkpoint.score import read_solutions, score_rows, write_lines
from forkpoint.select import Aggregate
from forkpoint.sweep import SweepConfig, run_sweep, variants_of
from forkpoint.train import TrainConfig, train_prm
from forkpoint.tree import TreeConfig
from forkpoint.tree_search import SearchConfig, Steering
from forkpoint.values import PlanName, product_named

if TYPE_CHECKING:
    from forkpoint.prms.tagged import TaggedPRM

app = App(name="forkpoint", version=__version__, help="Process reward models without annotators.")
lab_app = App(name="lab", help="The built-in problems with an exact step oracle, and their tiny policy.")
app.command(lab_app)

Flat = Parameter(name="*")
Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@app.command
def demo(
    *, out: Path = Path("runs/demo"), config: Annotated[DemoConfig, Flat] = DemoConfig(), batch_size: int = 128, workers: int = 2
) -> int:
    """Do it all with the shipped policy: grow trees, label, train a PRM, evaluate, write a report.

    Parameters
    ----------
    out
        Where everything goes; run again to continue or to look again.
    batch_size
        Problems that are worked on side by side.
    workers
        Processes that sample.
    """
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    with TrainProgress() as progress, executor_of(workers, batch_size) as executor:
        result = run_demo(out, config, executor, say, progress)
    report = write_report(out)
    print_results(result.results)
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
    method: str | None = None,
    plan: PlanName = "leaves",
    tree: Annotated[TreeConfig, Flat] = TreeConfig(),
    labels: Annotated[LabelConfig, Flat] = LabelConfig(),
    rollouts: Annotated[RolloutPlan, Flat] = RolloutPlan(),
    bisect: Annotated[BisectPlan, Parameter(name="bisect")] = BisectPlan(),
    prm: Path | None = None,
    search: Annotated[SearchConfig, Parameter(name="search")] = SearchConfig(),
    seed: int = 0,
    batch_size: int = 64,
    workers: int = 1,
    template: str | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> int:
    """Sample solutions of every problem, grade them, label their steps.

    Killed at any moment, the same command continues. OUT/journal.jsonl holds the raw outcomes, OUT/labels.jsonl the labels;
    `forkpoint relabel` derives other labels from the same outcomes.

    Parameters
    ----------
    problems
        lab:train?num=500&seed=0, gsm8k:FILE.jsonl, math:FILE.jsonl, jsonl:FILE?question=Q&answer=A, parquet:..., hub:OWNER/NAME?split=...
    policy
        `lab` (the shipped one), a model directory, or a hub id.
    out
        The run directory.
    method
        A published label: edu, er, shepherd-hard, shepherd-soft, omega, orm; sets the plan and the value.
    plan
        Where the outcomes under a step come from: leaves of an EDU tree, rollouts of its prefix, or rollouts by bisection.
    prm
        A directory made by `forkpoint train` that steers trees (P-EDU: --search.prune-below 0.2; --search.expand mcts).
    seed
        Of what is sampled (rollouts and the solutions they are for; trees are greedy).
    batch_size
        Problems, or prefixes, that are worked on side by side.
    workers
        Processes that sample, each with a policy of its own; on CPUs, one per core is fastest.
    template
        The prompt with {question} in it; without one the chat template, and without that the question and a line break.
    """
    quiet_libraries()
    if method is not None:
        product = product_named(method)
        plan, labels = product.plan, replace(labels, value=method)
    loaded = load_policy(policy, device=device, dtype=dtype, batch_size=batch_size, template=template)
    with executor_of(workers, batch_size) as executor:
        summary = label_problems(
            load_problems(problems),
            loaded,
            out,
            tree,
            labels,
            executor,
            plan={"leaves": None, "rollouts": rollouts, "bisect": bisect}[plan],
            seed=seed,
            on_round=SearchProgress(),
            steering=_steering(search, load_prm(prm, device) if prm else None),
        )
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


@app.command(name="relabel")
def relabel_command(
    run: Path,
    *,
    labels: Annotated[LabelConfig, Flat] = LabelConfig(),
    values: tuple[str, ...] = (),
    num_rollouts: int | None = None,
    out: Path | None = None,
) -> int:
    """Derive labels of other values from the outcomes of a label run, in seconds and without its policy.

    Parameters
    ----------
    run
        A run directory of `forkpoint label`.
    values
        Several at once, such as --values er:0.1 --values er:2 --values hit; OUT is then a directory of VALUE.jsonl files.
    num_rollouts
        Take the first so many completions of each prefix; without it, all.
    out
        The file of labels (with --values, the directory); without it RUN/labels.jsonl is replaced.
    """
    if values and out is None:
        raise ValueError("--values writes one file each; say where with --out DIRECTORY")
    configs = [(labels, out or run / LABELS)]
    if values and out is not None:
        out.mkdir(parents=True, exist_ok=True)
        named = [replace(labels, value=value, eta=None) for value in values]
        configs = [(config, out / f"{config.canonical_value.replace(':', '-')}.jsonl") for config in named]
    for (config, path), num_labels in zip(configs, relabel(run, configs, num_rollouts), strict=True):
        out_console.print(f"{num_labels:,} labels of value {config.canonical_value}: {path}", highlight=False, soft_wrap=True)
    return 0


@app.command
def train(
    labels: Path,
    *,
    base: str = "lab",
    out: Path,
    preset: str | None = None,
    config: Annotated[TrainConfig, Flat] = TrainConfig(),
) -> int:
    """Train a PRM on labelled steps, from the weights of a language model.

    The defaults suit models of 1B parameters and above; for the lab policy use --preset lab.

    Parameters
    ----------
    labels
        A run directory of `forkpoint label`, or a file of labelled solutions.
    base
        The model to start from: `lab`, a model directory, or a hub id.
    out
        The directory of the PRM.
    preset
        Training as in a paper: er-prm (arXiv 2412.11006) or edu-prm (arXiv 2503.22233); lab suits the shipped policy. Flags
        that differ from their defaults override it.
    """
    quiet_libraries()
    config = with_overrides(preset_named(preset), config) if preset else config
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
def convert(
    source: str,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    out: Path,
    to: str,
    read: tuple[str, ...] = (),
    write: tuple[str, ...] = (),
    skip_bad_rows: bool = False,
) -> int:
    """Turn step-labelled data of one format into another; see docs/formats.md.

    Parameters
    ----------
    source
        A file (.jsonl, .json, .parquet), a run directory of `forkpoint label`, or hub:OWNER/NAME?split=train.
    from_
        Its format: forkpoint, math-shepherd, openrlhf, er-prm, rlhflow, trl, prm800k, processbench.
    out
        The file to write; its suffix says jsonl, json or parquet.
    to
        The format to write.
    read
        Options of reading, KEY=VALUE each.
    write
        Options of writing, KEY=VALUE each, such as threshold=0.5 where soft labels become booleans.
    skip_bad_rows
        Leave rows out that cannot be read, and say which; without it the first one ends the command.
    """
    num_bad = 0

    def on_bad_row(reason: str) -> None:
        nonlocal num_bad
        num_bad += 1
        err_console.print(reason, highlight=False, markup=False, soft_wrap=True)

    rows = formats.read(source, from_, on_bad_row=on_bad_row if skip_bad_rows else None, **formats.parse_options(from_, "read", read))
    num_written = formats.write(out, to, rows, **formats.parse_options(to, "write", write))
    out_console.print(f"{num_written:,} solutions written, {num_bad:,} rows left out: {out}", highlight=False, soft_wrap=True)
    return 0


@app.command
def sweep(
    labels: Path,
    *,
    problems: str,
    values: tuple[str, ...] = ("mean",),
    learning_rates: tuple[float, ...] = (),
    base: str = "lab",
    policy: str = "lab",
    out: Path,
    preset: str | None = None,
    config: Annotated[SweepConfig, Flat] = SweepConfig(),
    train: Annotated[TrainConfig, Parameter(name="train")] = TrainConfig(),
    batch_size: int = 64,
    template: str | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> int:
    """Train one PRM per label value (or learning rate) from one label run, and compare them on the same samples.

    An eta sweep: --values mean --values er:0.1 --values er:2 --values er:10 --values hit --values outcome. The first is the
    reference of the paired differences.

    Parameters
    ----------
    labels
        A run directory of `forkpoint label`.
    problems
        Test problems, as for `forkpoint label`.
    values
        Label values: mean, hit, er:ETA, outcome.
    learning_rates
        Peak rates, each with every value; without any, that of the preset.
    base
        The model that PRMs start from.
    policy
        Whose samples are judged.
    out
        The directory of the sweep; gets sweep.json.
    preset
        As for `forkpoint train`.
    """
    quiet_libraries()
    training = with_overrides(preset_named(preset), train) if preset else train
    with Run.read(labels) as run:
        segmentation = run.config.get("segmentation", LabelConfig().segmentation)
    with TrainProgress() as progress:
        results = run_sweep(
            labels,
            variants_of(values, learning_rates, LabelConfig(segmentation=segmentation), training),
            str(LAB_POLICY) if base == "lab" else base,
            load_problems(problems),
            load_policy(policy, device=device, dtype=dtype, batch_size=batch_size, template=template),
            out,
            config,
            LocalExecutor(chunk_size=batch_size),
            say,
            progress,
        )
    print_sweep(results)
    out_console.print(f"Written: {out / 'sweep.json'}", highlight=False, soft_wrap=True)
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
    search: Annotated[SearchConfig, Parameter(name="search")] = SearchConfig(),
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
        steering=_steering(search, scorer),
    )
    executor = LocalExecutor(chunk_size=batch_size)
    truth = measure_labels(labels, loaded, out / "truth", prefixes, executor, config.max_tokens) if labels else None
    resolved = {"problems": problems, "policy": policy, "prm": str(prm) if prm else None, "evaluate": asdict(config), "tree": asdict(tree)}
    results = write_results(out, evaluation, resolved, loaded, {"evaluate": round(time.monotonic() - started, 1)}, truth)
    print_results(results)
    out_console.print(f"Written: {out / 'results.json'}, {write_report(out)}", highlight=False, soft_wrap=True)
    return 0


@app.command(name="raft")
def raft_command(
    problems: str,
    *,
    eval_problems: str,
    base: str = "lab",
    prm: Path | None = None,
    out: Path,
    config: Annotated[RaftConfig, Flat] = RaftConfig(),
    batch_size: int = 64,
    workers: int = 1,
    template: str | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> int:
    """Improve a policy on its own solutions: sample, keep the best by a PRM, fine-tune, evaluate, T times (RAFT).

    With --select outcome a random right solution is kept instead, as the baseline. Killed at any moment, the same command
    continues.

    Parameters
    ----------
    problems
        What is trained on, as for `forkpoint label`.
    eval_problems
        What every iteration is measured on; shares no question with the others.
    base
        The policy to start from: `lab`, a model directory, or a hub id.
    prm
        A directory made by `forkpoint train`; needed unless --select outcome.
    out
        The run directory; gets raft.json, and the policy of every iteration.
    batch_size
        Problems that are worked on side by side.
    workers
        Processes that sample.
    """
    quiet_libraries()
    load = partial(load_policy, device=device, dtype=dtype, batch_size=batch_size, template=template)
    scorer = load_prm(prm, device) if prm else None
    with TrainProgress() as progress, executor_of(workers, batch_size) as executor:
        found = raft(
            load_problems(problems),
            load_problems(eval_problems),
            base,
            out,
            config,
            executor,
            scorer,
            scorer.format if scorer else None,
            load=load,
            on_stage=say,
            on_step=progress,
        )
    print_raft(found, f"RAFT: {out}")
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


@contextmanager
def executor_of(num_workers: int, chunk_size: int) -> Iterator[Executor]:
    """Work in this process, or in worker processes that end with the context."""
    if num_workers == 1:
        yield LocalExecutor(chunk_size=chunk_size)
        return
    with PoolExecutor(num_workers=num_workers, chunk_size=chunk_size) as executor:
        yield executor


def _steering(search: SearchConfig, prm: TaggedPRM | None) -> Steering | None:
    """What the flags ask for; None for plain trees."""
    if search == SearchConfig():
        return None
    return Steering(search, prm, prm.format if prm else None, prm.num_tokens if prm else None)


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
