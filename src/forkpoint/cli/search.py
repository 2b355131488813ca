"""`forkpoint search`: answers found with a PRM, and their cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rich.table import Table

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import err_console, out_console, quiet_libraries
from forkpoint.estimates import Estimate
from forkpoint.policies.config import PolicyConfig
from forkpoint.prms.config import FamilyConfig
from forkpoint.problems import load_problems
from forkpoint.runs.config import WorkersConfig
from forkpoint.search import MethodName, MethodReport, SearchConfig, run_search
from forkpoint.search.loaded_prm import LoadedPRM


@app.command
def search(
    problems: str,
    *,
    prm: str,
    out: Path,
    method: tuple[MethodName, ...] = ("tree-vote", "adaptive", "vote", "best-of-n", "beam", "dvts"),
    prm_weight: float = 1.0,
    config: Annotated[SearchConfig, Flat] = SearchConfig(),
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    policy: Annotated[PolicyConfig, Flat] = PolicyConfig(),
    workers: Annotated[WorkersConfig, Flat] = WorkersConfig(),
) -> int:
    """Find an answer to every problem with a PRM, and count the tokens of both models.

    If the command is killed, the same command continues; with other methods, it adds their answers.
    OUT/results.jsonl holds one answer per problem and method, OUT/results.json the accuracies with 95 %
    intervals and the tokens per problem.

    Parameters
    ----------
    problems
        The problems, as for `forkpoint label`.
    prm
        A directory made by `forkpoint train`, a public PRM (a directory or a hub id), or the address of a
        `forkpoint serve`.
    out
        The run directory.
    method
        The methods, such as --method beam --method vote; the first is the reference of the paired
        differences.
    prm_weight
        Cost of a token of the PRM in tokens of the policy: the ratio of the two models' parameters.
    """
    quiet_libraries()
    guide = LoadedPRM(prm, family, policy.device).guide()
    with workers.executor(policy.batch_size) as executor:
        reports, num_failed = run_search(
            load_problems(problems), policy.load(), guide, out, method, config, executor, prm_weight
        )
    if num_failed:
        err_console.print(
            f"{num_failed} searches failed, see {out / 'failures.jsonl'}; "
            "run the same command to try them again"
        )
        return 1
    out_console.print(_table(reports))
    out_console.print(
        f"Written: {out / 'results.json'}, {out / 'results.jsonl'}", highlight=False, soft_wrap=True
    )
    return 0


def _table(reports: Sequence[MethodReport]) -> Table:
    first = reports[0]
    title = (
        f"{first.accuracy.num_problems} problems, score by {first.aggregate}; "
        "tokens per problem, with reuse of prefixes / without"
    )
    table = Table(
        "method", "accuracy", f"minus {first.method}", "sampled", "policy", "PRM", "total", title=title
    )
    for report in reports:
        table.add_row(
            report.method,
            _interval(report.accuracy),
            _interval(report.difference, "+") if report.difference else "",
            f"{report.sampled_tokens:,.0f}",
            f"{report.policy_tokens:,.0f} / {report.policy_tokens_without_reuse:,.0f}",
            f"{report.prm_tokens:,.0f} / {report.prm_tokens_without_reuse:,.0f}",
            f"{report.total_tokens:,.0f} / {report.total_tokens_without_reuse:,.0f}",
        )
    return table


def _interval(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.mean:{sign}.3f} ({estimate.low:{sign}.3f} .. {estimate.high:{sign}.3f})"
