"""Run an experiment from a file: its command lines in order, until one fails.

    python recipes/real/run.py recipes/real/er_prm_mistral_7b.toml --out runs/er_mistral
    python recipes/real/run.py recipes/real/er_prm_mistral_7b.toml --out runs/er_mistral --set value=mean --only relabel train
    python recipes/real/run.py recipes/real/er_prm_mistral_7b.toml --out runs/er_mistral --dry-run

Given again, it continues: a stage that ended well with the same command line is not started again (OUT/done.jsonl), and one that
was stopped continues by itself. A server beside a stage is started before it, waited for, and ended after it. What the whole takes:
`forkpoint plan FILE`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from forkpoint.planner.recipe import Recipe, Stage, read_recipe

DONE = "done.jsonl"
END_S = 60
"""A server that was told to end has so long to do it."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="where everything goes; the same again continues"
    )
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help="a variable of the recipe"
    )
    parser.add_argument(
        "--only", action="extend", nargs="+", default=[], metavar="STAGE", help="these stages alone"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command lines")
    args = parser.parse_args()
    try:
        recipe = read_recipe(args.recipe, args.out, args.set)
        stages = chosen(recipe, args.only)
    except (ValueError, OSError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    if args.dry_run:
        for stage in stages:
            print(f"# {stage.name}" + (f", beside: {shlex.join(stage.server)}" if stage.server else ""))
            print(shlex.join(command_line(stage)))
        return 0
    try:
        return run(stages, args.out)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def chosen(recipe: Recipe, names: Sequence[str]) -> list[Stage]:
    """The stages of these names, or all. ValueError for a name that is none."""
    known = [stage.name for stage in recipe.stages]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no stage {name!r}; choose from {', '.join(known)}")
    return [stage for stage in recipe.stages if not names or stage.name in names]


def command_line(stage: Stage) -> list[str]:
    """What is executed: `forkpoint` by its launcher, else by `python -m`; `python` is the one that runs this file."""
    launcher = (stage.launcher or ("python", "-m")) if stage.command[0] == "forkpoint" else ()
    program = [sys.executable if word == "python" else word for word in (*launcher, *stage.command[:1])]
    return [*program, *stage.command[1:]]


def execute(stage: Stage) -> int:
    """The exit status of a stage, with its server beside it."""
    with beside(stage):
        return subprocess.call(command_line(stage))


def run(stages: Sequence[Stage], out: Path, execute: Callable[[Stage], int] = execute) -> int:
    """The exit status of the first stage that fails, 0 where none does; what is done already is left out."""
    out.mkdir(parents=True, exist_ok=True)
    done = (out / DONE).read_text().splitlines() if (out / DONE).exists() else []
    for stage in stages:
        line = json.dumps([stage.name, *stage.command])
        if line in done:
            print(f"done already: {stage.name}", file=sys.stderr)
            continue
        print(f"stage: {stage.name}", file=sys.stderr)
        status = execute(stage)
        if status:
            print(
                f"{stage.name} ended with status {status}; the same command continues there", file=sys.stderr
            )
            return status
        with (out / DONE).open("a") as file:
            file.write(line + "\n")
    return 0


@contextmanager
def beside(stage: Stage) -> Iterator[None]:
    """Have the stage's server, if it has one, answer while the context lasts. RuntimeError where it ends before it does."""
    if not stage.server:
        yield
        return
    print(f"server: {shlex.join(stage.server)}", file=sys.stderr)
    server = subprocess.Popen(stage.server)
    try:
        while not _answers(stage.health):
            if server.poll() is not None:
                raise RuntimeError(
                    f"the server of {stage.name} ended with status {server.returncode} before it was ready"
                )
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        try:
            server.wait(END_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    sys.exit(main())
