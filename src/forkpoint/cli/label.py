"""`forkpoint label` and `forkpoint relabel`: outcomes, and the labels derived from them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import SearchProgress, err_console, out_console, quiet_libraries
from forkpoint.cli.steering import steering_of
from forkpoint.formats.labels_file import LABELS
from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import LeafPlan
from forkpoint.labels.plan import Plan, Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems, relabel
from forkpoint.labels.values import PlanName, product_named
from forkpoint.policies.config import PolicyConfig
from forkpoint.prms.config import FamilyConfig
from forkpoint.problems import load_problems
from forkpoint.runs.config import WorkersConfig
from forkpoint.trees.ahead import MAX_WASTE
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import SteeringConfig


@app.command
def label(
    problems: str,
    *,
    out: Path,
    method: str | None = None,
    plan: PlanName = "leaves",
    tree: Annotated[TreeConfig, Flat] = TreeConfig(),
    labels: Annotated[LabelConfig, Flat] = LabelConfig(),
    rollouts: Annotated[RolloutPlan, Flat] = RolloutPlan(),
    bisect: Annotated[BisectPlan, Parameter(name="bisect")] = BisectPlan(),
    prm: str | None = None,
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    search: Annotated[SteeringConfig, Parameter(name="search")] = SteeringConfig(),
    seed: int = 0,
    max_waste: float = MAX_WASTE,
    policy: Annotated[PolicyConfig, Flat] = PolicyConfig(),
    workers: Annotated[WorkersConfig, Flat] = WorkersConfig(),
) -> int:
    """Sample solutions of every problem, grade them, and label their steps.

    If the command is killed, the same command continues. OUT/journal.jsonl holds the raw outcomes,
    OUT/labels.jsonl the labels; `forkpoint relabel` derives other labels from the same outcomes.

    Parameters
    ----------
    problems
        Source of the problems: lab:train?num=500&seed=0, lab-shuffle:train?num=500, gsm8k:FILE.jsonl,
        math:FILE.jsonl, jsonl:FILE?question=Q&answer=A, parquet:..., hub:OWNER/NAME?split=...
    out
        The run directory.
    method
        A published label, which sets the plan and the value: edu, er, shepherd-hard, shepherd-soft, omega,
        orm.
    plan
        Source of the outcomes below a step: leaves of an EDU tree, rollouts of its prefix, or rollouts by
        bisection.
    prm
        A PRM that steers trees (P-EDU: --search.prune-below 0.2; --search.expand mcts): a directory, a hub
        id, or the address of a `forkpoint serve`.
    seed
        Seed of rollouts and sampled solutions; trees are greedy.
    max_waste
        Largest share of tokens that trees may waste on forks that are grown before it is sure that they are
        needed, when rows would be empty otherwise. It changes neither trees nor labels.
    """
    quiet_libraries()
    if method is not None:
        product = product_named(method)
        plan, labels = product.plan, replace(labels, value=method)
    if (
        policy.engine == "vllm"
        and workers.ray is not None
        and policy.tensor_parallel > workers.gpus_per_worker
    ):
        raise ValueError(
            f"tensor_parallel {policy.tensor_parallel} needs {policy.tensor_parallel} GPUs in each worker, "
            f"which have {workers.gpus_per_worker:g}; "
            f"give --gpus-per-worker {policy.tensor_parallel}"
        )
    plans: dict[PlanName, Plan[Any]] = {"leaves": LeafPlan(), "rollouts": rollouts, "bisect": bisect}
    with workers.executor(policy.batch_size) as executor:
        summary = label_problems(
            load_problems(problems),
            policy.load(),
            out,
            tree,
            labels,
            executor,
            Sampling(
                plans[plan],
                seed,
                steering_of(search, family.load(prm, policy.device) if prm else None),
                SearchProgress(),
                max_waste,
            ),
        )
    table = Table(title=f"labelled: {out}", show_header=False)
    for name, value in asdict(summary).items():
        if name != "cost":
            table.add_row(name, f"{value:g}" if isinstance(value, float) else f"{value:,}")
    for name, value in asdict(summary.cost).items():
        table.add_row(name, f"{value:,}")
    out_console.print(table)
    for warning in summary.warnings:
        err_console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
    if summary.num_failed:
        err_console.print(
            f"{summary.num_failed} problems failed, see {out / 'failures.jsonl'}; "
            "run the same command to try them again"
        )
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
    """Derive labels of other values from the outcomes of a label run, in seconds and without the policy.

    Parameters
    ----------
    run
        A run directory of `forkpoint label`.
    values
        Several values at once, such as --values er:0.1 --values er:2 --values hit; OUT is then a directory
        that gets one VALUE.jsonl each.
    num_rollouts
        Use only the first completions of each prefix, up to this number; by default, all.
    out
        The file of labels (with --values, the directory); by default, RUN/labels.jsonl is replaced.
    """
    if values and out is None:
        raise ValueError("--values writes one file per value; give their directory with --out DIRECTORY")
    configs = [(labels, out or run / LABELS)]
    if values and out is not None:
        out.mkdir(parents=True, exist_ok=True)
        named = [replace(labels, value=value, eta=None) for value in values]
        configs = [(config, out / f"{config.canonical_value.replace(':', '-')}.jsonl") for config in named]

    def tell(warning: str) -> None:
        err_console.print(warning, highlight=False, soft_wrap=True)

    for (config, path), num_labels in zip(configs, relabel(run, configs, num_rollouts, tell), strict=True):
        out_console.print(
            f"{num_labels:,} labels of value {config.canonical_value}: {path}",
            highlight=False,
            soft_wrap=True,
        )
    return 0
