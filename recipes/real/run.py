"""Run an experiment from a file: its command lines in order, until one fails.

    python recipes/real/run.py recipes/real/er_prm_mistral_7b.toml --out runs/er_mistral
    python recipes/real/run.py recipes/real/er_prm_mistral_7b.toml --out runs/er_mistral \\
        --set value=mean --only relabel train
    python recipes/real/run.py recipes/real/er_prm_mistral_7b.toml --out runs/er_mistral --dry-run

Run the same command again to continue: a stage that succeeded with the same command line is not started again
(OUT/done.jsonl), and a stage that was stopped continues by itself. The server of a stage is started before
it, waited for, and ended after it. `forkpoint plan FILE` shows what the whole experiment costs.
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
"""How long a server may take to end after it was asked to."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="directory for everything; the same directory again continues"
    )
    parser.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="set a variable of the recipe",
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
    """Return the stages with these names, or all of them. Raises ValueError for an unknown name."""
    known = [stage.name for stage in recipe.stages]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no stage {name!r}; choose from {', '.join(known)}")
    return [stage for stage in recipe.stages if not names or stage.name in names]


def command_line(stage: Stage) -> list[str]:
    """Return the command line: `forkpoint` runs by its launcher or `python -m`, `python` is this one."""
    launcher = (stage.launcher or ("python", "-m")) if stage.command[0] == "forkpoint" else ()
    program = [sys.executable if word == "python" else word for word in (*launcher, *stage.command[:1])]
    return [*program, *stage.command[1:]]


def execute(stage: Stage) -> int:
    """Run a stage with its server and return its exit status."""
    with beside(stage):
        return subprocess.call(command_line(stage))


def run(stages: Sequence[Stage], out: Path, execute: Callable[[Stage], int] = execute) -> int:
    """Run the stages that are not done; return the exit status of the first that fails, or 0."""
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
    """Run the stage's server, if it has one, during the context.

    Raises RuntimeError if it ends before it answers.
    """
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
