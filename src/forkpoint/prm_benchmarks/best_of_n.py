"""Best-of-N from a file of candidates: does a PRM pick better than a vote?

For every N, the benchmark measures the majority vote, the candidate with the best score and the weighted vote
for every aggregate of step scores, the oracle (right if any candidate is right), and the gain of each way of
picking by score over the majority on the same problems.
Scores are those of a PRM or of the file. Scores of a file may lie outside [0, 1]: weighted votes and `prod`
then mean nothing and are left out. If every candidate has one score, the only aggregate is `last`. A
candidate that the PRM refuses scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.content_key import content_key
from forkpoint.estimates import Floats
from forkpoint.evaluation.metrics import Attempts, CurvePoint, curve
from forkpoint.prm_benchmarks.candidates import CandidateFile, Candidates, Cut, cut
from forkpoint.prm_benchmarks.resampling import Resamples
from forkpoint.prm_benchmarks.results import write_results
from forkpoint.prm_benchmarks.scoring import score_solutions
from forkpoint.records import Scorer
from forkpoint.runs import LocalExecutor
from forkpoint.runs.work import Executor
from forkpoint.select import AGGREGATES, Aggregate

REFUSED = (0.0,)
"""The step scores of a candidate that the PRM refuses."""


@dataclass(frozen=True)
class BestOfNConfig:
    """How candidates are cut into steps, and how groups of N are chosen."""

    cut: Cut | None = None
    """How candidates that are texts are cut into steps; None cuts them as the PRM's training data was cut."""
    exchangeable: bool = True
    """Whether candidates are independent samples: all disjoint groups of N are averaged. Otherwise the first
    N count."""


def best_of_n(
    file: CandidateFile,
    out: Path,
    scorer: Scorer | None = None,
    config: BestOfNConfig = BestOfNConfig(),
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Measure every way of picking; writes OUT/results.json and returns its content.

    The scores of a scorer are journaled in `out`. Without a scorer the scores are those of the file; without
    either, nothing is picked by score. ValueError if there are both, if only some problems have scores, or if
    a text has to be scored and `config.cut` is None.
    """
    problems = file.problems
    has_scores = [problem.scores is not None for problem in problems]
    if any(has_scores) and (scorer is not None or not all(has_scores)):
        raise ValueError(
            "scores are a PRM's, for all problems, or the file's, for all problems; give one of the two"
        )
    refused: dict[str, Any] | None = None
    scores = [problem.scores for problem in problems]
    if scorer is not None:
        scores, refused = _score(problems, scorer, out, config.cut, executor or LocalExecutor())
    attempts = [Attempts(str(idx), problem.solutions, scores[idx]) for idx, problem in enumerate(problems)]
    largest = max(len(problem.solutions) for problem in problems)
    sizes = sorted({*(1 << power for power in range(largest.bit_length())), largest})
    left_out = _left_out(scores)
    points = [
        point
        for point in curve(attempts, sizes, config.exchangeable)
        if (point.select, point.aggregate) not in left_out
    ]
    resamples = Resamples.of(np.stack([point.accuracy_P for point in points], axis=1))

    def accuracy(idx: int, sums: Floats) -> Floats:
        return np.asarray(sums[..., idx] / len(problems))

    def gain(idx: int, minus_idx: int, sums: Floats) -> Floats:
        return accuracy(idx, sums) - accuracy(minus_idx, sums)

    vote_idxs = {point.n: idx for idx, point in enumerate(points) if point.select == "majority"}
    rows, gains = [], []
    for idx, point in enumerate(points):
        rows.append({**_name(point), "accuracy": asdict(resamples.measured(partial(accuracy, idx)))})
        if point.aggregate is not None:
            paired = resamples.measured(partial(gain, idx, vote_idxs[point.n]))
            gains.append({**_name(point), "minus": "majority", "gain": asdict(paired)})
    found = {
        "columns": asdict(file.columns),
        "scores": "prm" if scorer is not None else "file" if all(has_scores) else None,
        "num_problems": len(problems),
        "num_candidates": sum(len(problem.solutions) for problem in problems),
        "fewest_candidates": min(len(problem.solutions) for problem in problems),
        "rows": rows,
        "gains": gains,
        "digest": content_key(
            [[problem.question, [solution.text for solution in problem.solutions]] for problem in problems]
        ),
        "num_ungradable": file.num_ungradable,
        "unread": asdict(file.unread) if file.unread else None,
        "refused": refused,
    }
    return write_results(out, "best-of-n", scorer.name if scorer is not None else None, asdict(config), found)


def _score(
    problems: Sequence[Candidates], scorer: Scorer, out: Path, how: Cut | None, executor: Executor
) -> tuple[list[tuple[tuple[float, ...], ...] | None], dict[str, Any]]:
    solutions = []
    for problem in problems:
        for solution, steps in zip(problem.solutions, problem.steps, strict=True):
            if steps is None:
                if how is None:
                    raise ValueError(
                        "candidates that are texts have to be cut into steps: "
                        "say lines, paragraphs or whole, or give `steps`"
                    )
                steps = cut(solution.text, how)
            solutions.append((problem.question, steps))
    scored = score_solutions(scorer, solutions, out, executor)
    remaining = iter([scores or REFUSED for scores in scored.scores])
    return [tuple(next(remaining) for _ in problem.solutions) for problem in problems], scored.summary()


def _left_out(scores: Sequence[tuple[tuple[float, ...], ...] | None]) -> set[tuple[str, Aggregate]]:
    """Return the (select, aggregate) that mean nothing with these scores, or the same as another one."""
    given = [step_scores for scores_N in scores if scores_N is not None for step_scores in scores_N]
    if not given:
        return set()
    left_out: set[tuple[str, Aggregate]] = set()
    if any(not 0 <= score <= 1 for step_scores in given for score in step_scores):
        left_out |= {("best", "prod"), *(("weighted", how) for how in AGGREGATES)}
    if all(len(step_scores) == 1 for step_scores in given):
        left_out |= {(select, how) for select in ("best", "weighted") for how in AGGREGATES if how != "last"}
    return left_out


def _name(point: CurvePoint) -> dict[str, Any]:
    return {"select": point.select, "aggregate": point.aggregate, "n": point.n}
