"""Does the demo's headline hold on every machine? Its PRM, trained with several seeds under several kernels.

    python recipes/demo_seeds.py --out runs/demo-seeds                # 24 trainings: an hour on 2 cores
    python recipes/demo_seeds.py --out runs/demo-seeds --arm tags     # the demo's former training
    python recipes/demo_seeds.py --out runs/demo-seeds --table        # only the table of what is there

Training sums floats in another order on another processor. The kernels of three kinds of processors are
chosen by environment variables (ATEN_CPU_CAPABILITY and others), in a process of its own each; what a
processor lacks is left to torch. Every seed has its own problems, trees and samples, which do not depend on
the kernels and are made once; from them every kernel trains and scores. After a kill at any moment, the same
command continues. The figures are those of `forkpoint demo --seed S`, and the accuracy of the same PRM on the
problems of seed 0, on which PRMs of all seeds can be compared. The settings of the training were chosen on
problems of the seeds 0 to 7, so the figures to rely on are those of the seeds from 8 on.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np

from forkpoint.checks import check_choice
from forkpoint.estimates import bootstrap
from forkpoint.evaluation.first_errors import choose_threshold, first_error
from forkpoint.evaluation.metrics import Attempts, CurvePoint, curve
from forkpoint.evaluation.run import EDU, Evaluator, Judge, Sampler, SolutionSources
from forkpoint.experiments.demo import DemoConfig
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.run import label_problems
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.prms import load_prm
from forkpoint.runs import LocalExecutor, Run
from forkpoint.runs.durable import replace_file
from forkpoint.training.config import TrainConfig
from forkpoint.training.prm import train_prm

KERNELS: dict[str, dict[str, str]] = {
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "OMP_NUM_THREADS": "1"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"},
    "native": {"OMP_NUM_THREADS": "2"},
}
"""Environment variables that choose the kernels of torch, and the number of threads; native is the
processor's best."""
SEEDS = {"0": range(1), "1 to 7": range(1, 8), "from 8": range(8, 1000)}
PICKS = {
    "ht majority": "majority of 16 samples",
    "ht best": "best of 16 samples",
    "ht weighted": "weighted vote of 16 samples",
    "edu best": "best leaf of a tree",
    "edu policy-weighted": "vote of a tree (the default)",
}
HT = Sampler("ht", 0.7)
NUM_THRESHOLD_SAMPLES = 4
AGGREGATE = "min"
QUIET = LocalExecutor(chunk_size=128, progress=False)
RESULTS = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class SeedsConfig:
    """What is trained."""

    seeds: Annotated[tuple[int, ...], cyclopts.Parameter(consume_multiple=True)] = (0, *range(8, 15))
    """Seeds of the demo; 0 is what `forkpoint demo` shows."""
    kernels: Annotated[tuple[str, ...], cyclopts.Parameter(consume_multiple=True)] = tuple(KERNELS)
    """Kernels, among default, avx2 and native."""
    arm: str = "demo"
    """demo: the demo's training. tags: as it was before, with a step tag behind every step, and the usual
    beta2 and dropout. line-ends: only the step tags differ from that. adam: only beta2 and dropout do."""
    processes: int = 2
    """Trainings at a time."""


def main(
    out: Path,
    config: Annotated[SeedsConfig, cyclopts.Parameter(name="*")] = SeedsConfig(),
    *,
    one: tuple[int, str] | None = None,
    prepare: int | None = None,
    table: bool = False,
) -> None:
    """Train, measure, and write the results.

    Parameters
    ----------
    out
        Directory of all runs.
    one
        Seed and kernel of one training in this process; its kernel must have been chosen already.
    prepare
        Seed whose problems are labelled and sampled in this process.
    table
        Only write the results and print the table.
    """
    if prepare is not None:
        make_stock(out, prepare)
        return
    if one is not None:
        measure(out, config.arm, *one)
        return
    if not table:
        arguments = [str(out), "--arm", config.arm]
        in_parallel(
            [(["--prepare", str(seed)], {"OMP_NUM_THREADS": "1"}) for seed in sorted({0, *config.seeds})],
            [str(out)],
            config.processes,
        )
        jobs = [
            (["--one", str(seed), kernel], KERNELS[kernel])
            for seed in config.seeds
            for kernel in config.kernels
            if not result_file(out, config.arm, seed, kernel).exists()
        ]
        in_parallel(jobs, arguments, config.processes)
    rows = [json.loads(path.read_text()) for path in sorted((out / "results").glob("*.json"))]
    write(RESULTS, {"machine": machine(), "rows": rows})
    print(markdown(rows))


def in_parallel(
    jobs: Sequence[tuple[list[str], dict[str, str]]], arguments: Sequence[str], processes: int
) -> None:
    """Run this file once per job, with its environment; SystemExit if a job fails."""

    def run(job: tuple[list[str], dict[str, str]]) -> int:
        flags, environment = job
        command = [sys.executable, __file__, *arguments, *flags]
        return subprocess.run(command, env={**os.environ, **environment}, check=False).returncode

    with ThreadPoolExecutor(processes) as pool:
        if any(pool.map(run, jobs)):
            raise SystemExit("a training failed; run the same command again")


def result_file(out: Path, arm: str, seed: int, kernel: str) -> Path:
    """The file with the figures of one training."""
    return out / "results" / f"{arm}-{seed}-{kernel}.json"


def make_stock(out: Path, seed: int) -> None:
    """Label and sample the problems of a seed."""
    demo, policy, stock = DemoConfig(seed=seed), load_policy("lab"), out / f"seed-{seed}"
    label_problems(demo.problems("train"), policy, stock / "label", demo.label_tree, LabelConfig(), QUIET)
    with Run.open(stock / "solutions", "solutions", {"demo": asdict(demo)}) as run:
        evaluator = evaluator_of(demo, run)
        keys = {
            "ht": evaluator.sample(demo.problems("test"), HT, demo.num_samples),
            "edu": evaluator.sample(demo.problems("test"), EDU, demo.num_samples),
            "valid": evaluator.sample(demo.problems("valid"), HT, NUM_THRESHOLD_SAMPLES),
        }
    write(stock / "keys.json", keys)


def evaluator_of(demo: DemoConfig, run: Run) -> Evaluator:
    return Evaluator(load_policy("lab"), run, QUIET, SolutionSources(demo.evaluation, demo.tree))


def measure(out: Path, arm: str, seed: int, kernel: str) -> None:
    """Train one PRM, score the solutions of its seed and of the first one, and write the figures."""
    demo, stock, work = DemoConfig(seed=seed), out / f"seed-{seed}", out / "prms" / f"{arm}-{seed}-{kernel}"
    started = time.monotonic()
    report = train_prm(stock / "label", str(LAB_POLICY), work / "prm", of_arm(arm, demo, stock / "label"))
    seconds = time.monotonic() - started
    judge = Judge(prm := load_prm(work / "prm"), prm.format)
    found: dict[str, Any] = {}
    for name, which in (("own", seed), ("first", 0)):
        with solutions(out / f"seed-{which}", work / name) as run:
            evaluator = evaluator_of(DemoConfig(seed=which), run)
            keys = json.loads((out / f"seed-{which}" / "keys.json").read_text())
            samples, trees = (evaluator.attempts(keys[kind], judge) for kind in ("ht", "edu"))
            found[name] = figures(samples, trees, demo.num_samples)
            if name == "own":
                threshold = choose_threshold(*evaluator.first_errors(keys["valid"], judge))
                found["first_error"] = asdict(
                    first_error(*evaluator.first_errors(keys["ht"], judge), threshold)
                )
    row = {
        "arm": arm,
        "seed": seed,
        "kernel": kernel,
        "threads": KERNELS[kernel]["OMP_NUM_THREADS"],
        "loss": report.loss,
        "held_out": asdict(report.held_out) if report.held_out else None,
        "train_seconds": round(seconds, 1),
        **found,
    }
    path = result_file(out, arm, seed, kernel)
    path.parent.mkdir(exist_ok=True)
    write(path, row)
    print(f"{arm} seed {seed} {kernel}: {row['own']['ht best']['accuracy']:.3f}, {seconds:.0f} s", flush=True)


def of_arm(arm: str, demo: DemoConfig, labels: Path) -> TrainConfig:
    """The settings of an arm's trainings. ValueError if there is no such arm."""
    config = demo.training(labels)
    check_choice("arm", arm, ("demo", "tags", "line-ends", "adam"))
    if arm in ("tags", "adam"):
        config = replace(config, format=replace(config.format, tag=" ки", replaces_line_end=False))
    if arm in ("tags", "line-ends"):
        config = replace(config, adam_beta2=0.999, head_dropout=None)
    return config


def solutions(stock: Path, work: Path) -> Run:
    """A run of its own with the solutions of a seed, for the scores of one PRM."""
    if not (work / "config.json").exists():
        shutil.rmtree(work, ignore_errors=True)
        partial = work.with_name(f"{work.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(stock / "solutions", partial, ignore=shutil.ignore_patterns("lock"))
        partial.rename(work)
    with Run.read(work) as run:
        config = run.config
    return Run.open(work, "solutions", config)


def figures(samples: Sequence[Attempts], trees: Sequence[Attempts], num: int) -> dict[str, Any]:
    """Accuracy of every way to pick, and its paired difference from the majority of the samples."""
    points = {
        f"{kind} {point.select}": point
        for kind, attempts, is_exchangeable in (("ht", samples, True), ("edu", trees, False))
        for point in curve(attempts, [num], is_exchangeable)
        if point.aggregate in (None, AGGREGATE)
    }
    return {name: figure(point, points["ht majority"]) for name, point in points.items()}


def figure(point: CurvePoint, majority: CurvePoint) -> dict[str, float]:
    mean = bootstrap(point.accuracy_P)
    gain = bootstrap(np.subtract(point.accuracy_P, majority.accuracy_P))
    return {
        "accuracy": mean.mean,
        "low": mean.low,
        "high": mean.high,
        "num_problems": mean.num_problems,
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "tokens": float(point.tokens_P.mean()),
    }


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of the worst, the median and the best training, for every way to pick."""
    lines = [
        "| training | seeds | trainings | pick | worst | median | best | minus the majority: worst "
        "| median | best | mean of the seeds (95 %) | on the problems of seed 0 |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm, named in product(sorted({row["arm"] for row in rows}), SEEDS):
        of = [row for row in rows if row["arm"] == arm and row["seed"] in SEEDS[named]]
        if not of:
            continue
        start = f"| {arm} | {named} | {len(of)} "
        for pick, title in PICKS.items():
            own = spread([row["own"][pick]["accuracy"] for row in of])
            gain = spread([row["own"][pick]["gain"] for row in of], "+.3f")
            mean = over_seeds(of, pick)
            first = [row["first"][pick]["accuracy"] for row in of]
            lines.append(
                f"{start}| {title} | {own} | {gain} | {mean} | {min(first):.3f} .. {max(first):.3f} |"
            )
        f1 = spread([row["first_error"]["f1"] for row in of])
        lines.append(f"{start}| first-error F1 | {f1} | | | | | |")
    return "\n".join(lines)


def over_seeds(rows: Sequence[dict[str, Any]], pick: str) -> str:
    """The mean difference from the majority with its interval over seeds, which are independent."""
    seeds = sorted({row["seed"] for row in rows})
    if len(seeds) == 1:
        return ""
    mean = bootstrap(
        [np.mean([row["own"][pick]["gain"] for row in rows if row["seed"] == seed]) for seed in seeds]
    )
    return f"{mean.mean:+.3f} ({mean.low:+.3f} .. {mean.high:+.3f})"


def spread(values: Sequence[float], how: str = ".3f") -> str:
    """Three cells: the least, the median and the largest value."""
    return " | ".join(format(float(value), how) for value in (min(values), np.median(values), max(values)))


def write(path: Path, content: Any) -> None:
    replace_file(path, [json.dumps(content, indent=1).encode(), b"\n"])


def machine() -> str:
    """The processor, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    cyclopts.run(main)
