"""PRMBench (arXiv 2501.03124): does a PRM tell right steps from wrong ones, for nine kinds of error?

A step that scores above the threshold is taken for right. The rule is that of the authors' evaluation code (ssmisya/PRMBench,
task `prmtest_classified` and its tables):
- The steps are `modified_process`, the question `modified_question`; `error_steps` count from 1. An error step beyond the last
  step counts for nothing (there are some in the published files); we say how many.
- Over the steps of a class, right steps being the positives, PRMScore = 0.5 F1 + 0.5 negative F1; of `multi_solutions`, which
  has no wrong steps, it is F1. An F1 is 2 hits / (2 hits + misses + false alarms) of its kind.
- The overall PRMScore pools the steps of all classes: a class weighs as many steps as it has. Simplicity, soundness and
  sensitivity are unweighted means of their classes' PRMScores.
- `original_process` of the rows of `redundency` (spelled so) is the class `correct`, given beside the others and no part of the
  overall figure. Of rows with the same class and `idx` the first one counts.
- A number in front of a step (`Step 3.`, `3.`) is removed; unlike there, not the `0.` of `0.5`, nor all of a step.
Different from that code: an F1 without hits is 0, where it writes -1 in some cases. As there, a process that the PRM refuses
is left out; it is counted in `refused`. The steps of `redundency` and `circular` are judged by the same scores as all others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from forkpoint.content_key import content_key
from forkpoint.estimates import Floats
from forkpoint.formats.cells import items, text
from forkpoint.formats.codec import texts_of
from forkpoint.formats.containers import read_rows
from forkpoint.formats.layout import separated
from forkpoint.prm_benchmarks.resampling import Resamples, ratio, sums_by
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
"""Put between steps, which are published without; those of PRM800K, where they come from, were lines."""


@dataclass(frozen=True)
class PRMBenchConfig:
    """What counts as taken for right."""

    threshold: float = 0.5
    """A step that scores more is taken for right (0.5 as the authors use it for scores that are probabilities)."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1; {self.threshold} was given")


@dataclass(frozen=True, slots=True)
class Process:
    """One solution of PRMBench."""

    problem_id: str
    classification: str
    question: str
    steps: tuple[str, ...]
    wrong_idxs: frozenset[int]
    """From 0, all of them steps that there are."""
    num_errors_beyond: int = 0
    """Error steps beyond the last step."""


def read_processes(sources: Sequence[str]) -> list[Process]:
    """PRMBench rows of .jsonl, .json or .parquet files or of a hub data set. ValueError names the row that does not fit."""
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
    """One, and the correct one too where its class has it."""
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
    """How many steps are right and taken for right (TP), wrong and taken for right (FP), wrong and not (TN), right and not (FN)."""
    counts = [0, 0, 0, 0]
    for idx, score in enumerate(step_scores):
        is_taken, is_wrong = score > threshold, idx in wrong_idxs
        counts[(1 if is_wrong else 0) if is_taken else (2 if is_wrong else 3)] += 1
    return counts[0], counts[1], counts[2], counts[3]


def f1(counts: Floats) -> Floats:
    """Of right steps; counts [.., 4] as `confusion` gives them."""
    return ratio(2 * counts[..., 0], 2 * counts[..., 0] + counts[..., 1] + counts[..., 3])


def negative_f1(counts: Floats) -> Floats:
    """Of wrong steps; counts [.., 4] as `confusion` gives them."""
    return ratio(2 * counts[..., 2], 2 * counts[..., 2] + counts[..., 1] + counts[..., 3])


def prm_score(counts: Floats) -> Floats:
    """0.5 F1 + 0.5 negative F1."""
    return (f1(counts) + negative_f1(counts)) / 2


def prmbench(
    scorer: Scorer,
    processes: Sequence[Process],
    out: Path,
    config: PRMBenchConfig = PRMBenchConfig(),
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Measure the scorer; writes OUT/results.json and returns it, scores are journaled in OUT.

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
        its_processes = [process for process in processes if process.classification == name]
        rows.append(
            {
                "name": name,
                "prm_score": asdict(resamples.measured(partial(score_of, name))),
                "f1": float(f1(counts)),
                "negative_f1": float(negative_f1(counts)),
                **_accuracies(counts),
                "num_processes": len(its_processes),
                "num_steps": int(counts.sum()),
                "num_wrong_steps": int(counts[1] + counts[2]),
                "num_errors_beyond": sum(process.num_errors_beyond for process in its_processes),
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
    """Counts [.., 4] of several classes together, out of sums [.., C * 4]."""
    by_class: Floats = sums.reshape(*sums.shape[:-1], len(classes), 4)
    together: Floats = by_class[..., [classes.index(name) for name in names], :].sum(axis=-2)
    return together


def _accuracies(counts_4: Floats) -> dict[str, float | None]:
    """Of right and of wrong steps; None where there are none."""
    num_right, num_wrong = counts_4[0] + counts_4[3], counts_4[1] + counts_4[2]
    return {
        "accuracy_on_right": float(counts_4[0] / num_right) if num_right else None,
        "accuracy_on_wrong": float(counts_4[2] / num_wrong) if num_wrong else None,
    }
