"""The evaluate stage: sample solutions of test problems, score them with a PRM, write results.json.

Three kinds of solutions of the same problems: greedy, HT (independent samples, one set per temperature), EDU (tree
leaves). Invariant: solutions and scores are journaled as they come, so a killed evaluation continues; every number in
results.json is computed from the journal by the pure functions of `metrics.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forkpoint.checks import check_at_least, check_within
from forkpoint.content_key import content_key
from forkpoint.estimates import Estimate, bootstrap
from forkpoint.evaluation.label_truth import LabelTruth
from forkpoint.evaluation.metrics import (
    Attempts,
    CurvePoint,
    FirstError,
    choose_threshold,
    curve,
    first_error,
)
from forkpoint.evaluation.tree_view import tree_views
from forkpoint.lab.oracle import first_wrong_step
from forkpoint.lab.problem_set import lab_story
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Cost, Policy, Problem, Scorer
from forkpoint.runs import Run, complete
from forkpoint.runs.work import Executor
from forkpoint.select import Aggregate
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.scoring import ScoreWork, solution_steps
from forkpoint.solutions.work import SampleWork, TreeWork, fits_context, outcome_of
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import Steering

RESULTS_VERSION = 1


@dataclass(frozen=True)
class EvaluateConfig:
    """What is compared."""

    num_samples: int = 16
    """Solutions per problem: HT samples, and leaves of the EDU tree; curves have N = 1, 2, 4 .. up to it."""
    temperatures: tuple[float, ...] = (0.7,)
    """HT temperatures (0.7 in arXiv 2503.22233)."""
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(1, num_samples=self.num_samples, max_tokens=self.max_tokens)
        check_within("(0, 1]", top_p=self.top_p)
        if any(temperature <= 0 for temperature in self.temperatures):
            raise ValueError(
                "HT temperatures must be above 0; greedy decoding is always measured beside them"
            )

    @property
    def sizes(self) -> list[int]:
        """N of the curves: powers of two, and `num_samples` itself."""
        powers = [1 << power for power in range(self.num_samples.bit_length())]
        return sorted({*powers, self.num_samples})


@dataclass(frozen=True, slots=True)
class Sampler:
    """One way to get solutions of a problem."""

    kind: Literal["greedy", "ht", "edu"]
    temperature: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, ready for results.json."""

    rows: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    greedy: Estimate
    first_error: FirstError | None
    cost: Cost
    trees: list[dict[str, Any]]
    search: dict[str, Any] | None = None
    """What steering the EDU trees took, per problem."""


class Evaluator:
    """Runs the works of an evaluation into one run directory."""

    def __init__(
        self,
        policy: Policy,
        scorer: Scorer | None,
        prm_format: PRMFormat,
        run: Run,
        executor: Executor,
        steering: Steering | None = None,
    ) -> None:
        self._policy, self._scorer, self._format, self._steering = policy, scorer, prm_format, steering
        self._run, self._executor = run, executor

    def outcomes(
        self,
        problems: Sequence[Problem],
        sampler: Sampler,
        num_samples: int,
        config: EvaluateConfig,
        tree: TreeConfig,
    ) -> list[str]:
        """Sample; return the keys of the outcome rows."""
        work: TreeWork | SampleWork
        if sampler.kind == "edu":
            work = TreeWork(self._policy, problems, tree, self._steering)
        else:
            rollouts = RolloutConfig(
                num_samples, sampler.temperature, config.top_p, config.max_tokens, config.seed
            )
            work = SampleWork(self._policy, problems, rollouts)
        complete(self._run, self._executor, work)
        return list(work.keys)

    def attempts(self, keys: Sequence[str]) -> list[Attempts]:
        """Score the outcomes and read both back."""
        outcomes = [outcome_of(row) for row in self._run.rows(keys)]
        scores: list[tuple[tuple[float, ...], ...] | None] = [None] * len(outcomes)
        if self._scorer is not None:
            work = ScoreWork(self._scorer, self._format, self._run, keys)
            complete(self._run, self._executor, work)
            scores = [tuple(tuple(item) for item in row["scores"]) for row in self._run.rows(work.keys)]
        trees = [outcome.tree if isinstance(outcome, TreeOutcome) else None for outcome in outcomes]
        return [
            Attempts(outcome.problem.id, outcome.solutions(), its_scores, tree)
            for outcome, its_scores, tree in zip(outcomes, scores, trees, strict=True)
        ]

    def first_errors(self, keys: Sequence[str]) -> tuple[list[tuple[float, ...]], list[int]]:
        """Step scores and first wrong steps of all solutions of lab problems."""
        scores: list[tuple[float, ...]] = []
        truths: list[int] = []
        for attempts, row in zip(self.attempts(keys), self._run.rows(keys), strict=True):
            outcome = outcome_of(row)
            assert attempts.step_scores is not None, "first errors are looked for only with a scorer"
            scores += attempts.step_scores
            truths += [
                first_wrong_step(lab_story(outcome.problem.id), steps)
                for steps in solution_steps(outcome, self._format)
            ]
        return scores, truths

    def cost(self, keys: Sequence[str]) -> Cost:
        return sum((outcome_of(row).cost for row in self._run.rows(keys)), Cost())


def evaluate_policy(
    problems: Sequence[Problem],
    policy: Policy,
    out: Path,
    config: EvaluateConfig,
    tree_config: TreeConfig,
    executor: Executor,
    scorer: Scorer | None = None,
    prm_format: PRMFormat | None = None,
    threshold_problems: Sequence[Problem] = (),
    on_stage: Callable[[str], None] = lambda _: None,
    steering: Steering | None = None,
) -> Evaluation:
    """Measure the policy, and the scorer on it, on `problems`; journaled at `out`, run again to continue.

    `threshold_problems` (lab problems that share nothing with `problems`) choose the first-error threshold; without them
    first errors are not measured. `steering` prunes or chooses the forks of EDU trees; gold answers may not.
    """
    if steering is not None and steering.search.is_gold:
        raise ValueError(
            "a search by outcomes reads the gold answers: fit to label, unfit to evaluate; choose value prm or confidence"
        )
    fits = [fits_context(policy, problem) for problem in problems]
    if not all(fits):
        raise ValueError(
            f"{fits.count(False)} prompts do not fit the policy's context of {policy.max_length} tokens; leave those problems out"
        )
    resolved = {
        "policy": policy.name,
        "entropies": policy.entropy_bound,
        "scorer": scorer.name if scorer else None,
        "evaluate": asdict(config),
        "tree": asdict(tree_config),
        "problems": content_key([asdict(problem) for problem in problems]),
        "num_problems": len(problems),
    }
    if steering is not None:
        resolved["steering"] = steering.identity()
    with Run.open(out, "evaluate", resolved) as run:
        evaluator = Evaluator(policy, scorer, prm_format or PRMFormat(), run, executor, steering)
        rows: list[dict[str, Any]] = []
        points: dict[Sampler, list[CurvePoint]] = {}
        cost = Cost()
        trees: list[dict[str, Any]] = []
        search: dict[str, Any] | None = None
        samplers = [
            Sampler("greedy", 0.0),
            *(Sampler("ht", temperature) for temperature in config.temperatures),
            Sampler("edu", 0.0),
        ]
        greedy: Estimate | None = None
        ht_keys: list[str] = []
        for sampler in samplers:
            on_stage(f"{sampler.kind} T={sampler.temperature:g}" if sampler.kind == "ht" else sampler.kind)
            keys = evaluator.outcomes(
                problems, sampler, 1 if sampler.kind == "greedy" else config.num_samples, config, tree_config
            )
            cost += evaluator.cost(keys)
            if sampler.kind == "greedy":
                greedy_point = curve(
                    [Attempts(a.problem_id, a.solutions) for a in evaluator.attempts(keys)], [1], True
                )[0]
                greedy = bootstrap(greedy_point.accuracy_P)
                rows.append({**_row(sampler, greedy_point), "sampler": "ht", "select": "greedy"})
                continue
            ht_keys = ht_keys or keys
            attempts = evaluator.attempts(keys)
            points[sampler] = curve(attempts, config.sizes, is_exchangeable=sampler.kind == "ht")
            if sampler.kind == "edu":
                outcomes = [TreeOutcome.from_row(row) for row in run.rows(keys)]
                trees = tree_views(outcomes, attempts, tree_config, prm_format or PRMFormat())
                search = _search_cost(outcomes)
            rows += [_row(sampler, point) for point in points[sampler]]
        errors = None
        if scorer is not None and threshold_problems:
            on_stage("first errors")
            first_ht = Sampler("ht", config.temperatures[0])
            threshold_keys = evaluator.outcomes(threshold_problems, first_ht, 4, config, tree_config)
            threshold = choose_threshold(*evaluator.first_errors(threshold_keys))
            errors = first_error(*evaluator.first_errors(ht_keys), threshold)
        assert greedy is not None, "greedy is the first sampler"
        run.finish({"num_rows": len(rows)})
    return Evaluation(rows, comparisons(points, prm_format), greedy, errors, cost, trees, search)


def _search_cost(outcomes: Sequence[TreeOutcome]) -> dict[str, Any] | None:
    scorings = [outcome.scoring for outcome in outcomes if outcome.scoring]
    if not scorings:
        return None
    return {
        "prm_tokens_per_problem": sum(scoring.tokens for scoring in scorings) / len(outcomes),
        "pruned_per_problem": sum(outcome.num_pruned for outcome in outcomes) / len(outcomes),
    }


def comparisons(
    points: dict[Sampler, list[CurvePoint]], prm_format: PRMFormat | None
) -> list[dict[str, Any]]:
    """Paired differences on the same problems, at the largest N."""
    how: Aggregate = prm_format.aggregate if prm_format else "min"
    found: dict[tuple[str, float, str], CurvePoint] = {}
    for sampler, its_points in points.items():
        largest = max(point.n for point in its_points)
        for point in its_points:
            if point.n == largest and point.aggregate in (None, how):
                found[sampler.kind, sampler.temperature, point.select] = point
    pairs = []
    hts = [sampler.temperature for sampler in points if sampler.kind == "ht"]
    edu: tuple[str, float] = ("edu", 0.0)
    for temperature in hts:
        ht = ("ht", temperature)
        pairs += [
            ((*ht, "best"), (*ht, "majority")),
            ((*edu, "best"), (*ht, "majority")),
            ((*edu, "best"), (*ht, "best")),
        ]
        pairs += [((*ht, "weighted"), (*ht, "majority")), ((*edu, "policy-weighted"), (*ht, "weighted"))]
        pairs += [((*edu, "oracle"), (*ht, "oracle"))]
    pairs += [((*edu, "best"), (*edu, "majority")), ((*edu, "policy-weighted"), (*edu, "best"))]
    return [_comparison(left, right, found, how) for left, right in pairs if left in found and right in found]


def _comparison(
    left: tuple[str, float, str],
    right: tuple[str, float, str],
    found: dict[tuple[str, float, str], CurvePoint],
    how: str,
) -> dict[str, Any]:
    difference = bootstrap(np.subtract(found[left].accuracy_P, found[right].accuracy_P))
    tokens = float(found[left].tokens_P.sum() / found[right].tokens_P.sum())

    def name(key: tuple[str, float, str]) -> str:
        kind = f"HT T={key[1]:g}" if key[0] == "ht" else "EDU"
        if key[2].endswith("weighted"):
            return f"{kind} {key[2]} vote of {found[key].n} ({how})"
        return f"{kind} {key[2]}-of-{found[key].n}" + (f" ({how})" if key[2] == "best" else "")

    return {
        "name": f"{name(left)} minus {name(right)}",
        "difference": difference.mean,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "num_problems": difference.num_problems,
        "token_ratio": tokens,
    }


def _row(sampler: Sampler, point: CurvePoint) -> dict[str, Any]:
    estimate = bootstrap(point.accuracy_P)
    return {
        "sampler": sampler.kind,
        "temperature": sampler.temperature,
        "select": point.select,
        "aggregate": point.aggregate,
        "n": point.n,
        "accuracy": estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "num_problems": estimate.num_problems,
        "sampled_tokens_per_problem": float(np.mean(point.tokens_P)),
    }


def write_results(
    out: Path,
    evaluation: Evaluation,
    config: dict[str, Any],
    policy: Policy,
    seconds: dict[str, float],
    truth: LabelTruth | None = None,
) -> dict[str, Any]:
    """Write `results.json` and `trees.json`; return the results."""
    greedy = evaluation.greedy
    results = {
        "version": RESULTS_VERSION,
        "config": config,
        "policy": {
            "name": policy.name,
            "num_parameters": policy.num_parameters,
            "greedy_accuracy": greedy.mean,
            "greedy_accuracy_low": greedy.low,
            "greedy_accuracy_high": greedy.high,
        },
        "rows": evaluation.rows,
        "comparisons": evaluation.comparisons,
        "first_error": asdict(evaluation.first_error) if evaluation.first_error else None,
        "label_quality": _label_quality(truth) if truth else None,
        "cost": asdict(evaluation.cost),
        "search": evaluation.search,
        "seconds": seconds,
    }
    for name, content in (("results.json", results), ("trees.json", evaluation.trees)):
        (out / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def _label_quality(truth: LabelTruth) -> dict[str, Any]:
    """The uniform weighting's figures, and those of each weighting by name."""
    by_weighting = {weighting: asdict(quality) for weighting, quality in truth.quality.items()}
    return {**by_weighting["uniform"], "rollouts": truth.num_rollouts, "by_weighting": by_weighting}
