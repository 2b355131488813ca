"""What an older build left is read and continued: its runs, its PRM, its labels.

`fixtures/old_build` was made by version 0.1.0; its README has the commands. Each test gives the command line
that made a folder, once more, to a copy of that folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fork_server import forkpoint
from forkpoint.prms import load_prm

pytestmark = pytest.mark.slow

OLD = Path(__file__).parent / "fixtures" / "old_build"
LABEL = ["--max-tokens", "120"]
PLANS = {
    "trees": [*LABEL, "--num-leaves", "4"],
    "rollouts": [*LABEL, "--method", "er", "--eta", "2", "--num-solutions", "2", "--num-rollouts", "3"],
    "bisect": [
        *LABEL,
        "--method",
        "omega",
        "--bisect.search.num-rollouts",
        "4",
        "--bisect.search.max-searches",
        "2",
    ],
}
TRAIN = ["--learning-rate", "0.01", "--num-epochs", "4", "--batch-size", "2", "--micro-batch-size", "1"]
FORMAT = ["--format.tag", "#", "--format.max-length", "1024"]
TRUTH = ["--labels", "trees", "--prefixes.num-prefixes", "3", "--prefixes.num-rollouts", "4"]
EVALUATE = ["--num-samples", "2", "--max-tokens", "120", "--threshold-problems", "lab:valid?num=2", *TRUTH]
SEARCH = [
    "--method",
    "vote",
    "--method",
    "tree-vote",
    "--method",
    "beam",
    "--num-samples",
    "4",
    "--max-tokens",
    "120",
]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of everything, to work in."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def succeeded(old: Path, *arguments: str) -> str:
    """What a command line says that is given in the folder of the copies."""
    done = forkpoint(*arguments, cwd=old)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_key(run: Path) -> dict[str, dict[str, Any]]:
    rows = rows_of(run / "journal.jsonl")
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: row for row in rows}


def files_of(directory: Path) -> dict[str, bytes]:
    """All files but the locks, which note who wrote last."""
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def test_its_prm_gives_the_scores_that_it_gave() -> None:
    rows = rows_of(OLD / "scores.jsonl")
    scores = load_prm(OLD / "prm").score(
        [row["question"] for row in rows], [tuple(row["steps"]) for row in rows]
    )
    assert len(rows) == 10 and len({row["step_scores"][-1] for row in rows}) > 5
    for row, found in zip(rows, scores, strict=True):
        assert found == pytest.approx(row["step_scores"], abs=1e-5)


@pytest.mark.parametrize("plan", PLANS)
def test_a_finished_label_run_stays_as_it_is(plan: str, old: Path) -> None:
    before = files_of(old / plan)
    succeeded(old, "label", "lab:train?num=3", *PLANS[plan], "--out", plan)
    assert {"journal.jsonl", "labels.jsonl", "manifest.json"} <= before.keys()
    assert files_of(old / plan) == before


@pytest.mark.parametrize(
    ("plan", "value"),
    [("trees", ["er:2", "--weighting", "policy"]), ("rollouts", ["mean"]), ("bisect", ["hit"])],
)
def test_other_labels_of_its_outcomes_are_those_that_it_derived(
    plan: str, value: list[str], old: Path
) -> None:
    succeeded(old, "relabel", plan, "--value", *value, "--out", "labels.jsonl")
    assert (old / "labels.jsonl").read_bytes() == (OLD / "relabelled" / f"{plan}.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("plan", "num", "num_done", "num_rows"), [("trees", 6, 2, 6), ("rollouts", 3, 8, 21)]
)
def test_a_killed_label_run_goes_on_and_no_row_is_done_again(
    plan: str, num: int, num_done: int, num_rows: int, old: Path
) -> None:
    run = old / f"{plan}-killed"
    done = rows_of(run / "journal.jsonl")
    succeeded(old, "label", f"lab:train?num={num}", *PLANS[plan], "--batch-size", "1", "--out", run.name)
    assert len(done) == num_done
    assert rows_of(run / "journal.jsonl")[:num_done] == done
    assert len(by_key(run)) == num_rows
    assert by_key(run).keys() >= by_key(OLD / plan).keys(), (
        "the first problems are those of the run that was not killed"
    )
    assert (run / "manifest.json").is_file() and (run / "labels.jsonl").is_file()


def test_a_prm_is_trained_from_its_labels_as_it_was_then(old: Path) -> None:
    succeeded(
        old, "train", "trees", "--base", "base", "--out", "new", *TRAIN, *FORMAT, "--held-out-share", "0"
    )
    trained, expected, base = (load_file(old / name / "model.safetensors") for name in ("new", "prm", "base"))
    assert trained.keys() == expected.keys() == base.keys()
    for name, weight in expected.items():
        assert torch.allclose(trained[name], weight, atol=1e-4), name
    assert max(float((weight - base[name]).abs().max()) for name, weight in expected.items()) > 0.01
    assert (old / "new" / "forkpoint_prm.json").read_bytes() == (
        OLD / "prm" / "forkpoint_prm.json"
    ).read_bytes()


def test_a_finished_training_is_not_done_again(old: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (old / "prm").rglob("*.safetensors")}
    succeeded(old, "train", "trees", "--base", "base", "--out", "prm", *TRAIN, *FORMAT)
    assert before == {path: path.stat().st_mtime_ns for path in (old / "prm").rglob("*.safetensors")}
    assert files_of(old / "prm") == files_of(OLD / "prm")


def test_a_finished_evaluation_comes_to_the_same_results_without_a_new_row(old: Path) -> None:
    journals = [Path("evaluate", name, "journal.jsonl") for name in ("evaluate", "truth")]
    succeeded(old, "evaluate", "lab:test?num=3", "--prm", "prm", *EVALUATE, "--out", "evaluate")
    for path in journals:
        assert (old / path).read_bytes() == (OLD / path).read_bytes()
    found = json.loads((old / "evaluate" / "results.json").read_text())
    # an undefined correlation was NaN, which is not JSON
    written = (OLD / "evaluate" / "results.json").read_text()
    expected = json.loads(written, parse_constant=lambda _: None)
    # it neither said what it came from nor compared the default search with a majority and a greedy solution
    assert found.pop("origin")["prm"] == "prm"
    known = {item["name"] for item in expected["comparisons"]}
    assert [item["name"] for item in found["comparisons"] if item["name"] not in known] == [
        f"EDU policy-weighted vote of 2 (min) minus {rival}"
        for rival in ("HT T=0.7 majority-of-2", "HT greedy")
    ]
    found["comparisons"] = [item for item in found["comparisons"] if item["name"] in known]
    # its thresholds came from a grid that ended at 0.01; now they are exact
    assert found["first_error"]["num_solutions"] == expected["first_error"]["num_solutions"]
    unlike = {"seconds": None, "first_error": None}
    assert {**found, **unlike} == {**expected, **unlike}
    assert (old / "evaluate" / "trees.json").read_bytes() == (OLD / "evaluate" / "trees.json").read_bytes()


def test_its_results_make_a_report(old: Path) -> None:
    succeeded(old, "report", "evaluate")
    assert "Ada has 74 stamps" in (old / "evaluate" / "report.html").read_text(encoding="utf-8")


def test_a_finished_search_stays_as_it_is(old: Path) -> None:
    before = files_of(old / "search")
    succeeded(old, "search", "lab:test?num=2", "--prm", "prm", *SEARCH, "--out", "search")
    assert len(rows_of(old / "search" / "journal.jsonl")) == 6
    assert files_of(old / "search") == before
