"""PRMBench (arXiv 2501.03124): does a PRM tell right steps from wrong ones, for nine kinds of error?

A step that scores above the threshold is taken as right. The rule is that of the authors' evaluation code
(ssmisya/PRMBench, task `prmtest_classified` and its tables):

- The steps are `modified_process`, the question is `modified_question`; `error_steps` count from 1. An error
  step beyond the last step is ignored (the published files have some); the results give their number.
- Over the steps of a class, with right steps as the positives, PRMScore = 0.5 F1 + 0.5 negative F1. The class
  `multi_solutions` has no wrong steps; its PRMScore is F1. An F1 is 2 hits / (2 hits + misses + false alarms)
  of its kind.
- The overall PRMScore pools the steps of all classes, so a class weighs by its number of steps. Simplicity,
  soundness and sensitivity are unweighted means of the PRMScores of their classes.
- `original_process` of the rows of `redundency` (spelled so) is the class `correct`, reported beside the
  others and not included in the overall figure. Among rows with the same class and `idx` the first one
  counts.
- A number in front of a step (`Step 3.`, `3.`) is removed; unlike in that code, the `0.` of `0.5` and a
  number that is the whole step stay.

Unlike in that code, an F1 without hits is 0; the code writes -1 in some cases. As in that code, a process
that the PRM refuses is left out; `refused` counts it. The steps of `redundency` and `circular` are judged by
the same scores as all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.checks import check_within
from forkpoint.content_key import content_key
from forkpoint.estimates import Floats, ratio
from forkpoint.formats.cells import items, text
from forkpoint.formats.codec import texts_of
from forkpoint.formats.containers import read_rows
from forkpoint.formats.layout import separated
from forkpoint.prm_benchmarks.resampling import Resamples, sums_by
from forkpoint.prm_benchmarks.results import write_results
from forkpoint.prm_benchmarks.scoring import score_solutions
from forkpoint.records import Scorer
from forkpoint.row_files import Row
from forkpoint.runs import LocalExecutor
from forkpoint.runs.work import Executor

CATEGORIES = {
    "simplicity": ("redundency", "circular"),
    "soundness": ("counterfactual", "step_contradiction", "domain_inconsistency", "confidence"),
    "sensitivity": ("missing_condition", "deception", "multi_solutions"),
}
CLASSES = tuple(name for names in CATEGORIES.values() for name in names)
WITHOUT_ERRORS = "multi_solutions"
CORRECT = "correct"
CORRECT_FROM = "redundency"
STEP_NUMBER = re.compile(r"\A(?:step\s*)?\d+\.(?!\d)\s*(?=\S)", re.IGNORECASE)
SEPARATOR = "\n"
"""The text between steps, which are published without one; in PRM800K, their source, they were lines."""


@dataclass(frozen=True)
class PRMBenchConfig:
    """Which steps are taken as right."""

    threshold: float = 0.5
    """A step with a higher score is taken as right (the authors use 0.5 for scores that are
    probabilities)."""

    def __post_init__(self) -> None:
        check_within("[0, 1]", threshold=self.threshold)


@dataclass(frozen=True, slots=True)
class Process:
    """One solution of PRMBench."""

    problem_id: str
    classification: str
    question: str
    steps: tuple[str, ...]
    wrong_idxs: frozenset[int]
    """The indices of wrong steps, from 0; every one is a step of the process."""
    num_errors_beyond: int = 0
    """Number of error steps beyond the last step."""


def read_processes(sources: Sequence[str]) -> list[Process]:
    """Read PRMBench rows from .jsonl, .json or .parquet files or a hub data set.

    ValueError names the first row that does not fit.
    """
    processes: dict[tuple[str, str], Process] = {}
    for source in sources:
        for where, row in read_rows(source):
            try:
                for process in _processes(row):
                    processes.setdefault((process.classification, process.problem_id), process)
            except ValueError as error:
                raise ValueError(f"{where} is not a row of PRMBench: {error}") from None
    if not processes:
        raise ValueError("no PRMBench rows were given; give at least one file with rows")
    return list(processes.values())


def _processes(row: Row) -> list[Process]:
    """Return the process of a row, and the correct one as well if the class of the row has one."""
    classification, problem_id = text(row, "classification"), text(row, "idx")
    if classification not in CLASSES:
        raise ValueError(f"classification {classification!r} is unknown; there are {', '.join(CLASSES)}")
    steps = _steps(row, "modified_process")
    errors = set(items(row, "error_steps"))
    if not all(isinstance(number, int) and not isinstance(number, bool) and number >= 1 for number in errors):
        raise ValueError(f"error_steps must be numbers of steps, from 1; they are {sorted(errors, key=str)}")
    wrong_idxs = frozenset(number - 1 for number in errors if number <= len(steps))
    question = text(row, "modified_question")
    found = [Process(problem_id, classification, question, steps, wrong_idxs, len(errors) - len(wrong_idxs))]
    if classification == CORRECT_FROM:
        found.append(
            Process(
                problem_id,
                CORRECT,
                text(row, "original_question"),
                _steps(row, "original_process"),
                frozenset(),
            )
        )
    return found


def _steps(row: Row, column: str) -> tuple[str, ...]:
    texts = [STEP_NUMBER.sub("", step.strip()) for step in texts_of(row, column)]
    if not texts:
        raise ValueError(f"column {column!r} holds no steps")
    return tuple(separated(texts, SEPARATOR))


def confusion(
    step_scores: Sequence[float], wrong_idxs: frozenset[int], threshold: float
) -> tuple[int, int, int, int]:
    """Return four numbers of steps: TP, FP, TN and FN.

    These are the steps that are right and taken as right, wrong and taken as right, wrong and not taken as
    right, and right and not taken as right.
    """
    counts = [0, 0, 0, 0]
    for idx, score in enumerate(step_scores):
        is_taken, is_wrong = score > threshold, idx in wrong_idxs
        counts[(1 if is_wrong else 0) if is_taken else (2 if is_wrong else 3)] += 1
    return counts[0], counts[1], counts[2], counts[3]


def f1(counts: Floats) -> Floats:
    """Return the F1 of right steps from counts [.., 4] in the order of `confusion`."""
    return ratio(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 3])


def negative_f1(counts: Floats) -> Floats:
    """Return the F1 of wrong steps from counts [.., 4] in the order of `confusion`."""
    return ratio(2 * counts[..., 2], 2 * counts[..., 2] + counts[..., 1] + counts[..., 3])


def prm_score(counts: Floats) -> Floats:
    """Return 0.5 F1 + 0.5 negative F1 from counts [.., 4]."""
    return (f1(counts) + negative_f1(counts)) / 2


def prmbench(
    scorer: Scorer,
    processes: Sequence[Process],
    out: Path,
    config: PRMBenchConfig = PRMBenchConfig(),
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Measure the scorer; writes OUT/results.json and returns its content. Scores are journaled in `out`.

    Classes share problems, so all figures are computed on the same resamples of problems.
    """
    scored = score_solutions(
        scorer, [(process.question, process.steps) for process in processes], out, executor or LocalExecutor()
    )
    classes = [
        name for name in (*CLASSES, CORRECT) if any(process.classification == name for process in processes)
    ]
    counts_N_C_4 = np.zeros((len(processes), len(classes), 4))
    for idx, (process, scores) in enumerate(zip(processes, scored.scores, strict=True)):
        if scores is not None:
            counts_N_C_4[idx, classes.index(process.classification)] = confusion(
                scores, process.wrong_idxs, config.threshold
            )
    problems = [process.problem_id for process in processes]
    resamples = Resamples.of(sums_by(problems, counts_N_C_4.reshape(len(processes), -1)))
    by_class = {name: partial(_counts_of, names=(name,), classes=classes) for name in classes}
    measured_names = [name for name in classes if name != CORRECT]

    def score_of(name: str, sums: Floats) -> Floats:
        return (f1 if name in (WITHOUT_ERRORS, CORRECT) else prm_score)(by_class[name](sums))

    def overall(sums: Floats) -> Floats:
        return prm_score(_counts_of(sums, measured_names, classes))

    def category_score(names: Sequence[str], sums: Floats) -> Floats:
        return np.asarray(np.mean([score_of(name, sums) for name in names], axis=0))

    rows = []
    for name in classes:
        counts = by_class[name](resamples.sums_K)
        class_processes = [process for process in processes if process.classification == name]
        rows.append(
            {
                "name": name,
                "prm_score": asdict(resamples.measured(partial(score_of, name))),
                "f1": float(f1(counts)),
                "negative_f1": float(negative_f1(counts)),
                **_accuracies(counts),
                "num_processes": len(class_processes),
                "num_steps": int(counts.sum()),
                "num_wrong_steps": int(counts[1] + counts[2]),
                "num_errors_beyond": sum(process.num_errors_beyond for process in class_processes),
            }
        )
    present = {
        category: [name for name in names if name in classes] for category, names in CATEGORIES.items()
    }
    found = {
        "overall": {
            "prm_score": asdict(resamples.measured(overall)),
            **_accuracies(_counts_of(resamples.sums_K, measured_names, classes)),
        },
        "categories": [
            {
                "name": category,
                "classes": names,
                "prm_score": asdict(resamples.measured(partial(category_score, names))),
            }
            for category, names in present.items()
            if names
        ],
        "classes": rows,
        "digest": content_key(
            [[process.question, process.steps, sorted(process.wrong_idxs)] for process in processes]
        ),
        "refused": scored.summary(),
    }
    return write_results(out, "prmbench", scorer.name, asdict(config), found)


def _counts_of(sums: Floats, names: Sequence[str], classes: Sequence[str]) -> Floats:
    """Return counts [.., 4] of several classes together, from sums [.., C * 4]."""
    by_class: Floats = sums.reshape(*sums.shape[:-1], len(classes), 4)
    together: Floats = by_class[..., [classes.index(name) for name in names], :].sum(axis=-2)
    return together


def _accuracies(counts_4: Floats) -> dict[str, float | None]:
    """Return the accuracies on right and on wrong steps; None if there are no such steps."""
    num_right, num_wrong = counts_4[0] + counts_4[3], counts_4[1] + counts_4[2]
    return {
        "accuracy_on_right": float(counts_4[0] / num_right) if num_right else None,
        "accuracy_on_wrong": float(counts_4[2] / num_wrong) if num_wrong else None,
    }
