"""Formats on records as they were published: all of them load, with the counts their sources state."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from forkpoint import formats

DATA = Path(os.environ.get("FORKPOINT_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "processbench").is_dir() or not (DATA / "prm800k_phase1_test").is_dir(),
    reason=f"needs the folders processbench and prm800k_phase1_test in {DATA} (set FORKPOINT_DATA)",
)
PRM800K = DATA / "prm800k_phase1_test"


@needs_data
@pytest.mark.parametrize(("subset", "num_rows", "num_wrong"), [("gsm8k", 400, 207), ("math", 1000, 594)])
def test_processbench_loads_and_is_written_as_it_was(
    subset: str, num_rows: int, num_wrong: int, tmp_path: Path
) -> None:
    source = DATA / "processbench" / f"{subset}.json"
    rows = json.loads(source.read_text(encoding="utf-8"))
    found = list(formats.read(source, "processbench"))
    assert len(found) == num_rows
    assert sum(any(label.value == 0 for label in solution.labels) for solution in found) == num_wrong
    for row, solution in zip(rows, found, strict=True):
        assert [label.value for label in solution.labels].count(1.0) == (
            len(row["steps"]) if row["label"] == -1 else row["label"]
        )
        assert "".join(solution.steps) == "\n\n".join(row["steps"])
    assert formats.write(tmp_path / "again.parquet", "processbench", found) == num_rows
    assert list(formats.read(tmp_path / "again.parquet", "processbench")) == found
    formats.write(tmp_path / "again.json", "processbench", found)
    again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
    assert [{**row, "generator": "unknown"} for row in rows] == again


@needs_data
def test_math_shepherd_loads_and_is_written_as_it_was(tmp_path: Path) -> None:
    source = PRM800K / "samples_math-shepherd.jsonl"
    found = list(formats.read(source, "math-shepherd"))
    assert [[int(label.value) for label in solution.labels] for solution in found] == [
        [1, 1, 1, 1, 0],
        [0, 0, 0],
        [0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0],
        [0, 0, 0],
    ]
    assert all(
        solution.steps[0].startswith("Step 1: ") and "ки" not in "".join(solution.steps) for solution in found
    )
    assert found[0].question.endswith("in a year?")
    formats.write(tmp_path / "again.jsonl", "math-shepherd", found, task="GSM8K")
    rows = [
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in (source, tmp_path / "again.jsonl")
    ]
    assert rows[0] == rows[1]


@needs_data
def test_prm800k_raw_records_load_along_the_trajectory() -> None:
    source = PRM800K / "samples_prm800k.jsonl"
    positive, negative = (
        list(formats.read(source, "prm800k", neutral=neutral)) for neutral in ("positive", "negative")
    )
    assert [len(solution.steps) for solution in positive] == [6, 7, 5, 7, 8, 12]
    assert [solution.is_correct for solution in positive] == [True, False, True, True, False, True]
    assert Counter(label.value for solution in positive for label in solution.labels) == {1.0: 44, 0.0: 1}
    assert Counter(label.value for solution in negative for label in solution.labels) == {1.0: 43, 0.0: 2}
    raw = [json.loads(line)["question"] for line in source.read_text(encoding="utf-8").splitlines()]
    for idx in (1, 5):
        # phase 2 rates a solution that was there before, so a solution that is read must be that one
        steps = raw[idx]["pre_generated_steps"]
        assert "".join(positive[idx].steps) == "\n".join(steps[: len(positive[idx].steps)])
    assert positive[0].steps[1] == "We have $3p+e=1.24$ and $5p+e=1.82$.\n"


@needs_data
def test_openr_s_flattened_prm800k_loads_as_openrlhf(tmp_path: Path) -> None:
    found = list(
        formats.read(PRM800K / "multi-step.json", "openrlhf", input_key="process", label_key="labels")
    )
    assert len(found) == 310
    assert Counter(label.value for solution in found for label in solution.labels) == {1.0: 4898, 0.0: 1008}
    assert len({solution.problem_id for solution in found}) == len({solution.question for solution in found})
    formats.write(tmp_path / "trl.parquet", "trl", found, separator="", extras=True)
    assert list(formats.read(tmp_path / "trl.parquet", "trl", separator="")) == found
