"""The evaluate stage: sample solutions of test problems, score them with a PRM, write results.json.

The same problems get three kinds of solutions: greedy, HT (independent samples, one set per temperature), and
EDU (leaves of a tree). Invariant: solutions and scores are journaled as they come, so a killed evaluation
continues; every number in results.json is computed from the journal by the pure functions of `metrics.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from forkpoint.checks import check_at_least, check_within
from forkpoint.content_key import content_key
from forkpoint.estimates import Estimate, bootstrap
from forkpoint.evaluation.first_errors import FirstError, choose_threshold, first_error
from forkpoint.evaluation.label_truth import LabelTruth
from forkpoint.evaluation.metrics import Attempts, CurvePoint, curve
from forkpoint.evaluation.origin import Origin
from forkpoint.evaluation.tree_view import tree_views
from forkpoint.lab.oracle import first_wrong_step
from forkpoint.lab.problem_set import lab_story
from forkpoint.policies.context import fits_context
from forkpoint.prms.layout import PRMFormat
from forkpoint.records import Cost, Policy, Problem, Scorer
from forkpoint.runs import Run, complete
from forkpoint.runs.work import Executor
from forkpoint.select import Aggregate
from forkpoint.solutions.outcomes import TreeOutcome
from forkpoint.solutions.sample import RolloutConfig
from forkpoint.solutions.scoring import score_work, solution_steps
from forkpoint.solutions.work import SampleWork, TreeWork, outcome_of
from forkpoint.trees.grow import TreeConfig
from forkpoint.trees.steer import Steering

RESULTS_VERSION = 1
NUM_THRESHOLD_SAMPLES = 4
"""Solutions per problem that the first-error threshold is chosen on."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Which solutions are compared."""

    num_samples: int = 16
    """Solutions per problem: HT samples, and leaves of the EDU tree; curves have points at N = 1, 2, 4,
    ... up to it."""
    temperatures: tuple[float, ...] = (0.7,)
    """Temperatures of the HT samples, one set each (0.7 in arXiv 2503.22233)."""
    top_p: float = 1.0
    """Nucleus of the HT samples, in (0, 1]; 1 samples from the whole distribution."""
    max_tokens: int = 512
    """Maximum number of tokens of a solution."""
    seed: int = 0
    """Seed of the HT samples."""

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
class SolutionSources:
    """Where the solutions come from: independent samples, and leaves of trees."""

    config: EvaluateConfig
    tree: TreeConfig
    """The EDU trees."""
    steering: Steering | None = None
    """Prunes EDU trees or chooses their forks; must not read gold answers."""


@dataclass(frozen=True, slots=True)
class Judge:
    """The PRM that judges solutions, and the problems that choose its threshold."""

    scorer: Scorer | None = None
    """The PRM; without one, nothing is scored."""
    format: PRMFormat = field(default_factory=PRMFormat)
    """How solutions are cut into steps, and how step scores become one score."""
    threshold_problems: Sequence[Problem] = ()
    """Lab problems, disjoint from the test problems, that choose the first-error threshold; without them,
    first errors are not measured."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """One way to get solutions of a problem."""

    kind: Literal["ht", "edu"]
    temperature: float = 0.0

    @property
    def name(self) -> str:
        """The name of its stage."""
        if self.kind == "edu":
            return "edu"
        return f"ht T={self.temperature:g}" if self.temperature else "greedy"


GREEDY, EDU = Sampler("ht"), Sampler("edu")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The measurements, ready for results.json."""

    rows: list[dict[str, Any]]
    comparisons: list[dict[str, Any]]
    greedy: Estimate
    first_error: FirstError | None
    cost: Cost
    trees: list[dict[str, Any]]
    search: dict[str, Any] | None = None
    """Cost of steering the EDU trees, per problem."""


class Evaluator:
    """Samples and scores into one run directory."""

    def __init__(self, policy: Policy, run: Run, executor: Executor, sources: SolutionSources) -> None:
        self._policy, self._run, self._executor, self._sources = policy, run, executor, sources

    def sample(self, problems: Sequence[Problem], sampler: Sampler, num_samples: int) -> list[str]:
        """Sample solutions; returns the keys of the outcome rows. For trees `num_samples` is not read."""
        work: TreeWork | SampleWork
        if sampler.kind == "edu":
            work = TreeWork(self._policy, problems, self._sources.tree, self._sources.steering)
        else:
            config = self._sources.config
            rollouts = RolloutConfig(
                num_samples, sampler.temperature, config.top_p, config.max_tokens, config.seed
            )
            work = SampleWork(self._policy, problems, rollouts)
        complete(self._run, self._executor, work)
        return list(work.keys)

    def attempts(self, keys: Sequence[str], judge: Judge) -> list[Attempts]:
        """Score the outcomes, and read both back."""
        outcomes = [outcome_of(row) for row in self._run.rows(keys)]
        scores: list[tuple[tuple[float, ...], ...] | None] = [None] * len(outcomes)
        if judge.scorer is not None:
            work = score_work(judge.scorer, judge.format, self._run, keys)
            complete(self._run, self._executor, work)
            scores = [tuple(tuple(item) for item in row["scores"]) for row in self._run.rows(work.keys)]
        trees = [outcome.tree if isinstance(outcome, TreeOutcome) else None for outcome in outcomes]
        return [
            Attempts(outcome.problem.id, outcome.solutions(), step_scores, tree)
            for outcome, step_scores, tree in zip(outcomes, scores, trees, strict=True)
        ]

    def first_errors(self, keys: Sequence[str], judge: Judge) -> tuple[list[tuple[float, ...]], list[int]]:
        """Step scores and first wrong steps of all solutions of lab problems."""
        scores: list[tuple[float, ...]] = []
        truths: list[int] = []
        for attempts, row in zip(self.attempts(keys, judge), self._run.rows(keys), strict=True):
            outcome = outcome_of(row)
            assert attempts.step_scores is not None, "first errors are measured only with a scorer"
            scores += attempts.step_scores
            truths += [
                first_wrong_step(lab_story(outcome.problem.id), steps)
                for steps in solution_steps(outcome, judge.format)
            ]
        return scores, truths

    def trees(self, keys: Sequence[str]) -> list[TreeOutcome]:
        """The outcomes of EDU trees."""
        return [TreeOutcome.from_row(row) for row in self._run.rows(keys)]

    def cost(self, keys: Sequence[str]) -> Cost:
        """Cost of sampling the outcomes."""
        return sum((outcome_of(row).cost for row in self._run.rows(keys)), Cost())


def evaluate_policy(
    problems: Sequence[Problem],
    policy: Policy,
    out: Path,
    sources: SolutionSources,
    executor: Executor,
    judge: Judge = Judge(),
    on_stage: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measure the policy, and the judge's PRM on it; journaled at `out`, run again to continue.

    `on_stage` is called with the name of each stage that begins. ValueError if steering reads gold answers,
    or if a prompt does not fit the policy's context; ConfigDiffers if `out` was started with another
    configuration.
    """
    _check(problems, policy, sources, judge)
    config = sources.config
    with Run.open(out, "evaluate", _identity(problems, policy, sources, judge)) as run:
        evaluator = Evaluator(policy, run, executor, sources)

        # 1. sample and score every kind of solutions
        hts = [Sampler("ht", temperature) for temperature in config.temperatures]
        keys: dict[Sampler, list[str]] = {}
        attempts: dict[Sampler, list[Attempts]] = {}
        for sampler in (GREEDY, *hts, EDU):
            on_stage(sampler.name)
            keys[sampler] = evaluator.sample(
                problems, sampler, 1 if sampler == GREEDY else config.num_samples
            )
            attempts[sampler] = evaluator.attempts(keys[sampler], judge)

        # 2. accuracy against tokens; with one greedy solution per problem, all ways to pick agree
        greedy = curve(attempts[GREEDY], [1], is_exchangeable=True)[0]
        points = {ht: curve(attempts[ht], config.sizes, is_exchangeable=True) for ht in hts}
        points[EDU] = curve(attempts[EDU], config.sizes, is_exchangeable=False)
        rows = [{**_row(GREEDY, greedy), "select": "greedy"}]
        rows += [_row(sampler, point) for sampler, found in points.items() for point in found]

        # 3. first errors, with a threshold that other problems choose
        errors = None
        if judge.scorer is not None and judge.threshold_problems:
            on_stage("first errors")
            others = evaluator.sample(judge.threshold_problems, hts[0], NUM_THRESHOLD_SAMPLES)
            threshold = choose_threshold(*evaluator.first_errors(others, judge))
            errors = first_error(*evaluator.first_errors(keys[hts[0]], judge), threshold)

        # 4. trees to show, and the costs
        trees = evaluator.trees(keys[EDU])
        views = tree_views(trees, attempts[EDU], sources.tree, judge.format)
        cost = sum((evaluator.cost(keys[sampler]) for sampler in keys), Cost())
        run.finish({"num_rows": len(rows)})
    return Evaluation(
        rows,
        comparisons(points, greedy, judge.format.aggregate),
        bootstrap(greedy.accuracy_P),
        errors,
        cost,
        views,
        _search_cost(trees),
    )


def _check(problems: Sequence[Problem], policy: Policy, sources: SolutionSources, judge: Judge) -> None:
    if sources.steering is not None and sources.steering.config.is_gold:
        raise ValueError(
            "a search by outcomes reads the gold answers: it is fit for labelling and unfit for evaluation; "
            "choose value prm or confidence"
        )
    num_long = sum(not fits_context(policy, problem) for problem in problems)
    if num_long:
        raise ValueError(
            f"{num_long} prompts do not fit the policy's context of {policy.max_length} tokens; "
            "leave those problems out"
        )
    if judge.threshold_problems and not sources.config.temperatures:
        raise ValueError("first errors are measured on HT samples; give at least one temperature")


def _identity(
    problems: Sequence[Problem], policy: Policy, sources: SolutionSources, judge: Judge
) -> dict[str, Any]:
    """The configuration of the run."""
    identity = {
        "policy": policy.name,
        "entropies": policy.entropy_bound,
        "scorer": judge.scorer.name if judge.scorer else None,
        "evaluate": asdict(sources.config),
        "tree": asdict(sources.tree),
        "problems": content_key([asdict(problem) for problem in problems]),
        "num_problems": len(problems),
    }
    return identity | ({"steering": sources.steering.identity()} if sources.steering else {})


def _search_cost(trees: Sequence[TreeOutcome]) -> dict[str, Any] | None:
    scorings = [tree.scoring for tree in trees if tree.scoring]
    if not scorings:
        return None
    return {
        "prm_tokens_per_problem": sum(scoring.tokens for scoring in scorings) / len(trees),
        "pruned_per_problem": sum(tree.num_pruned for tree in trees) / len(trees),
    }


Pick = tuple[Sampler, str]
"""Solutions, and the way to pick one of them."""


def comparisons(
    points: dict[Sampler, list[CurvePoint]], greedy: CurvePoint, how: Aggregate
) -> list[dict[str, Any]]:
    """Paired differences on the same problems at the largest N, with scores aggregated by `how`."""
    found: dict[Pick, CurvePoint] = {(GREEDY, "majority"): greedy}
    for sampler, curve_points in points.items():
        largest = max(point.n for point in curve_points)
        for point in curve_points:
            if point.n == largest and point.aggregate in (None, how):
                found[sampler, point.select] = point
    hts = [sampler for sampler in points if sampler.kind == "ht"]
    # the default search comes first
    default: Pick = (EDU, "policy-weighted")
    pairs: list[tuple[Pick, Pick]] = [(default, (ht, "majority")) for ht in hts]
    pairs.append((default, (GREEDY, "majority")))
    for ht in hts:
        pairs += [
            ((ht, "best"), (ht, "majority")),
            ((EDU, "best"), (ht, "majority")),
            ((EDU, "best"), (ht, "best")),
            ((ht, "weighted"), (ht, "majority")),
            ((EDU, "policy-weighted"), (ht, "weighted")),
            ((EDU, "oracle"), (ht, "oracle")),
        ]
    pairs += [((EDU, "best"), (EDU, "majority")), ((EDU, "policy-weighted"), (EDU, "best"))]
    return [
        _comparison(
            f"{_name(left, found[left], how)} minus {_name(right, found[right], how)}",
            found[left],
            found[right],
        )
        for left, right in pairs
        if left in found and right in found
    ]


def _name(pick: Pick, point: CurvePoint, how: Aggregate) -> str:
    sampler, select = pick
    if sampler == GREEDY:
        return "HT greedy"
    kind = f"HT T={sampler.temperature:g}" if sampler.kind == "ht" else "EDU"
    if select.endswith("weighted"):
        return f"{kind} {select} vote of {point.n} ({how})"
    return f"{kind} {select}-of-{point.n}" + (f" ({how})" if select == "best" else "")


def _comparison(name: str, left: CurvePoint, right: CurvePoint) -> dict[str, Any]:
    difference = bootstrap(np.subtract(left.accuracy_P, right.accuracy_P))
    return {
        "name": name,
        "difference": difference.mean,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "num_problems": difference.num_problems,
        "token_ratio": float(left.tokens_P.sum() / right.tokens_P.sum()),
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
    origin: Origin | None = None,
) -> dict[str, Any]:
    """Write `results.json` and `trees.json`; return the results."""
    greedy = evaluation.greedy
    results = {
        "version": RESULTS_VERSION,
        "origin": asdict(origin) if origin else None,
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
        text = json.dumps(_defined(content), indent=1, ensure_ascii=False, allow_nan=False)
        (out / name).write_text(text + "\n", encoding="utf-8")
    return results


def _defined(value: Any) -> Any:
    """`value` with None in place of every NaN, which JSON does not have: a correlation may be undefined."""
    if isinstance(value, dict):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _label_quality(truth: LabelTruth) -> dict[str, Any]:
    """The figures of the uniform weighting, and those of each weighting by name."""
    by_weighting = {weighting: asdict(quality) for weighting, quality in truth.quality.items()}
    return {**by_weighting["uniform"], "rollouts": truth.num_rollouts, "by_weighting": by_weighting}
