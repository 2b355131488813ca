"""The search stage: compare methods of finding an answer with a PRM on the same problems.

A search is a run that can be killed and continued. There is one journal row per problem and search; methods
that choose differently from the same search share its rows. Invariant: `results.jsonl` and `results.json` are
derived from the journal alone, and every difference is paired by problem.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.content_key import content_key
from forkpoint.estimates import Estimate, bootstrap
from forkpoint.policies.context import fits_context
from forkpoint.records import Policy, Problem
from forkpoint.runs import Run
from forkpoint.runs.work import Executor
from forkpoint.search.config import METHODS, MethodName, SearchConfig, SearchKind
from forkpoint.search.guide import Guide
from forkpoint.search.result import SearchResult
from forkpoint.search.step_search import search_beams, search_subtrees
from forkpoint.search.whole import search_adaptive, search_samples, search_tree
from forkpoint.select import Aggregate

RESULTS, RESULT_ROWS = "results.json", "results.jsonl"
SEARCHES: dict[SearchKind, Callable[[Policy, Sequence[Problem], Guide, SearchConfig], list[SearchResult]]] = {
    "samples": search_samples,
    "tree": search_tree,
    "adaptive": search_adaptive,
    "beam": search_beams,
    "dvts": search_subtrees,
}


class SearchWork:
    """The work of a run: one search per problem."""

    stays_here = False
    shows_progress = True

    def __init__(
        self,
        policy: Policy,
        problems: Sequence[Problem],
        search: SearchKind,
        guide: Guide,
        config: SearchConfig,
    ) -> None:
        self._policy, self._problems, self._guide = policy, problems, guide
        self._search, self._config = search, config
        identity = {"search": search, "inference": asdict(config), "policy": policy.name, **guide.identity()}
        self.keys = [content_key({**identity, "problem": asdict(problem)}) for problem in problems]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        self._policy.reset_cache()  # so that a row does not depend on which chunks were done before
        problems = [self._problems[idx] for idx in idxs]
        return [
            result.to_row()
            for result in SEARCHES[self._search](self._policy, problems, self._guide, self._config)
        ]


@dataclass(frozen=True, slots=True)
class MethodReport:
    """The accuracy of a method, and its average cost per problem."""

    method: MethodName
    aggregate: Aggregate
    accuracy: Estimate
    difference: Estimate | None
    """The accuracy minus that of the first method, paired by problem; None for the first method."""
    num_solutions: float
    """Solutions among which the method chooses."""
    sampled_tokens: float
    """Tokens that the policy sampled."""
    policy_tokens: float
    """Tokens that the policy computed with reuse: the sampled ones, and the prompt once."""
    policy_tokens_without_reuse: float
    """Tokens that the policy computed without reuse: the sampled ones, and the whole prefix of every
    request."""
    prm_tokens: float
    """Tokens that the PRM read with reuse: every distinct prefix once."""
    prm_tokens_without_reuse: float
    """Tokens that the PRM read without reuse: every scored text from its start."""
    total_tokens: float
    """Tokens of policy and PRM on one axis, with reuse."""
    total_tokens_without_reuse: float
    """The same without reuse."""


def run_search(
    problems: Sequence[Problem],
    policy: Policy,
    guide: Guide,
    out: Path,
    methods: Sequence[MethodName],
    config: SearchConfig,
    executor: Executor,
    prm_weight: float = 1.0,
) -> tuple[list[MethodReport], int]:
    """Run methods in the directory `out`; return their reports and the number of searches that failed.

    Call it again to continue, or to add methods. A token that the PRM computes counts as `prm_weight` tokens
    of the policy. If the search failed for some problem, there are no reports, and the next call tries those
    problems again. Raises ValueError if a method is unknown, or if a prompt does not fit into the policy's
    context.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise ValueError(
            f"methods {', '.join(unknown) or 'without a name'} are unknown; choose from {', '.join(METHODS)}"
        )
    num_unfit = sum(not fits_context(policy, problem) for problem in problems)
    if num_unfit:
        raise ValueError(
            f"{num_unfit} prompts do not fit the policy's context of {policy.max_length} tokens; "
            "leave those problems out"
        )
    resolved: dict[str, Any] = {
        "policy": policy.name,
        "inference": asdict(config),
        "problems": content_key([asdict(problem) for problem in problems]),
        "num_problems": len(problems),
        **guide.identity(),
    }
    how = config.aggregate or guide.prm_format.aggregate
    with Run.open(out, "search", resolved) as run:
        works = {
            search: SearchWork(policy, problems, search, guide, config)
            for search in dict.fromkeys(METHODS[name].search for name in methods)
        }
        num_failed = sum(executor.execute(run, work).rows_failed for work in works.values())
        if num_failed:
            return [], num_failed
        results = {
            search: [SearchResult.from_row(row) for row in run.rows(work.keys)]
            for search, work in works.items()
        }
        reports: list[MethodReport] = []
        rows: list[dict[str, Any]] = []
        is_right: dict[MethodName, list[float]] = {}
        for name in dict.fromkeys(methods):
            results_of_method = results[METHODS[name].search]
            rows_of_method = [_row(name, result, how, config.sharpness) for result in results_of_method]
            rows += rows_of_method
            is_right[name] = [float(row["is_correct"]) for row in rows_of_method]
            first = next(iter(is_right))
            difference = None if name == first else bootstrap(np.subtract(is_right[name], is_right[first]))
            reports.append(
                _report(name, how, results_of_method, bootstrap(is_right[name]), difference, prm_weight)
            )
        _write(out, rows, reports, prm_weight)
        run.finish({"num_rows": run.num_rows})
    return reports, 0


def _row(name: MethodName, result: SearchResult, how: Aggregate, sharpness: float) -> dict[str, Any]:
    pick = result.pick(METHODS[name].choose, how, sharpness)
    return {
        "problem_id": result.problem.id,
        "method": name,
        "answer": result.answers[pick],
        "is_correct": result.found[pick].end.is_correct,
        "pick": pick,
        "answers": result.answers,
        "scores": result.scores(how),
        "tokens": asdict(result.tokens),
    }


def _report(
    name: MethodName,
    how: Aggregate,
    results: Sequence[SearchResult],
    accuracy: Estimate,
    difference: Estimate | None,
    prm_weight: float,
) -> MethodReport:
    def mean(numbers: Sequence[float]) -> float:
        return float(np.mean(numbers))

    tokens = [result.tokens for result in results]
    return MethodReport(
        method=name,
        aggregate=how,
        accuracy=accuracy,
        difference=difference,
        num_solutions=mean([len(result.found) for result in results]),
        sampled_tokens=mean([item.sampled for item in tokens]),
        policy_tokens=mean([item.policy() for item in tokens]),
        policy_tokens_without_reuse=mean([item.policy(has_reuse=False) for item in tokens]),
        prm_tokens=mean([item.prm() for item in tokens]),
        prm_tokens_without_reuse=mean([item.prm(has_reuse=False) for item in tokens]),
        total_tokens=mean([item.total(prm_weight) for item in tokens]),
        total_tokens_without_reuse=mean([item.total(prm_weight, has_reuse=False) for item in tokens]),
    )


def _write(
    out: Path, rows: Sequence[dict[str, Any]], reports: Sequence[MethodReport], prm_weight: float
) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    (out / RESULT_ROWS).write_text(lines, encoding="utf-8")
    summary = {"prm_weight": prm_weight, "methods": [asdict(report) for report in reports]}
    (out / RESULTS).write_text(json.dumps(summary, indent=1, allow_nan=False) + "\n", encoding="utf-8")
