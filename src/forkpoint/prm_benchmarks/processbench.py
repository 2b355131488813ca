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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np

from forkpoint import formats
from forkpoint.checks import check_within
from forkpoint.content_key import content_key
from forkpoint.estimates import Floats, ratio
from forkpoint.evaluation.first_errors import Spans, harmonic_mean, spans_of
from forkpoint.formats.containers import HUB, read_rows
from forkpoint.prm_benchmarks.resampling import Measured, Resamples, sums_by
from forkpoint.prm_benchmarks.results import write_results
from forkpoint.prm_benchmarks.scoring import score_solutions
from forkpoint.records import LabelledSolution, Scorer
from forkpoint.runs import LocalExecutor
from forkpoint.runs.work import Executor


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


FIRST_ERROR_FORMATS = ("processbench", "mr-ben", "mr-math")
"""Formats whose rows say which step is the first wrong one."""
NUM_SUSPECT = 24
"""Wrong solutions, none of them wrong in the first step, that make a file suspect of counting from 1. If a
fifth of the first errors lie in the first step, as in ProcessBench (.18 to .19), chance does this to 1 % of
such files."""


def read_subsets(
    sources: Sequence[str], on_bad_row: Callable[[str], None] | None = None, **options: Any
) -> dict[str, list[LabelledSolution]]:
    """Read files of ProcessBench, Mr-Ben or MR-MATH, or hub:Qwen/ProcessBench?split=NAME, by subset.

    The format is recognised by the columns of the first row. `on_bad_row` and `options` are those of
    `formats.read`. ValueError if there is no source, or if two have the same name.
    """
    if not sources:
        raise ValueError("no ProcessBench file was given; give at least one, such as gsm8k.json math.json")
    subsets: dict[str, list[LabelledSolution]] = {}
    for source in sources:
        name = _subset_name(source)
        if name in subsets:
            raise ValueError(f"two sources are named {name!r}; give each subset once")
        found = next((formats.recognise(row) for _, row in read_rows(source)), None)
        known = found if found in FIRST_ERROR_FORMATS else "processbench"
        subsets[name] = list(formats.read(source, known, on_bad_row=on_bad_row, **options))
        if not subsets[name]:
            raise ValueError(f"{source} holds no solutions")
    return subsets


def counts_from_one(solutions: Sequence[LabelledSolution]) -> bool:
    """Whether first errors look as if they were counted from 1 and read as if from 0."""
    errors = [step for solution in solutions if (step := first_wrong_step(solution)) != -1]
    return len(errors) >= NUM_SUSPECT and 0 not in errors


def _subset_name(source: str) -> str:
    if source.startswith(HUB):
        return parse_qs(source.partition("?")[2]).get("split", ["train"])[0]
    return Path(source).stem


def first_wrong_step(solution: LabelledSolution) -> int:
    """Return the index of the first step labelled 0, or -1."""
    return next((idx for idx, label in enumerate(solution.labels) if label.value == 0), -1)


def sums_of(spans: Spans, problems: Sequence[str], threshold: float) -> Floats:
    """Return by problem: right and all solutions with a wrong step, right and all without one: [P, 4]."""
    is_right_N, error_N = spans.is_right_N(threshold), spans.has_error_N
    fine_N = 1 - error_N
    return sums_by(problems, np.stack([is_right_N * error_N, error_N, is_right_N * fine_N, fine_N], axis=1))


def acc_error(sums: Floats) -> Floats:
    """Return acc_error from sums [.., 4] of `sums_of`; nan if no solution has a wrong step."""
    return ratio(sums[..., 0], sums[..., 1], np.nan)


def acc_correct(sums: Floats) -> Floats:
    """Return acc_correct from sums [.., 4] of `sums_of`; nan if every solution has a wrong step."""
    return ratio(sums[..., 2], sums[..., 3], np.nan)


def f1(sums: Floats) -> Floats:
    """Return the F1 from sums [.., 4] of `sums_of`; nan if one of the two kinds is missing."""
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
            sums_of(spans[name], [solution.question for solution in subset_solutions], threshold), seed
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
    best_f1 = float(f1(sums_of(spans, [""] * len(spans.lows_N), threshold)[0]))
    return {"f1": None if np.isnan(best_f1) else best_f1, "threshold": threshold}


def _mean_best(best_F1s: Sequence[float | None]) -> float | None:
    defined = [best_f1 for best_f1 in best_F1s if best_f1 is not None]
    return float(np.mean(defined)) if len(defined) == len(best_F1s) else None


def _mean_f1(resamples: Sequence[Resamples]) -> Measured:
    """Return the unweighted mean of F1 over subsets; each subset is resampled by itself."""
    value = float(np.mean([f1(subset.sums_K) for subset in resamples]))
    draws_R = np.mean([f1(subset.draws_R_K) for subset in resamples], axis=0)
    return Measured.of(value, draws_R, sum(subset.num_problems for subset in resamples))
