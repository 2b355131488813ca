"""`forkpoint evaluate` and `report`: accuracy against tokens, and the page that shows it."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import out_console, print_results, quiet_libraries, say
from forkpoint.cli.steering import steering_of
from forkpoint.evaluation.label_truth import PrefixConfig, measure_labels
from forkpoint.evaluation.origin import Origin
from forkpoint.evaluation.run import EvaluateConfig, Judge, SolutionSources, evaluate_policy, write_results
from forkpoint.policies.config import PolicyConfig
from forkpoint.prms import load_prm
from forkpoint.prms.layout import PRMFormat
from forkpoint.problems import load_problems
from forkpoint.report import write_report
from forkpoint.runs import LocalExecutor
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import SteeringConfig


@app.command
def evaluate(
    problems: str,
    *,
    prm: Path | None = None,
    out: Path,
    threshold_problems: str | None = None,
    labels: Path | None = None,
    prefixes: Annotated[PrefixConfig, Parameter(name="prefixes")] = PrefixConfig(),
    config: Annotated[EvaluateConfig, Flat] = EvaluateConfig(),
    tree: Annotated[TreeConfig, Parameter(name="tree")] = TreeConfig(),
    search: Annotated[SteeringConfig, Parameter(name="search")] = SteeringConfig(),
    policy: Annotated[PolicyConfig, Flat] = PolicyConfig(),
) -> int:
    """Measure accuracy against sampled tokens, for HT samples and EDU trees.

    The answers are picked by majority, best-of-N, weighted vote and oracle; greedy solutions are measured
    beside them.

    Parameters
    ----------
    problems
        Test problems, as for `forkpoint label`.
    prm
        A directory made by `forkpoint train`; without it, nothing is scored.
    out
        The run directory, which gets results.json and report.html.
    threshold_problems
        Lab problems that choose the first-error threshold, such as lab:valid?num=200.
    labels
        A run directory of `forkpoint label`, whose labels are compared with many rollouts of the same
        prefixes.
    """
    quiet_libraries()
    loaded = policy.load()
    scorer = load_prm(prm, policy.device) if prm else None
    tree = replace(tree, num_leaves=config.num_samples, max_tokens=config.max_tokens)
    started = time.monotonic()
    executor = LocalExecutor(chunk_size=policy.batch_size)
    evaluation = evaluate_policy(
        load_problems(problems),
        loaded,
        out / "evaluate",
        SolutionSources(config, tree, steering_of(search, scorer)),
        executor,
        Judge(
            scorer,
            scorer.format if scorer else PRMFormat(),
            load_problems(threshold_problems) if threshold_problems else (),
        ),
        say,
    )
    truth = (
        measure_labels(labels, loaded, out / "truth", prefixes, executor, config.max_tokens)
        if labels
        else None
    )
    resolved = {
        "problems": problems,
        "policy": policy.policy,
        "prm": str(prm) if prm else None,
        "evaluate": asdict(config),
        "tree": asdict(tree),
    }
    seconds = {"evaluate": round(time.monotonic() - started, 1)}
    origin = Origin.now(policy.policy, str(prm) if prm else None)
    results = write_results(out, evaluation, resolved, loaded, seconds, truth, origin)
    print_results(results)
    out_console.print(
        f"Written: {out / 'results.json'}, {write_report(out)}", highlight=False, soft_wrap=True
    )
    return 0


@app.command
def report(directory: Path) -> int:
    """Write DIRECTORY/report.html from DIRECTORY/results.json: one file that needs no network.

    Parameters
    ----------
    directory
        The output directory of `forkpoint demo` or `forkpoint evaluate`.
    """
    out_console.print(str(write_report(directory)), highlight=False, soft_wrap=True)
    return 0
