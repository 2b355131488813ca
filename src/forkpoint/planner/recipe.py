"""An experiment as a file: named variables, command lines in order, and the assumptions of its plan.

    title = "..."
    gpu = "H100"                      # the GPU that it is planned for
    [variables]                       # may be set on the command line; a list is several arguments
    policy = "OWNER/NAME"
    [models.policy]                   # parameters, num_layers, num_kv_heads, head_dim; likewise models.prm
    [problems.train]                  # num_problems, prompt_tokens, solution_tokens, steps (fork_share)
    [[stages]]
    name = "label"
    command = "forkpoint label {train} --policy {policy} --out {out}/labels"
    problems = ["train"]              # the problem sets that it is planned with
    num_gpus = "{gpus}"               # the number that it holds
    launcher = "accelerate launch -m" # starts `forkpoint`; without it this Python does
    server = "..."                    # runs beside the command
    health = "http://localhost:8000/health"   # answers once the server is ready

Invariant: a command line is split before it is filled in, so a value with blanks stays one argument. `{out}`
and `{here}`, the directory of the file, are always there; a variable may use those above it. An unknown name
anywhere is an error. This file runs nothing.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from forkpoint.planner.hardware import GPUKind, ModelSize
from forkpoint.planner.volume import ProblemSet

T = TypeVar("T")
Setting = str | list[str]
NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of an experiment, filled in."""

    name: str
    command: tuple[str, ...]
    """The command line; the first argument is `forkpoint`, or another program that samples and trains
    nothing."""
    problems: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    server: tuple[str, ...] = ()
    health: str = ""
    num_gpus: int = 1


@dataclass(frozen=True, slots=True)
class Recipe:
    """An experiment, filled in."""

    title: str
    stages: tuple[Stage, ...]
    problems: Mapping[str, ProblemSet] = field(default_factory=dict)
    models: Mapping[str, ModelSize] = field(default_factory=dict)
    gpu: GPUKind = "H100"


def read_recipe(path: Path, out: Path, settings: Sequence[str] = ()) -> Recipe:
    """The experiment of a file, for the directory `out`, with `NAME=VALUE` for some of its variables.

    FileNotFoundError if there is no file; ValueError if a name is unknown, missing or given twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe at {path}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    variables = _variables(path, out, content.pop("variables", {}), settings)
    stages = tuple(_stage(path, row, variables) for row in content.pop("stages", []))
    if not stages or len({stage.name for stage in stages}) < len(stages):
        raise ValueError(f"{path} needs [[stages]], each with a name of its own")
    problems = {
        name: _made(ProblemSet, f"{path}, problems.{name}", row)
        for name, row in content.pop("problems", {}).items()
    }
    models = {
        name: _made(ModelSize, f"{path}, models.{name}", row)
        for name, row in content.pop("models", {}).items()
    }
    for stage in stages:
        for name in set(stage.problems) - problems.keys():
            raise ValueError(
                f"{path}, stage {stage.name}: problems {name!r} are unknown; "
                f"there are {', '.join(problems) or 'none'}"
            )
    return _made(Recipe, str(path), {**content, "stages": stages, "problems": problems, "models": models})


def _variables(
    path: Path, out: Path, declared: Mapping[str, Setting], settings: Sequence[str]
) -> dict[str, list[str]]:
    given: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in declared or name in given:
            raise ValueError(
                f"{setting!r} is not NAME=VALUE of a variable of {path}, each once; "
                f"it has {', '.join(declared) or 'none'}"
            )
        given[name] = value
    variables = {"out": [str(out)], "here": [str(path.parent)]}
    for name, default in declared.items():
        is_list = isinstance(default, list)
        values = default if is_list else [default]
        if name in given:
            values = shlex.split(given[name]) if is_list else [given[name]]
        variables[name] = [argument for value in values for argument in _filled(str(value), variables)]
    return variables


def _stage(path: Path, row: Mapping[str, Any], variables: Mapping[str, list[str]]) -> Stage:
    where = f"{path}, stage {row.get('name', '?')}"
    filled: dict[str, Any] = dict(row)
    for key in ("command", "launcher", "server"):
        arguments = shlex.split(row.get(key, ""))
        for name in NAME.findall(" ".join(arguments)):
            if name not in variables:
                raise ValueError(f"{where}: {{{name}}} is unknown; there are {', '.join(variables)}")
        filled[key] = tuple(argument for text in arguments for argument in _filled(text, variables))
    filled["health"] = "".join(_filled(row.get("health", ""), variables))
    num_gpus = "".join(_filled(str(row.get("num_gpus", 1)), variables))
    if not num_gpus.isdecimal() or num_gpus == "0":
        raise ValueError(f"{where}: num_gpus must be a whole number above 0; {num_gpus!r} was given")
    filled["num_gpus"] = int(num_gpus)
    filled["problems"] = tuple(row.get("problems", ()))
    stage = _made(Stage, where, filled)
    if not stage.command:
        raise ValueError(f"{where} has no command")
    if stage.server and not stage.health:
        raise ValueError(f"{where} has a server, and no health address that tells when it is ready")
    return stage


def _filled(text: str, variables: Mapping[str, list[str]]) -> list[str]:
    """The text with its variables filled in; unknown names stay.

    A text that is nothing but a variable becomes all of its arguments.
    """
    whole = NAME.fullmatch(text)
    if whole and whole[1] in variables:
        return variables[whole[1]]
    return [NAME.sub(lambda found: " ".join(variables.get(found[1], [found[0]])), text)]


def _made(kind: type[T], where: str, row: Mapping[str, Any]) -> T:
    """A record from a table. ValueError that names the keys that are unknown or missing."""
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(row.keys() - known.keys())
    missing = [
        name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING and name not in row
    ]
    if unknown or missing:
        wrong = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [
            f"missing: {', '.join(missing)}"
        ] * bool(missing)
        raise ValueError(f"{where}: {'; '.join(wrong)}; the keys are {', '.join(known)}")
    try:
        return kind(**row)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
