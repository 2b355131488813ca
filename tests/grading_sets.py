"""Pairs of a reference and a real solution text, from public data sets, to compare verdicts on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("FORKPOINT_DATA", Path(__file__).parents[2] / "shared" / "data"))

Pairs = list[tuple[str, str]]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def gsm8k_solutions() -> Pairs:
    """Solutions of four models, with the reference solutions."""
    return [
        (row["ground_truth"], row[model]["solution"])
        for row in rows_of(DATA / "gsm8k" / "example_model_solutions.jsonl")
        for model in row
        if model.endswith(("finetuning", "verification"))
    ]


def gsm8k_references() -> Pairs:
    """Reference solutions, with the answers they end in."""
    rows = [row for name in ("train", "test") for row in rows_of(DATA / "gsm8k" / f"{name}.jsonl")]
    return [(row["answer"].rpartition("####")[2].strip(), row["answer"]) for row in rows]


def math_references() -> Pairs:
    """Reference solutions of MATH-500, with the answers."""
    return [(row["answer"], row["solution"]) for row in rows_of(DATA / "math" / "math500.jsonl")]


def math_neighbours() -> Pairs:
    """Every answer of MATH-500 with the answer to the next problem."""
    answers = [answer for answer, _ in math_references()]
    return list(zip(answers, answers[1:] + answers[:1], strict=True))


def math_samples() -> Pairs:
    """Eight solutions of one model for each of 100 problems."""
    rows = rows_of(DATA / "samples_same_model" / "math_cot_100.jsonl")
    return [(row["answer"], response) for row in rows for response in row["response"]]


def math_pairs() -> Pairs:
    """Answers of a model to MATH-500, some of them garbled."""
    pairs = json.loads((DATA / "grader_pairs" / "math500_gpt_answers.json").read_text(encoding="utf-8"))
    return [(pair["answer"], pair["prediction"]) for pair in pairs]


def arithmetic() -> Pairs:
    """Traces of multi-step arithmetic."""
    rows = rows_of(DATA / "bbm_arithmetic" / "multistep_arithmetic.jsonl")
    return [(row["target"], "\n".join(row["steps"])) for row in rows]


def processbench_gsm8k() -> Pairs:
    """Solutions of ProcessBench, with the reference solutions of GSM8K, whose problems they are of."""
    rows = [row for name in ("train", "test") for row in rows_of(DATA / "gsm8k" / f"{name}.jsonl")]
    references = {" ".join(row["question"].split()): row["answer"] for row in rows}
    return [
        (references[" ".join(row["problem"].split())], "\n\n".join(row["steps"]))
        for row in json.loads((DATA / "processbench" / "gsm8k.json").read_text(encoding="utf-8"))
    ]


def processbench_math() -> Pairs:
    """Solutions of ProcessBench, all with the reference 5, as the data has none."""
    rows = json.loads((DATA / "processbench" / "math.json").read_text(encoding="utf-8"))
    return [("5", "\n\n".join(row["steps"])) for row in rows]


def prm800k() -> Pairs:
    """Solutions of PRM800K, all with the reference 5, as the data has none."""
    rows = json.loads((DATA / "prm800k_phase1_test" / "multi-step.json").read_text(encoding="utf-8"))
    return [("5", row["process"].replace(" \u043a\u0438", "")) for row in rows]  # without step tags


def prmbench() -> Pairs:
    """Solutions of PRMBench, all with the reference 5, as the data has none."""
    rows = rows_of(DATA / "prmbench" / "subset400.jsonl")
    return [("5", "\n".join(row["original_process"])) for row in rows]


SETS: dict[str, Callable[[], Pairs]] = {
    "gsm8k solutions": gsm8k_solutions,
    "gsm8k references": gsm8k_references,
    "math references": math_references,
    "math neighbours": math_neighbours,
    "math samples": math_samples,
    "math pairs": math_pairs,
    "arithmetic": arithmetic,
    "processbench gsm8k": processbench_gsm8k,
    "processbench math": processbench_math,
    "prm800k": prm800k,
    "prmbench": prmbench,
}


def graded_sets() -> Iterator[tuple[str, str]]:
    """Return every set with each grader that it is graded by."""
    for name in SETS:
        yield name, "math"
        if name not in ("math neighbours", "math pairs"):
            yield name, "numeric"
