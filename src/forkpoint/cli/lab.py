"""`forkpoint lab`: the built-in problems and their small policy."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App
from rich.table import Table

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import out_console, quiet_libraries, say
from forkpoint.experiments.lab_check import CheckConfig, check_policy
from forkpoint.lab.problem_set import lab_story
from forkpoint.policies import load_policy
from forkpoint.problems import load_problems

lab_app = App(name="lab", help="The built-in problems with an exact step oracle, and their small policy.")
app.command(lab_app)


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
        out_console.print(
            f"{problem.question}\n{lab_story(problem.id).solution}\n", highlight=False, markup=False
        )
    return 0


@lab_app.command
def check(
    policy: str = "lab", *, config: Annotated[CheckConfig, Flat] = CheckConfig(), batch_size: int = 64
) -> int:
    """Measure a policy on lab problems: greedy, sampled, majority and oracle accuracy, and its anchors.

    Parameters
    ----------
    policy
        `lab`, a model directory, a GGUF file, or a hub id.
    batch_size
        Sequences that are decoded together.
    """
    quiet_libraries()
    result = check_policy(load_policy(policy, batch_size=batch_size), config, say)
    table = Table("", "mean", "95 % interval", "problems", title=f"{policy} on {config.problems}")
    for name in ("greedy", "sampled", "majority", "oracle", "anchors"):
        estimate = getattr(result, name)
        table.add_row(
            name,
            f"{estimate.mean:.3f}",
            f"{estimate.low:.3f} .. {estimate.high:.3f}",
            str(estimate.num_problems),
        )
    out_console.print(table)
    out_console.print(f"first errors of greedy solutions: {result.first_errors}", highlight=False)
    return 0
