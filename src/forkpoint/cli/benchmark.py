"""`forkpoint benchmark`: public benchmarks of any PRM."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table

from forkpoint import formats
from forkpoint.checkpoint import Device
from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import err_console, out_console, quiet_libraries
from forkpoint.prm_benchmarks.best_of_n import BestOfNConfig
from forkpoint.prm_benchmarks.best_of_n import best_of_n as measure_best_of_n
from forkpoint.prm_benchmarks.calibration import CalibrationConfig
from forkpoint.prm_benchmarks.calibration import calibration as measure_calibration
from forkpoint.prm_benchmarks.candidates import CUT_OF, CandidateColumns, read_candidates
from forkpoint.prm_benchmarks.prmbench import PRMBenchConfig, read_processes
from forkpoint.prm_benchmarks.prmbench import prmbench as measure_prmbench
from forkpoint.prm_benchmarks.processbench import ProcessBenchConfig, counts_from_one, read_subsets
from forkpoint.prm_benchmarks.processbench import processbench as measure_processbench
from forkpoint.prm_benchmarks.results import RESULTS
from forkpoint.prms.config import FamilyConfig

benchmark_app = App(
    name="benchmark", help="Public benchmarks for any process reward model, trained here or elsewhere."
)
app.command(benchmark_app)


@benchmark_app.command
def processbench(
    prm: str,
    *files: str,
    out: Path,
    config: Annotated[ProcessBenchConfig, Flat] = ProcessBenchConfig(),
    read: tuple[str, ...] = (),
    skip_bad_rows: bool = False,
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    device: Device = "auto",
) -> int:
    """Find the first wrong step: F1 of ProcessBench, with a threshold that one subset chooses.

    If the command is killed, the same command continues. OUT/results.json has the figures, OUT/scores the
    journaled step scores.

    Parameters
    ----------
    prm
        A directory made by `forkpoint train`, a public PRM (a directory or a hub id), or the address of a
        `forkpoint serve`.
    files
        Subsets such as gsm8k.json and math.json, or hub:Qwen/ProcessBench?split=gsm8k; files of Mr-Ben and
        MR-MATH are recognised.
    out
        Directory for the results; use one directory per PRM.
    read
        Options for reading, KEY=VALUE each: separator='\\n' is the text between steps.
    skip_bad_rows
        Leave out rows that do not fit their format, saying which.
    """
    quiet_libraries()
    subsets = read_subsets(
        files,
        on_bad_row=partial(err_console.print, highlight=False, markup=False, soft_wrap=True)
        if skip_bad_rows
        else None,
        **formats.parse_options("processbench", "read", read),
    )
    for name, solutions in subsets.items():
        if counts_from_one(solutions):
            err_console.print(
                f"warning: no solution in {name} is wrong in its first step, so its labels may count from 1 "
                "instead of 0; if they do, subtract 1 from all but -1",
                style="yellow",
                highlight=False,
                soft_wrap=True,
            )
    results = measure_processbench(family.load(prm, device), subsets, out, config)
    origin = f"best on {results['threshold_from']}" if results["threshold_from"] else "given"
    table = Table(
        "",
        "F1",
        "on wrong",
        "on right",
        "solutions",
        "upper bound",
        title=f"ProcessBench, threshold {results['threshold']:.3f} ({origin})",
    )
    for row in results["subsets"]:
        name = f"{row['name']} (chose the threshold)" if row["chose_threshold"] else row["name"]
        table.add_row(
            name, _interval(row["f1"]),
            _number(row["acc_error"]["value"]), _number(row["acc_correct"]["value"]),
            f"{row['num_solutions']:,}", _number(row["upper_bound"]["f1"]),
        )  # fmt: skip
    table.add_row("mean", _interval(results["mean_f1"]), "", "", "", _number(results["upper_bound_mean_f1"]))
    if results["held_out_mean_f1"] and results["threshold_from"]:
        table.add_row("mean of the others", _interval(results["held_out_mean_f1"]), "", "", "", "")
    return _show(table, results, out)


@benchmark_app.command
def prmbench(
    prm: str,
    *files: str,
    out: Path,
    config: Annotated[PRMBenchConfig, Flat] = PRMBenchConfig(),
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    device: Device = "auto",
) -> int:
    """Tell right steps from wrong ones: PRMScore of PRMBench, overall, by category and by class.

    If the command is killed, the same command continues. OUT/results.json has the figures, OUT/scores the
    journaled step scores.

    Parameters
    ----------
    prm
        A directory made by `forkpoint train`, a public PRM (a directory or a hub id), or the address of a
        `forkpoint serve`.
    files
        PRMBench rows: .jsonl, .json, .parquet, or hub:OWNER/NAME?split=NAME.
    out
        Directory for the results; use one directory per PRM.
    """
    quiet_libraries()
    results = measure_prmbench(family.load(prm, device), read_processes(files), out, config)
    table = Table(
        "",
        "PRMScore",
        "F1",
        "negative F1",
        "processes",
        "steps",
        "wrong",
        title=f"PRMBench, threshold {config.threshold:g}",
    )
    for row in results["classes"]:
        table.add_row(
            row["name"], _interval(row["prm_score"]), f"{row['f1']:.3f}", f"{row['negative_f1']:.3f}",
            f"{row['num_processes']:,}", f"{row['num_steps']:,}", f"{row['num_wrong_steps']:,}",
        )  # fmt: skip
    for row in results["categories"]:
        table.add_row(row["name"], _interval(row["prm_score"]))
    table.add_row("overall", _interval(results["overall"]["prm_score"]))
    return _show(table, results, out)


@benchmark_app.command(name="best-of-n")
def best_of_n(
    file: str,
    *,
    out: Path,
    prm: str | None = None,
    columns: Annotated[CandidateColumns, Flat] = CandidateColumns(),
    config: Annotated[BestOfNConfig, Flat] = BestOfNConfig(),
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    device: Device = "auto",
) -> int:
    """Pick one of N candidates: majority, best score, weighted vote and oracle, from a file of candidates.

    The scores are the PRM's, or with --scores the file's own; without either, only majority and oracle are
    measured. If the command is killed, the same command continues. OUT/results.json has the figures,
    OUT/scores the journaled step scores.

    Parameters
    ----------
    file
        Problems with candidates: .jsonl, .json, .parquet, or hub:OWNER/NAME?split=NAME.
    out
        Directory for the results; use one directory per PRM.
    prm
        A directory made by `forkpoint train`, a public PRM (a directory or a hub id), or the address of a
        `forkpoint serve`.
    """
    candidates, scorer = read_candidates(file, columns), None
    if prm is not None:
        quiet_libraries()
        scorer = family.load(prm, device)
        config = replace(config, cut=config.cut or CUT_OF.get(scorer.format.segmentation))
    results = measure_best_of_n(candidates, out, scorer, config)
    largest = max(row["n"] for row in results["rows"])
    gains = {
        (row["select"], row["aggregate"]): row["gain"] for row in results["gains"] if row["n"] == largest
    }
    title = f"best of {largest}, {results['num_problems']:,} problems"
    table = Table("pick", "aggregate", "accuracy", "minus majority", title=title)
    for row in (row for row in results["rows"] if row["n"] == largest):
        gain = gains.get((row["select"], row["aggregate"]))
        table.add_row(
            row["select"],
            row["aggregate"] or "",
            _interval(row["accuracy"]),
            _interval(gain, "+") if gain else "",
        )
    if candidates.unread:
        err_console.print(candidates.unread.message(), highlight=False, markup=False, soft_wrap=True)
    return _show(table, results, out)


@benchmark_app.command
def calibration(
    prm: str,
    file: str,
    *,
    out: Path,
    from_: Annotated[str, Parameter(name="--from")] = "forkpoint",
    read: tuple[str, ...] = (),
    config: Annotated[CalibrationConfig, Flat] = CalibrationConfig(),
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    device: Device = "auto",
) -> int:
    """Compare step scores with step labels: calibration error, Brier score, reliability curve.

    If the command is killed, the same command continues. OUT/results.json has the figures, OUT/scores the
    journaled step scores.

    Parameters
    ----------
    prm
        A directory made by `forkpoint train`, a public PRM (a directory or a hub id), or the address of a
        `forkpoint serve`.
    file
        Labelled steps: .jsonl, .json, .parquet, a run directory of `forkpoint label`, or
        hub:OWNER/NAME?split=NAME.
    out
        Directory for the results; use one directory per PRM.
    from_
        Format of the file, as for `forkpoint convert`: forkpoint, math-shepherd, openrlhf, er-prm, rlhflow,
        trl, prm800k, processbench, mr-ben, mr-math.
    read
        Options for reading, KEY=VALUE each, such as neutral=positive for prm800k.
    """
    quiet_libraries()
    solutions = list(formats.read(file, from_, **formats.parse_options(from_, "read", read)))
    results = measure_calibration(family.load(prm, device), solutions, out, config)
    title = (
        f"calibration: ECE {_interval(results['ece'])}, Brier {_interval(results['brier'])}, "
        f"{results['num_steps']:,} steps"
    )
    table = Table("score", "steps", "mean score", "mean label", title=title)
    for row in results["reliability"]:
        span = f"{row['from']:.2f} .. {row['to']:.2f}"
        table.add_row(span, f"{row['num_steps']:,}", f"{row['mean_score']:.3f}", _interval(row["mean_label"]))
    return _show(table, results, out)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _interval(measured: dict[str, Any], sign: str = "") -> str:
    if measured["value"] is None:
        return "undefined"
    return f"{measured['value']:{sign}.3f} ({measured['low']:{sign}.3f} .. {measured['high']:{sign}.3f})"


def _show(table: Table, results: dict[str, Any], out: Path) -> int:
    """Print the table, the refused solutions, and the path of the results."""
    out_console.print(table)
    refused = results["refused"]
    if refused and refused["num"]:
        err_console.print(
            f"{refused['num']:,} solutions were refused: {refused['reasons'][0]}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    out_console.print(f"Written: {out / RESULTS}", highlight=False, soft_wrap=True)
    return 0
