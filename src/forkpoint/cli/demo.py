"""`forkpoint demo`: all stages with the shipped policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import (
    TrainProgress,
    out_console,
    print_results,
    print_training,
    quiet_libraries,
    say,
)
from forkpoint.experiments.demo import DemoConfig, run_demo
from forkpoint.report import write_report
from forkpoint.runs.config import WorkersConfig


@app.command
def demo(
    *,
    out: Path = Path("runs/demo"),
    config: Annotated[DemoConfig, Flat] = DemoConfig(),
    batch_size: int = 128,
    workers: int = 2,
) -> int:
    """Run all stages with the shipped policy: grow trees, label, train a PRM, evaluate, write a report.

    As with `forkpoint train`, the status is 1 if the PRM scores held-out problems no better than a constant.

    Parameters
    ----------
    out
        Directory for all outputs; the same command continues an interrupted demo.
    batch_size
        Problems that are processed together.
    workers
        Number of processes that sample.
    """
    quiet_libraries()
    out.mkdir(parents=True, exist_ok=True)
    with TrainProgress() as progress, WorkersConfig(workers).executor(batch_size) as executor:
        result = run_demo(out, config, executor, say, progress)
    report = write_report(out)
    print_results(result.results)
    status = print_training(result.training, out / "prm")
    out_console.print(f"\nWritten: {out / 'results.json'}, {report}", highlight=False, soft_wrap=True)
    out_console.print(NEXT_STEPS, highlight=False, soft_wrap=True)
    return status


NEXT_STEPS = """
Next, with your own model and data (any transformers causal language model, a directory or a hub id):
  forkpoint label gsm8k:train.jsonl --policy DIR_OR_HUB_ID --anchors-per-solution 8 --out runs/labels
  forkpoint train runs/labels --base DIR_OR_HUB_ID --out runs/prm
  forkpoint evaluate gsm8k:test.jsonl --policy DIR_OR_HUB_ID --prm runs/prm --out runs/evaluation"""
