"""`forkpoint plan`: the cost of an experiment before it is run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import CycloptsError, Parameter
from rich.table import Table
from rich.text import Text

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import out_console
from forkpoint.planner.commands import Arguments
from forkpoint.planner.estimate import StageEstimate, estimate_recipe
from forkpoint.planner.hardware import GPUS, HardwareConfig
from forkpoint.planner.pilot import Pilot, read_pilot
from forkpoint.planner.recipe import read_recipe


@app.command
def plan(
    recipe: Path | None = None,
    *,
    out: Path = Path("OUT"),
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
    pilot: tuple[str, ...] = (),
    num_problems: int | None = None,
    hardware: Annotated[HardwareConfig, Flat] = HardwareConfig(),
    json_: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Estimate an experiment before it is run: tokens, FLOPs, memory, GPU hours, cost.

    Nothing is run, and no model is loaded. A recipe's means are assumptions; a pilot, which is the same
    command on a few problems, measures them. See docs/how-to/real_scale.md.

    Parameters
    ----------
    recipe
        The file of an experiment, such as recipes/real/edu_prm_qwen2.5_7b.toml. Without one, only a pilot is
        scaled up.
    out
        The directory that the experiment would write to.
    set_
        NAME=VALUE of a variable of the recipe.
    pilot
        With a recipe, STAGE=DIRECTORY of a finished run of that stage's command on fewer problems. Without a
        recipe, the run's directory.
    num_problems
        Without a recipe: number of problems that the pilot is scaled up to.
    json_
        Print all numbers, and their inputs, as JSON.
    """
    if recipe is None:
        if len(pilot) != 1 or num_problems is None or num_problems < 1 or set_:
            raise ValueError("give a recipe, or one --pilot DIRECTORY and --num-problems of at least 1")
        _show_pilot(read_pilot(Path(pilot[0])), num_problems, json_)
        return 0
    if num_problems is not None:
        raise ValueError("a recipe has its own numbers of problems; leave --num-problems out")
    found = read_recipe(recipe, out, set_)
    hardware = replace(hardware, gpu=hardware.gpu or found.gpu)
    pilots = dict(_named_pilot(text) for text in pilot)
    estimates = estimate_recipe(found, hardware, parsed, pilots)
    if json_:
        assumed = {
            "problems": {name: asdict(its) for name, its in found.problems.items()},
            "hardware": asdict(hardware),
        }
        facts = {
            "gpu": asdict(GPUS[hardware.gpu or found.gpu]),
            "models": {name: asdict(its) for name, its in found.models.items()},
        }
        measured = {name: _pilot_row(its) for name, its in pilots.items()}
        total = {
            key: sum(row[key] for row in map(_row, estimates))
            for key in ("flops", "hours", "gpu_hours", "cost")
        }
        report = {"title": found.title, "assumed": assumed, "facts": facts, "measured": measured}
        print(
            json.dumps(
                {**report, "stages": [_row(item) for item in estimates], "total": total},
                indent=1,
                ensure_ascii=False,
                allow_nan=False,
            )
        )
        return 0
    _show(found.title, estimates, hardware)
    return 0


def parsed(arguments: Sequence[str]) -> tuple[str, Arguments]:
    """Name and arguments of a `forkpoint` command line, which is not run. ValueError if it is invalid."""
    try:
        _, bound, _ = app.parse_args(list(arguments), print_error=False, exit_on_error=False)
    except CycloptsError as error:
        raise ValueError(f"'forkpoint {' '.join(arguments)}': {error}") from None
    bound.apply_defaults()
    return arguments[0], bound.arguments


def _named_pilot(text: str) -> tuple[str, Pilot]:
    name, equals, directory = text.partition("=")
    if not equals or not directory:
        raise ValueError(f"with a recipe, a pilot is STAGE=DIRECTORY; {text!r} was given")
    return name, read_pilot(Path(directory))


def _row(item: StageEstimate) -> dict[str, Any]:
    return {**asdict(item), "hours": item.hours, "gpu_hours": item.gpu_hours, "cost": item.cost}


def _show(title: str, estimates: Sequence[StageEstimate], hardware: HardwareConfig) -> None:
    tokens = Table(
        "stage", "sampled", "prefilled", "no reuse", "scored", "trained", title=Text(f"{title}: tokens")
    )
    hours = Table(
        "stage", "FLOPs", "GPUs", "hours", "GPU hours", "cost", title=Text(f"{title}: {hardware.gpu}")
    )
    for item in estimates:
        prompts, computed = (
            item.sampled.prompt_tokens,
            item.sampled.prompt_tokens - item.sampled.reused_tokens,
        )
        name = f"{item.name} (pilot)" if item.is_measured else item.name
        counts = (item.sampled.sampled_tokens, computed, prompts, item.read_tokens, item.trained_tokens)
        tokens.add_row(name, *map(_tokens, counts))
        hours.add_row(
            item.name,
            f"{item.flops:.1e}",
            str(item.num_gpus),
            f"{item.hours:,.1f}",
            f"{item.gpu_hours:,.1f}",
            f"{item.cost:,.0f}",
        )
    flops, num_hours = sum(item.flops for item in estimates), sum(item.hours for item in estimates)
    gpu_hours, cost = sum(item.gpu_hours for item in estimates), sum(item.cost for item in estimates)
    hours.add_row("all", f"{flops:.1e}", "", f"{num_hours:,.1f}", f"{gpu_hours:,.1f}", f"{cost:,.0f}")
    out_console.print(tokens, hours)
    for item in estimates:
        for misfit in item.misfits:
            out_console.print(Text(f"{item.name} does not fit: {misfit}", "red"), soft_wrap=True)
    assumed = ", ".join(f"{name} {value}" for name, value in asdict(hardware).items() if value is not None)
    out_console.print(
        f"Not measured; assumed: {assumed}, and the means of the recipe's problems (--json shows all).",
        soft_wrap=True,
    )


def _tokens(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.1f}{unit}"
    return f"{number:.0f}" if number else ""


def _pilot_row(pilot: Pilot) -> dict[str, Any]:
    return {**asdict(pilot), "directory": str(pilot.directory), "tokens_per_second": pilot.tokens_per_second}


def _show_pilot(pilot: Pilot, num_problems: int, is_json: bool) -> None:
    cost, factor = pilot.scaled_cost(num_problems), num_problems / pilot.num_problems
    expected: dict[str, Any] = {
        "num_problems": num_problems,
        **asdict(cost),
        "sampled_tokens_low": pilot.sampled_tokens and round(pilot.sampled_tokens.low * num_problems),
        "sampled_tokens_high": pilot.sampled_tokens and round(pilot.sampled_tokens.high * num_problems),
        "journal_bytes": round(pilot.journal_bytes * factor),
        "hours": pilot.seconds * factor / 3600,
    }
    if is_json:
        content = {"pilot": _pilot_row(pilot), "expected": expected}
        print(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
        return
    table = Table(
        "",
        f"{pilot.num_problems:,} problems, measured",
        f"{num_problems:,} problems, expected",
        title=Text(str(pilot.directory)),
    )
    for name, number in asdict(pilot.cost).items():
        interval = (
            f" ({expected['sampled_tokens_low']:,} .. {expected['sampled_tokens_high']:,})"
            if pilot.sampled_tokens
            else ""
        )
        table.add_row(
            name, f"{number:,}", f"{expected[name]:,}" + (interval if name == "sampled_tokens" else "")
        )
    table.add_row(
        "journal, MB", f"{pilot.journal_bytes / 1e6:,.1f}", f"{expected['journal_bytes'] / 1e6:,.1f}"
    )
    table.add_row(
        "hours on what the pilot ran on", f"{pilot.seconds / 3600:,.3f}", f"{expected['hours']:,.3f}"
    )
    out_console.print(table)
    out_console.print(
        "The interval is a 95 % bootstrap over the pilot's problems. The pilot sampled "
        f"{pilot.tokens_per_second:,.0f} tokens per second, a lower bound for more problems at a time.",
        soft_wrap=True,
    )
