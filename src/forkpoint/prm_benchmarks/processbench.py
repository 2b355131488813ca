"""ProcessBench (arXiv 2412.06559): can step scores find the first wrong step?

A solution is predicted to go wrong at the first step that scores below a threshold, or nowhere (-1).
    acc_error    exact matches among solutions with a wrong step
    acc_correct  solutions predicted to go wrong nowhere, among those without a wrong step
    F1           2 acc_error acc_correct / (acc_error + acc_correct), 0 if both are 0

Solutions of one kind only, all with a wrong step or all without, have no F1: it is null in results.json, and
so is the mean over subsets. Resamples of one kind only are left out of the interval.

As in the paper, the threshold is the one with the best F1 on one subset (GSM8K) and is used on all subsets,
and the mean over subsets is unweighted. A figure on the subset that chose the threshold is not held out: that
subset is marked, the mean of the others is given beside the mean of all, and the best F1 of each subset over
all thresholds is given as an upper bound. The prediction for a solution that the PRM refuses is never right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from forkpoint import formats
from forkpoint.checks import check_within
from forkpoint.content_key import content_key
from forkpoint.estimates import Floats
from forkpoint.formats.containers import HUB
from forkpoint.prm_benchmarks.resampling import Measured, Resamples, ratio, sums_by
from forkpoint.prm_benchmarks.results import write_results
from forkpoint.prm_benchmarks.scoring import score_solutions
from forkpoint.records import LabelledSolution, Scorer
from forkpoint.runs import LocalExecutor
from forkpoint.runs.work import Executor

NO_EDGE_THRESHOLD = 0.5
"""The threshold if all thresholds predict the same solutions correctly."""


@dataclass(frozen=True)
class ProcessBenchConfig:
    """The threshold, or the subset that chooses it."""

    threshold: float | None = None
    """A step with a lower score is taken as wrong; None takes the threshold with the best F1 on
    `threshold_subset`."""
    threshold_subset: str = "gsm8k"
    """The subset that chooses the threshold: the name of its file without suffix, or its split on the hub."""

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_within("[0, 1]", threshold=self.threshold)


def read_subsets(sources: Sequence[str], **options: Any) -> dict[str, list[LabelledSolution]]:
    """Read ProcessBench files (.json, .jsonl, .parquet) or hub:Qwen/ProcessBench?split=NAME, by subset.

    `options` are those of `formats.read`. ValueError if there is no source, or if two have the same name.
    """
    if not sources:
        raise ValueError("no ProcessBench file was given; give at least one, such as gsm8k.json math.json")
    subsets: dict[str, list[LabelledSolution]] = {}
    for source in sources:
        name = _subset_name(source)
        if name in subsets:
            raise ValueError(f"two sources are named {name!r}; give each subset once")
        subsets[name] = list(formats.read(source, "processbench", **options))
        if not subsets[name]:
            raise ValueError(f"{source} holds no solutions")
    return subsets


def _subset_name(source: str) -> str:
    if source.startswith(HUB):
        return parse_qs(source.partition("?")[2]).get("split", ["train"])[0]
    return Path(source).stem


@dataclass(frozen=True, slots=True)
class Spans:
    """The thresholds (low, high] at which each solution's prediction is right; none if low >= high."""

    lows_N: Floats
    highs_N: Floats
    has_error_N: Floats
    """1 for a solution with a wrong step, else 0."""

    def sums(self, problems: Sequence[str], threshold: float) -> Floats:
        """Return by problem: right and all solutions with a wrong step, right and all without one: [P, 4]."""
        is_right_N = ((self.lows_N < threshold) & (threshold <= self.highs_N)).astype(np.float64)
        error, fine = self.has_error_N, 1 - self.has_error_N
        return sums_by(problems, np.stack([is_right_N * error, error, is_right_N * fine, fine], axis=1))

    def best_threshold(self) -> float:
        """Return the threshold with the best F1.

        Ties go to the best sum of both accuracies, then to the lowest threshold. F1 changes only at the ends
        of spans; between two such edges the middle is taken. Below the lowest edge no wrong step is found,
        and above the highest no solution is taken as right: F1 is 0 on both sides.
        """
        has_span_N = self.lows_N < self.highs_N
        edges = np.unique(np.concatenate([self.lows_N[has_span_N], self.highs_N[has_span_N]]))
        edges = edges[np.isfinite(edges)]
        if len(edges) < 2:
            return NO_EDGE_THRESHOLD
        middles = (edges[:-1] + edges[1:]) / 2
        accuracies = []
        for kind in (1, 0):
            lows, highs = (
                np.sort(ends[has_span_N & (self.has_error_N == kind)]) for ends in (self.lows_N, self.highs_N)
            )
            num_right = np.searchsorted(lows, middles) - np.searchsorted(highs, middles)
            accuracies.append(ratio(num_right, np.sum(self.has_error_N == kind)))
        quality = np.lexsort(
            (-middles, accuracies[0] + accuracies[1], harmonic_mean(accuracies[0], accuracies[1]))
        )
        return float(middles[quality[-1]])


def first_wrong_step(solution: LabelledSolution) -> int:
    """Return the index of the first step labelled 0, or -1."""
    return next((idx for idx, label in enumerate(solution.labels) if label.value == 0), -1)


def spans_of(step_scores: Sequence[Sequence[float] | None], first_wrong: Sequence[int]) -> Spans:
    """Return the spans of solutions; no threshold makes the prediction of a refused one (None) right."""
    spans = [_span(scores, truth) for scores, truth in zip(step_scores, first_wrong, strict=True)]
    lows, highs = zip(*spans, strict=True)
    return Spans(np.array(lows), np.array(highs), np.array([float(truth != -1) for truth in first_wrong]))


def _span(scores: Sequence[float] | None, first_wrong: int) -> tuple[float, float]:
    if scores is None:
        return np.inf, -np.inf
    if first_wrong == -1:
        return -np.inf, min(scores)
    return scores[first_wrong], min(scores[:first_wrong], default=np.inf)


def harmonic_mean(left: Floats, right: Floats) -> Floats:
    """Return the harmonic mean, 0 if both numbers are 0."""
    return ratio(2 * left * right, left + right)


def acc_error(sums: Floats) -> Floats:
    """Return acc_error from sums [.., 4] of `Spans.sums`; nan if no solution has a wrong step."""
    return ratio(sums[..., 0], sums[..., 1], np.nan)


def acc_correct(sums: Floats) -> Floats:
    """Return acc_correct from sums [.., 4] of `Spans.sums`; nan if every solution has a wrong step."""
    return ratio(sums[..., 2], sums[..., 3], np.nan)


def f1(sums: Floats) -> Floats:
    """Return the F1 from sums [.., 4] of `Spans.sums`; nan if one of the two kinds is missing."""
    return harmonic_mean(acc_error(sums), acc_correct(sums))


def processbench(
    scorer: Scorer,
    subsets: Mapping[str, Sequence[LabelledSolution]],
    out: Path,
    config: ProcessBenchConfig = ProcessBenchConfig(),
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Measure the scorer on named subsets; writes OUT/results.json and returns its content.

    Scores are journaled in `out`. The intervals take the threshold as fixed: they do not include how much
    another sample of its subset would move it. ValueError if that subset is not among `subsets`.
    """
    if config.threshold is None and config.threshold_subset not in subsets:
        raise ValueError(
            f"the subset {config.threshold_subset!r} is to choose the threshold and is not among "
            f"{', '.join(subsets)}; give its file too, name another with threshold_subset, or fix threshold"
        )
    solutions = [solution for subset_solutions in subsets.values() for solution in subset_solutions]
    scored = score_solutions(
        scorer,
        [(solution.question, solution.steps) for solution in solutions],
        out,
        executor or LocalExecutor(),
    )
    spans: dict[str, Spans] = {}
    remaining = iter(scored.scores)
    for name, subset_solutions in subsets.items():
        subset_scores = [next(remaining) for _ in subset_solutions]
        spans[name] = spans_of(subset_scores, [first_wrong_step(solution) for solution in subset_solutions])
    threshold = (
        spans[config.threshold_subset].best_threshold() if config.threshold is None else config.threshold
    )
    resamples = {
        name: Resamples.of(
            spans[name].sums([solution.question for solution in subset_solutions], threshold), seed
        )
        for seed, (name, subset_solutions) in enumerate(subsets.items())
    }
    source = config.threshold_subset if config.threshold is None else None
    best_F1s = {name: _best(subset_spans) for name, subset_spans in spans.items()}
    held_out = [name for name in subsets if name != source]
    found = {
        "threshold": threshold,
        "threshold_from": source,
        "subsets": [
            {
                "name": name,
                "num_solutions": len(subset_solutions),
                "num_with_error": int(spans[name].has_error_N.sum()),
                "digest": content_key(
                    [[item.question, item.steps, first_wrong_step(item)] for item in subset_solutions]
                ),
                "chose_threshold": name == source,
                "f1": resamples[name].measured(f1).to_row(),
                "acc_error": resamples[name].measured(acc_error).to_row(),
                "acc_correct": resamples[name].measured(acc_correct).to_row(),
                "upper_bound": best_F1s[name],
            }
            for name, subset_solutions in subsets.items()
        ],
        "mean_f1": _mean_f1(list(resamples.values())).to_row(),
        "held_out_mean_f1": _mean_f1([resamples[name] for name in held_out]).to_row() if held_out else None,
        "upper_bound_mean_f1": _mean_best([best["f1"] for best in best_F1s.values()]),
        "refused": scored.summary(),
    }
    return write_results(out, "processbench", scorer.name, asdict(config), found)


def _best(spans: Spans) -> dict[str, float | None]:
    """Return the F1 at the threshold that is chosen on the same solutions; None if it is undefined."""
    threshold = spans.best_threshold()
    best_f1 = float(f1(spans.sums([""] * len(spans.lows_N), threshold)[0]))
    return {"f1": None if np.isnan(best_f1) else best_f1, "threshold": threshold}


def _mean_best(best_F1s: Sequence[float | None]) -> float | None:
    defined = [best_f1 for best_f1 in best_F1s if best_f1 is not None]
    return float(np.mean(defined)) if len(defined) == len(best_F1s) else None


def _mean_f1(resamples: Sequence[Resamples]) -> Measured:
    """Return the unweighted mean of F1 over subsets; each subset is resampled by itself."""
    value = float(np.mean([f1(subset.sums_K) for subset in resamples]))
    draws_R = np.mean([f1(subset.draws_R_K) for subset in resamples], axis=0)
    return Measured.of(value, draws_R, sum(subset.num_problems for subset in resamples))
