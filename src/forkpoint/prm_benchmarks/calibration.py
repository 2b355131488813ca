"""Step calibration: of the steps that score 0.8, are 80 % right?

Steps are put into B bins of equal width by their score: bin b holds scores in [b/B, (b+1)/B), the last bin
also 1.
    ECE    sum over bins of (steps in the bin / all steps) * |mean score - mean label|      (arXiv 1706.04599)
    Brier  mean over steps of (score - label)^2
Labels may be soft: they are averaged as they are. Every step counts once, so long solutions weigh more;
problems are resampled with all their steps. The ECE of a resample is on average larger than that of the data,
since noise adds to |.|: its interval lies somewhat too high, and with few steps per bin the ECE itself is too
high.
A solution that the PRM refuses is left out and counted in `refused`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.checks import check_at_least
from forkpoint.content_key import content_key
from forkpoint.estimates import COUNT, LABEL, SCORE, Floats, bin_sums, brier, ece, ratio
from forkpoint.prm_benchmarks.resampling import Resamples, sums_by
from forkpoint.prm_benchmarks.results import write_results
from forkpoint.prm_benchmarks.scoring import score_solutions
from forkpoint.records import LabelledSolution, Scorer
from forkpoint.runs import LocalExecutor
from forkpoint.runs.work import Executor


@dataclass(frozen=True)
class CalibrationConfig:
    """Which steps are binned, and into how many bins."""

    num_bins: int = 10
    """Number of bins of equal width (10 or 15 are usual; results with different numbers cannot be
    compared)."""
    past_first_error: bool = True
    """Whether to include steps after the first one labelled 0; leave them out if nobody judged them, as in
    ProcessBench."""

    def __post_init__(self) -> None:
        check_at_least(1, num_bins=self.num_bins)


def _mean(sums: Floats, what: int) -> Floats:
    return ratio(sums[..., what].sum(axis=-1), sums[..., COUNT].sum(axis=-1))


def calibration(
    scorer: Scorer,
    solutions: Sequence[LabelledSolution],
    out: Path,
    config: CalibrationConfig = CalibrationConfig(),
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Measure the scorer on labelled steps; writes OUT/results.json and returns its content.

    Scores are journaled in `out`. Problems are told apart by their questions. ValueError if there are no
    solutions, or if the scorer refuses all of them.
    """
    scored = score_solutions(
        scorer,
        [(solution.question, solution.steps) for solution in solutions],
        out,
        executor or LocalExecutor(),
    )
    kept = [
        (solution, scores)
        for solution, scores in zip(solutions, scored.scores, strict=True)
        if scores is not None
    ]
    if not kept:
        raise ValueError(
            f"there is nothing to calibrate: {len(solutions)} solutions were given "
            f"and {len(scored.refusals)} refused"
        )
    sums_N_K = np.stack([_solution_sums(solution, scores, config).ravel() for solution, scores in kept])
    resamples = Resamples.of(sums_by([solution.question for solution, _ in kept], sums_N_K))

    def of_bins(sums: Floats) -> Floats:
        bins: Floats = sums.reshape(*sums.shape[:-1], config.num_bins, 4)
        return bins

    def mean_label(sums: Floats, bin_idx: int) -> Floats:
        return ratio(
            of_bins(sums)[..., bin_idx, LABEL], of_bins(sums)[..., bin_idx, COUNT], otherwise=float("nan")
        )

    sums_B_4 = of_bins(resamples.sums_K)
    found = {
        "ece": asdict(resamples.measured(lambda sums: ece(of_bins(sums)))),
        "brier": asdict(resamples.measured(lambda sums: brier(of_bins(sums)))),
        "mean_score": asdict(resamples.measured(lambda sums: _mean(of_bins(sums), SCORE))),
        "mean_label": asdict(resamples.measured(lambda sums: _mean(of_bins(sums), LABEL))),
        "num_solutions": len(kept),
        "num_steps": int(sums_B_4[:, COUNT].sum()),
        "reliability": [
            {
                "from": idx / config.num_bins,
                "to": (idx + 1) / config.num_bins,
                "num_steps": int(sums[COUNT]),
                "mean_score": float(sums[SCORE] / sums[COUNT]),
                "mean_label": asdict(resamples.measured(partial(mean_label, bin_idx=idx))),
            }
            for idx, sums in enumerate(sums_B_4)
            if sums[COUNT]
        ],
        "digest": content_key(
            [[item.question, item.steps, [label.value for label in item.labels]] for item in solutions]
        ),
        "refused": scored.summary(),
    }
    return write_results(out, "calibration", scorer.name, asdict(config), found)


def _solution_sums(solution: LabelledSolution, scores: Sequence[float], config: CalibrationConfig) -> Floats:
    labels = [label.value for label in solution.labels]
    if not config.past_first_error and 0.0 in labels:
        labels = labels[: labels.index(0.0) + 1]
    return bin_sums(np.array(scores[: len(labels)]), np.array(labels), config.num_bins)
