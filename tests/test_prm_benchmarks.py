"""Public benchmarks of PRMs: formulas against closed forms, brute force and published numbers; kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoints import make_public_prm
from forkpoint import formats
from forkpoint.cli.app import main
from forkpoint.errors import ConfigDiffers, LayoutError
from forkpoint.estimates import bin_sums, bootstrap, brier, ece, ratio
from forkpoint.evaluation.first_errors import first_error, spans_of
from forkpoint.grading.unread import Unread
from forkpoint.prm_benchmarks import (
    BestOfNConfig,
    CalibrationConfig,
    CandidateColumns,
    PRMBenchConfig,
    ProcessBenchConfig,
    best_of_n,
    calibration,
    prmbench,
    processbench,
    read_candidates,
    read_processes,
    read_subsets,
)
from forkpoint.prm_benchmarks.candidates import cut
from forkpoint.prm_benchmarks.processbench import (
    acc_correct,
    acc_error,
    counts_from_one,
    f1,
    first_wrong_step,
    sums_of,
)
from forkpoint.prm_benchmarks.resampling import Resamples, sums_by
from forkpoint.records import LabelledSolution
from forkpoint.runs import LocalExecutor
from labelled import label, visible_errors

DATA = Path(os.environ.get("FORKPOINT_DATA", Path(__file__).parents[2] / "shared" / "data"))
PAGES = Path(__file__).parents[1] / "docs" / "reference" / "benchmarks"
QUIET = LocalExecutor(chunk_size=4, progress=False)


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (DATA / name).is_file(), reason=f"needs {name} in the directory FORKPOINT_DATA"
    )


class FunctionScorer:
    """Scores every step by a function of question, steps and index; refuses questions that say so."""

    name = "function"

    def __init__(self, score_of: Callable[[str, Sequence[str], int], float]) -> None:
        self.num_scored = 0
        self._score_of = score_of

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        if any("<refuse>" in question for question in questions):
            raise LayoutError("the question says so")
        self.num_scored += len(steps)
        return [
            [self._score_of(question, its_steps, idx) for idx in range(len(its_steps))]
            for question, its_steps in zip(questions, steps, strict=True)
        ]


def any_score(question: str, steps: Sequence[str], idx: int) -> float:
    """The same for the same step, with ties and both ends among them."""
    return random.Random(f"{question}{steps[: idx + 1]}").randint(0, 8) / 8


def oracle(solutions: Sequence[LabelledSolution]) -> FunctionScorer:
    """Scores every step what its label says."""
    labels = {(solution.question, solution.steps): solution.labels for solution in solutions}
    return FunctionScorer(lambda question, steps, idx: labels[question, tuple(steps)][idx].value)


def random_solutions(seed: int, num: int = 30) -> tuple[list[list[float]], list[int]]:
    rng = random.Random(seed)
    scores = [[rng.randint(0, 6) / 6 for _ in range(rng.randint(1, 4))] for _ in range(num)]
    return scores, [rng.randrange(-1, len(its_scores)) for its_scores in scores]


# ProcessBench


@pytest.mark.parametrize("threshold", [0.0, 1 / 6, 0.25, 0.5, 5 / 6, 1.0])
def test_processbench_figures_agree_with_predicting_solution_by_solution(threshold: float) -> None:
    scores, truths = random_solutions(0)
    sums = sums_of(spans_of(scores, truths), ["p"] * len(scores), threshold)[0]
    by_hand = first_error(scores, truths, threshold)
    assert [float(figure(sums)) for figure in (f1, acc_error, acc_correct)] == [
        by_hand.f1,
        by_hand.acc_error,
        by_hand.acc_correct,
    ]


def test_the_best_threshold_is_the_best_of_all() -> None:
    for seed in range(20):
        scores, truths = random_solutions(seed)
        found = first_error(scores, truths, spans_of(scores, truths).best_threshold())
        tried = [
            first_error(scores, truths, (2 * idx + 1) / 12) for idx in range(-1, 8)
        ]  # one between all that scores can be
        assert (found.f1, found.acc_error + found.acc_correct) == max(
            (other.f1, other.acc_error + other.acc_correct) for other in tried
        )


def test_f1_is_zero_where_nothing_is_found_and_a_hand_drawn_case_has_its_value() -> None:
    assert f1(np.array([0.0, 3.0, 0.0, 2.0])) == 0
    scores, truths = [[0.9, 0.2], [0.4, 0.9], [0.9, 0.8], [0.7]], [1, 1, -1, -1]
    sums = sums_of(spans_of(scores, truths), ["a", "b", "c", "d"], 0.75)
    assert sums.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert f1(sums.sum(axis=0)) == 0.5
    assert f1(sums_of(spans_of(scores, truths), ["p"] * 4, 0.5)[0]) == pytest.approx(2 * 0.5 * 1 / 1.5)


def perfect_on(num_wrong: int, num_right: int, out: Path) -> dict[str, Any]:
    """Results of perfect scores on solutions of two steps, the last of which may be wrong."""
    truths = [1] * num_wrong + [-1] * num_right
    solutions = [
        LabelledSolution(
            str(idx), f"question {idx}", ("a\n", "b"), (label(1.0), label(float(truth == -1))), truth == -1
        )
        for idx, truth in enumerate(truths)
    ]
    return processbench(oracle(solutions), {"gsm8k": solutions}, out, executor=QUIET)


def test_resamples_without_one_kind_of_solutions_are_left_out_of_the_interval_of_f1(tmp_path: Path) -> None:
    (row,) = perfect_on(9, 1, tmp_path)["subsets"]
    assert (row["f1"]["value"], row["f1"]["low"], row["f1"]["high"]) == (1, 1, 1)
    assert (row["acc_correct"]["low"], row["acc_error"]["low"]) == (1, 1)


@pytest.mark.parametrize(("num_wrong", "num_right", "defined"), [(5, 0, "acc_error"), (0, 5, "acc_correct")])
def test_solutions_of_one_kind_have_no_f1(
    tmp_path: Path, num_wrong: int, num_right: int, defined: str
) -> None:
    results = perfect_on(num_wrong, num_right, tmp_path)
    (row,) = results["subsets"]
    undefined = {"acc_error", "acc_correct", "f1"} - {defined}
    assert row[defined]["value"] == 1
    assert all(row[name]["value"] is row[name]["low"] is row[name]["high"] is None for name in undefined)
    assert results["mean_f1"]["value"] is results["upper_bound_mean_f1"] is None
    assert json.loads((tmp_path / "results.json").read_text()) == results


def subsets(tmp_path: Path) -> dict[str, list[LabelledSolution]]:
    for seed, name in enumerate(("gsm8k", "math")):
        formats.write(tmp_path / f"{name}.json", "processbench", visible_errors(6, seed), separator="\n")
    return read_subsets([str(tmp_path / "gsm8k.json"), str(tmp_path / "math.json")])


def test_a_threshold_of_one_subset_is_used_on_the_others_and_their_own_best_is_an_upper_bound(
    tmp_path: Path,
) -> None:
    data = subsets(tmp_path)
    results = processbench(FunctionScorer(any_score), data, tmp_path / "out", executor=QUIET)
    gsm8k, math = results["subsets"]
    assert (results["threshold_from"], gsm8k["chose_threshold"], math["chose_threshold"]) == (
        "gsm8k",
        True,
        False,
    )
    assert (
        results["threshold"] == gsm8k["upper_bound"]["threshold"]
        and gsm8k["f1"]["value"] == gsm8k["upper_bound"]["f1"]
    )
    assert results["held_out_mean_f1"]["value"] == math["f1"]["value"] <= math["upper_bound"]["f1"]
    assert results["mean_f1"]["value"] == pytest.approx((gsm8k["f1"]["value"] + math["f1"]["value"]) / 2)
    assert math["f1"]["num_problems"] == 6 and math["num_solutions"] == 24
    for row, solutions in zip(results["subsets"], data.values(), strict=True):
        scores = [
            [any_score(item.question, item.steps, idx) for idx in range(len(item.steps))]
            for item in solutions
        ]
        by_hand = first_error(scores, [first_wrong_step(item) for item in solutions], results["threshold"])
        assert row["f1"]["value"] == by_hand.f1 and row["f1"]["low"] <= by_hand.f1 <= row["f1"]["high"]
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    assert results["versions"].keys() == {"forkpoint", "numpy", "torch", "transformers"}


def test_a_fixed_threshold_needs_no_subset_and_a_missing_one_is_named(tmp_path: Path) -> None:
    math = {"math": subsets(tmp_path)["math"]}
    results = processbench(
        FunctionScorer(any_score), math, tmp_path / "out", ProcessBenchConfig(threshold=0.5), QUIET
    )
    assert (results["threshold"], results["threshold_from"]) == (0.5, None)
    with pytest.raises(ValueError, match="'gsm8k' is to choose the threshold and is not among math"):
        processbench(FunctionScorer(any_score), math, tmp_path / "out", executor=QUIET)
    with pytest.raises(ValueError, match="two sources are named 'math'"):
        read_subsets([str(tmp_path / "math.json")] * 2)
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\]"):
        ProcessBenchConfig(threshold=1.5)


def test_mr_ben_and_mr_math_are_read_as_published_and_recognised(tmp_path: Path) -> None:
    ben = {
        "Question_UUID": "u",
        "Question": "q",
        "Model_Solution_Steps": ["Step 1: a", "Step 2: b"],
        "Model_Solution_Correctness": "incorrect",
        "Model_Solution_First_Error_Step": "2",
    }
    (tmp_path / "ben.json").write_text(
        json.dumps({"u": [ben, {**ben, "Model_Solution_First_Error_Step": "9"}], "v": [ben]})
    )
    row = {"question": "q", "model_output_step_format": [["a"], ["b"]]}
    lines = [json.dumps({**row, "model_output_solution_first_error_step": first}) for first in ("N/A", 1)]
    (tmp_path / "math.json").write_text("\n".join(lines) + "\n")
    sources = [str(tmp_path / "ben.json"), str(tmp_path / "math.json")]
    with pytest.raises(ValueError, match="row 1 is not a row of mr-ben: the first wrong step must be"):
        read_subsets(sources)
    told: list[str] = []
    data = read_subsets(sources, on_bad_row=told.append)
    assert [first_wrong_step(solution) for solution in data["ben"]] == [1, 1]
    assert [first_wrong_step(solution) for solution in data["math"]] == [-1, 0]
    assert len(told) == 1


@needs("processbench/gsm8k.json")
def test_a_file_that_counts_from_one_is_suspect_and_the_real_ones_are_not(tmp_path: Path) -> None:
    for name in ("gsm8k", "math"):
        source = DATA / "processbench" / f"{name}.json"
        (solutions,) = read_subsets([str(source)]).values()
        assert not counts_from_one(solutions)
        rows = [row for row in json.loads(source.read_text()) if row["label"] < len(row["steps"]) - 1]
        shifted = [{**row, "label": row["label"] + (row["label"] != -1)} for row in rows]
        (tmp_path / f"{name}.json").write_text(json.dumps(shifted))
        (solutions,) = read_subsets([str(tmp_path / f"{name}.json")]).values()
        assert counts_from_one(solutions)
        assert not counts_from_one(solutions[:20])


def test_a_refused_solution_is_never_right_and_costs_no_other(tmp_path: Path) -> None:
    solutions = visible_errors(4)
    refused = [replace(solution, question=f"<refuse> {solution.question}") for solution in solutions[:3]]
    scorer = oracle(solutions)
    results = processbench(scorer, {"gsm8k": solutions + refused}, tmp_path, executor=QUIET)
    assert results["refused"] == {"num": 3, "reasons": ["the question says so"]}
    assert scorer.num_scored == len(solutions)
    (row,) = results["subsets"]
    num_right = row["acc_error"]["value"] * row["num_with_error"] + row["acc_correct"]["value"] * (
        19 - row["num_with_error"]
    )
    assert num_right == pytest.approx(len(solutions))
    processbench(scorer, {"gsm8k": solutions + refused}, tmp_path, executor=QUIET)
    assert scorer.num_scored == len(solutions)


@needs("processbench/gsm8k.json")
def test_an_oracle_is_perfect_on_the_real_processbench(tmp_path: Path) -> None:
    data = read_subsets([str(DATA / "processbench" / f"{name}.json") for name in ("gsm8k", "math")])
    scorer = oracle([solution for solutions in data.values() for solution in solutions])
    results = processbench(scorer, data, tmp_path, executor=LocalExecutor(progress=False))
    assert [(row["num_solutions"], row["num_with_error"]) for row in results["subsets"]] == [
        (400, 207),
        (1000, 594),
    ]
    assert all(
        row[figure]["value"] == row[figure]["low"] == 1
        for row in results["subsets"]
        for figure in ("f1", "acc_error", "acc_correct")
    )
    assert results["mean_f1"]["value"] == results["upper_bound_mean_f1"] == 1
    assert results["subsets"][0]["f1"]["num_problems"] == 375  # several generators solved the same question


# PRMBench


def process(idx: str, classification: str, num_steps: int, error_steps: Sequence[int]) -> dict[str, Any]:
    steps = [f"{classification} {idx} {step}" for step in range(1, num_steps + 1)]
    return {
        "idx": idx, "classification": classification, "original_question": f"{idx}?",
        "modified_question": f"{idx}!",
        "original_process": ["right", "so"], "modified_process": steps, "error_steps": error_steps,
    }  # fmt: skip


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_prmscore_has_its_closed_form_by_class_category_and_overall(tmp_path: Path) -> None:
    rows = [
        process("a", "circular", 4, [2, 3, 9]),
        process("a", "circular", 4, []),  # a second row of one class and idx does not count
        process("a", "redundency", 2, [1]),
        process("b", "multi_solutions", 3, []),
        process("b", "deception", 2, [2]),
    ]
    accepted = {
        "circular a 1",
        "circular a 2",
        "redundency a 1",
        "multi_solutions b 1",
        "deception b 1",
        "right",
    }
    scorer = FunctionScorer(lambda _, steps, idx: 0.9 if steps[idx].strip() in accepted else 0.5)
    results = prmbench(
        scorer, read_processes([write_jsonl(tmp_path / "rows.jsonl", rows)]), tmp_path / "out", executor=QUIET
    )
    classes = {row["name"]: row for row in results["classes"]}
    # circular: TP 1, FP 1, TN 1, FN 1; redundency: FP 1, FN 1;
    # multi_solutions: TP 1, FN 2; deception: TP 1, TN 1
    scores = {"circular": 0.5, "redundency": 0.0, "multi_solutions": 0.5, "deception": 1.0, "correct": 2 / 3}
    assert {name: row["prm_score"]["value"] for name, row in classes.items()} == pytest.approx(scores)
    categories = {row["name"]: row["prm_score"]["value"] for row in results["categories"]}
    assert categories == pytest.approx({"simplicity": 0.25, "sensitivity": 0.75})
    # overall without `correct`: TP 3, FP 2, TN 2, FN 4
    assert results["overall"]["prm_score"]["value"] == pytest.approx((6 / 12 + 4 / 10) / 2)
    assert (classes["circular"]["num_errors_beyond"], classes["circular"]["num_wrong_steps"]) == (1, 2)
    assert (
        classes["multi_solutions"]["accuracy_on_wrong"] is None
        and classes["correct"]["accuracy_on_right"] == 0.5
    )


def test_only_redundency_gives_correct_processes_and_numbers_of_steps_are_removed(tmp_path: Path) -> None:
    rows = [process("a", "redundency", 1, []), process("b", "circular", 1, [])]
    rows[1]["modified_process"] = ["Step 1. So  ", "2. Then", "0.5 is half", "29."]
    redundant, correct, circular = read_processes([write_jsonl(tmp_path / "rows.jsonl", rows)])
    assert (correct.classification, correct.question, correct.steps) == ("correct", "a?", ("right\n", "so"))
    assert (redundant.question, circular.steps) == ("a!", ("So\n", "Then\n", "0.5 is half\n", "29."))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"classification": "redundancy"},
            "line 1 is not a row of PRMBench: classification 'redundancy' is unknown; there are redundency",
        ),
        ({"error_steps": [0]}, r"error_steps must be numbers of steps, from 1; they are \[0\]"),
        ({"modified_process": []}, "holds no steps"),
        ({"idx": 3}, "column 'idx' must hold a string"),
    ],
)
def test_a_row_that_is_not_prmbench_is_refused_with_its_line(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_processes([write_jsonl(tmp_path / "rows.jsonl", [process("a", "circular", 2, [1]) | change])])


@needs("prmbench/subset400.jsonl")
def test_the_real_prmbench_agrees_with_counting_step_by_step(tmp_path: Path) -> None:
    path = DATA / "prmbench" / "subset400.jsonl"
    processes = read_processes([str(path)])
    results = prmbench(
        FunctionScorer(any_score), processes, tmp_path, PRMBenchConfig(0.5), LocalExecutor(progress=False)
    )
    assert [row["num_processes"] for row in results["classes"]] == [48] * 8 + [10, 48]
    assert sum(row["num_errors_beyond"] for row in results["classes"]) == 12
    assert results["overall"]["prm_score"]["num_problems"] == 150
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    truths, guesses = [], []
    for row, its in zip(rows, (item for item in processes if item.classification != "correct"), strict=True):
        truths += [number not in row["error_steps"] for number in range(1, len(its.steps) + 1)]
        guesses += [any_score(its.question, its.steps, idx) > 0.5 for idx in range(len(its.steps))]
    f1s = []
    for kind in (True, False):
        hits = sum(truth == guess == kind for truth, guess in zip(truths, guesses, strict=True))
        precision, recall = hits / guesses.count(kind), hits / truths.count(kind)
        f1s.append(2 * precision * recall / (precision + recall))
    assert results["overall"]["prm_score"]["value"] == pytest.approx(sum(f1s) / 2)
    wrong = {(item.question, item.steps): item.wrong_idxs for item in processes}
    oracle = FunctionScorer(lambda question, steps, idx: float(idx not in wrong[question, tuple(steps)]))
    perfect = prmbench(oracle, processes, tmp_path / "oracle", executor=LocalExecutor(progress=False))
    assert {
        row["prm_score"]["low"] for row in (perfect["overall"], *perfect["classes"], *perfect["categories"])
    } == {1.0}


# Best of N


def candidate_rows() -> list[dict[str, Any]]:
    return [
        {
            "question": "2 + 2?",
            "answer": "4",
            "candidates": ["It is 4", "It is 5", "It is $5.0$", "No idea"],
            "said": [1, 0, 0, 0],
        },
        {
            "question": "1 / 2?",
            "answer": 0.5,
            "candidates": ["So\n\nThe answer is 1/2", "0.5", "0.50", "2"],
            "said": [0, 1, 1, 0],
        },
    ]


def accuracies(results: dict[str, Any]) -> dict[tuple[str, str | None, int], float]:
    return {(row["select"], row["aggregate"], row["n"]): row["accuracy"]["value"] for row in results["rows"]}


def test_verdicts_answers_and_scores_are_ours_or_those_of_the_columns_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "candidates.jsonl", candidate_rows())
    ours = best_of_n(read_candidates(path, CandidateColumns(grader="numeric")), tmp_path / "ours")
    assert accuracies(ours) == {
        ("majority", None, 1): 0.5, ("majority", None, 2): 0.75, ("majority", None, 4): 0.5,
        ("oracle", None, 1): 0.5, ("oracle", None, 2): 0.75, ("oracle", None, 4): 1.0,
    }  # fmt: skip
    assert ours["gains"] == [] and ours["scores"] is None
    said = best_of_n(
        read_candidates(path, CandidateColumns(verdicts="said", answers="candidates")), tmp_path / "said"
    )
    assert accuracies(said)["majority", None, 4] == 0.5  # no two texts are equal, so the first candidate wins
    assert accuracies(said)["oracle", None, 1] == (1 / 4 + 2 / 4) / 2


def test_candidates_without_an_answer_are_counted_and_the_grader_that_reads_them_is_named(
    tmp_path: Path,
) -> None:
    solution = "There are two of them at first, and two more come. " * 5 + "So that makes {}"
    texts = [solution.format(4), solution.format(5), "<think>4", "The answer is 4"]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "answer": "4", "candidates": texts}])
    file = read_candidates(path)
    assert file.unread == Unread(4, num_without_answer=2, num_cut_off=1, likely_grader="numeric")
    assert best_of_n(file, tmp_path / "out")["unread"]["num_without_answer"] == 2
    read = read_candidates(path, CandidateColumns(grader="numeric", reasoning="read"))
    assert read.unread == Unread(4)


def test_a_prm_picks_by_every_aggregate_and_gains_are_paired(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "candidates.jsonl", candidate_rows())
    scorer = FunctionScorer(
        lambda _, steps, idx: 0.9 if any(right in steps[-1] for right in ("4", "1/2")) else 0.2
    )
    results = best_of_n(
        read_candidates(path, CandidateColumns(grader="numeric")),
        tmp_path / "out",
        scorer,
        BestOfNConfig("lines"),
        QUIET,
    )
    found = accuracies(results)
    assert {found["best", how, 4] for how in ("last", "min", "prod", "mean")} == {1.0}
    assert found["weighted", "min", 4] == 1.0  # 0.9 for 4 against 0.2 + 0.2 for 5
    gains = {(row["select"], row["aggregate"], row["n"]): row["gain"] for row in results["gains"]}
    assert gains["best", "min", 4]["value"] == 0.5 and gains["best", "min", 4]["low"] >= 0
    assert {name: gain["value"] for name, gain in gains.items()} == {
        (select, how, n): found[select, how, n] - found["majority", None, n]
        for select, how, n in found
        if how is not None
    }
    with pytest.raises(ValueError, match="say lines, paragraphs or whole"):
        best_of_n(read_candidates(path), tmp_path / "out", scorer, executor=QUIET)


def test_scores_outside_zero_and_one_rank_and_do_not_vote(tmp_path: Path) -> None:
    rows = [
        {
            "question": "q",
            "answer": "1",
            "candidates": [{"text": "1", "its": [-3.0, 2.0]}, {"steps": ["so", "2"], "its": [1.5, 1.0]}],
        }
    ]
    file = read_candidates(write_jsonl(tmp_path / "rows.jsonl", rows), CandidateColumns(scores="its"))
    found = accuracies(best_of_n(file, tmp_path / "out"))
    assert {(select, how) for select, how, _ in found} == {
        ("majority", None), ("oracle", None), ("best", "last"), ("best", "min"), ("best", "mean")
    }  # fmt: skip
    assert (found["best", "last", 2], found["best", "min", 2]) == (1.0, 0.0)
    with pytest.raises(ValueError, match="a PRM's, for all problems, or the file's"):
        best_of_n(file, tmp_path / "out", FunctionScorer(any_score), BestOfNConfig("lines"))


@pytest.mark.parametrize("how", ["lines", "paragraphs", "whole"])
def test_steps_of_a_candidate_joined_are_its_text(how: Any) -> None:
    for text in ("a\nb\n\nc\n \n\nd\n", "\n\na\n\n\nb", "a", "", " \n", "\na\nb\n\n"):
        assert "".join(cut(text, how)) == text
    assert cut("a\nb\n\nc\n \n\nd\n", "paragraphs") == ("a\nb\n\n", "c\n \n\n", "d\n")


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        ({"candidates": []}, {}, "line 1 is not a problem with candidates: column 'candidates' is empty"),
        ({"candidates": [3]}, {}, "a candidate is a text, a list of steps, or a record"),
        ({"said": [1]}, {"verdicts": "said"}, "column 'said' has 1 entries for 4 candidates"),
        ({"said": ["yes"] * 4}, {"verdicts": "said"}, "must hold true or false for every candidate"),
        ({"said": [None] * 4}, {"scores": "said"}, "a number or a list of numbers"),
        ({"said": [float("nan")] * 4}, {"scores": "said"}, "a number or a list of numbers"),
        ({"candidates": ["4", {"text": "5", "its": 1}]}, {"scores": "its"}, "there is no column 'its'"),
        ({}, {"question": "problem"}, "there is no column 'problem'"),
    ],
)
def test_a_row_without_candidates_is_refused_with_its_line(
    change: dict[str, Any], columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_candidates(
            write_jsonl(tmp_path / "rows.jsonl", [candidate_rows()[0] | change]), CandidateColumns(**columns)
        )


@needs("samples_same_model/math_cot_100.jsonl")
def test_the_commands_of_the_page_give_its_published_numbers_and_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "math_cot_100.jsonl").symlink_to(
        (DATA / "samples_same_model" / "math_cot_100.jsonl").resolve()
    )
    page = (PAGES / "best_of_n.md").read_text()
    for where, expected in (("published", (0.93, 0.94, 0.96)), ("ours", (0.94, 0.96, 0.98))):
        (command,) = (
            command for command in commands_in(PAGES / "best_of_n.md") if command[-1] == f"runs/{where}"
        )
        run_command(command, capsys)
        results = json.loads((tmp_path / "runs" / where / "results.json").read_text())
        found = accuracies(results)
        assert (found["majority", None, 8], found["best", "last", 8], found["oracle", None, 8]) == expected
        row = next(
            line
            for line in page.splitlines()
            if line.startswith({"published": "| the file's", "ours": "| ours"}[where])
        )
        for select in ("majority", "best", "oracle"):
            its = next(
                item["accuracy"] for item in results["rows"] if (item["select"], item["n"]) == (select, 8)
            )
            assert f"{its['value']:.3f} ({its['low']:.3f} .. {its['high']:.3f})" in row
        (gain,) = (item["gain"] for item in results["gains"] if item["n"] == 8)
        assert f"{gain['value']:+.3f} ({gain['low']:+.3f} .. {gain['high']:+.3f})" in row


# Calibration


def test_calibration_error_and_brier_have_their_closed_form() -> None:
    sums = bin_sums(np.array([0.1, 0.15, 0.9, 1.0]), np.array([0.0, 1.0, 1.0, 0.5]), 10)
    # bin 1: mean score 0.125, mean label 0.5; bin 9: mean score 0.95, mean label 0.75; half of the steps each
    assert ece(sums) == pytest.approx((0.375 + 0.2) / 2)
    assert brier(sums) == pytest.approx((0.01 + 0.7225 + 0.01 + 0.25) / 4)
    assert np.flatnonzero(sums[:, 0]).tolist() == [1, 9]
    with pytest.raises(ValueError, match=r"scores from 0 to 1; -1 to 0.5 were given"):
        bin_sums(np.array([0.5, -1.0]), np.array([1.0, 1.0]), 10)


def test_scores_that_are_the_labels_are_calibrated_in_every_bin(tmp_path: Path) -> None:
    rng = random.Random(0)
    solutions = [
        replace(item, labels=tuple(label(rng.randint(0, 16) / 16) for _ in item.labels))
        for item in visible_errors(6)
    ]
    results = calibration(oracle(solutions), solutions, tmp_path, executor=QUIET)
    assert (results["ece"]["value"], results["ece"]["high"], results["brier"]["value"]) == (0, 0, 0)
    assert all(
        row["mean_score"] == pytest.approx(row["mean_label"]["value"]) for row in results["reliability"]
    )
    assert (
        sum(row["num_steps"] for row in results["reliability"])
        == results["num_steps"]
        == sum(len(item.steps) for item in solutions)
    )


def test_steps_past_the_first_error_are_left_out_where_asked(tmp_path: Path) -> None:
    solutions = visible_errors(6)
    results = calibration(
        FunctionScorer(any_score), solutions, tmp_path, CalibrationConfig(5, past_first_error=False), QUIET
    )
    kept = [
        item.labels[: first_wrong_step(item) + 1] if not item.is_correct else item.labels
        for item in solutions
    ]
    assert results["num_steps"] == sum(map(len, kept)) < sum(len(item.labels) for item in solutions)
    assert results["mean_label"]["value"] == pytest.approx(
        sum(
            item.is_correct * len(item.labels) + (not item.is_correct) * (first_wrong_step(item))
            for item in solutions
        )
        / results["num_steps"]
    )
    assert [(row["from"], row["to"]) for row in results["reliability"]] == [
        (0.0, 0.2),
        (0.2, 0.4),
        (0.4, 0.6),
        (0.6, 0.8),
        (0.8, 1.0),
    ]


# What all share


def test_an_interval_of_a_mean_is_the_bootstrap_s_and_a_problem_s_solutions_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(60)
    plain = bootstrap(values)

    def mean(sums: Any) -> Any:
        return ratio(sums[..., 0], sums[..., 1])

    once = Resamples.of(np.stack([values, np.ones(60)], axis=1)).measured(mean)
    assert once.value == pytest.approx(plain.mean) and once.num_problems == 60
    assert (once.low, once.high) == pytest.approx((plain.low, plain.high), abs=0.01)
    names, copies = [f"p{idx}" for idx in range(60)] * 5, np.tile(values, 5)
    fivefold = Resamples.of(sums_by(names, np.stack([copies, np.ones(300)], axis=1))).measured(mean)
    assert asdict(fivefold) == pytest.approx(asdict(once))


def killed_scoring(out: Path) -> None:
    """A benchmark that is killed after 10 solutions, without a chance to clean up."""
    solutions = visible_errors(6)
    scorer = FunctionScorer(any_score)
    scored_of = scorer.score

    def score(questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        if scorer.num_scored >= 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return scored_of(questions, steps)

    scorer.score = score  # type: ignore[method-assign]
    processbench(scorer, {"gsm8k": solutions}, out, executor=QUIET)


@pytest.mark.slow
def test_a_killed_benchmark_goes_on_without_scoring_again_and_ends_the_same(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=killed_scoring, args=(tmp_path / "killed",))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "killed" / "results.json").exists()
    scorer, solutions = FunctionScorer(any_score), visible_errors(6)
    num_distinct = len({(item.question, item.steps) for item in solutions})
    assert processbench(scorer, {"gsm8k": solutions}, tmp_path / "killed", executor=QUIET)["subsets"]
    assert scorer.num_scored == num_distinct - 8
    processbench(FunctionScorer(any_score), {"gsm8k": solutions}, tmp_path / "whole", executor=QUIET)
    for name in ("results.json", "scores/journal.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    config = ProcessBenchConfig(threshold=0.3)
    processbench(scorer, {"gsm8k": solutions}, tmp_path / "killed", config, QUIET)
    calibration(scorer, solutions, tmp_path / "killed", executor=QUIET)
    assert scorer.num_scored == num_distinct - 8
    scorer.name = "another"
    with pytest.raises(ConfigDiffers, match="scorer"):
        calibration(scorer, solutions, tmp_path / "killed", executor=QUIET)


def commands_in(page: Path) -> list[list[str]]:
    lines = page.read_text().replace("\\\n", "").splitlines()
    return [line.split()[1:] for line in lines if line.startswith("    forkpoint ")]


def run_command(command: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    return shown.out


def test_the_commands_of_the_pages_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where a directory has the name of the checkpoint on the hub
    make_public_prm(tmp_path / "Qwen" / "Qwen2.5-Math-PRM-7B", "qwen")
    subsets(tmp_path)
    write_jsonl(
        tmp_path / "prmbench.jsonl", [process("a", "redundency", 2, [1]), process("b", "circular", 3, [2])]
    )
    write_jsonl(tmp_path / "candidates.jsonl", candidate_rows())
    published = [
        {
            **row,
            "response": row["candidates"],
            "pred": ["4"] * 4,
            "score": [True] * 4,
            "pred_score": [[3.5]] * 4,
        }
        for row in candidate_rows()
    ]
    write_jsonl(tmp_path / "math_cot_100.jsonl", published)
    found = {page.stem: commands_in(page) for page in PAGES.glob("*.md")}
    assert {page: [command[1] for command in commands] for page, commands in found.items()} == {
        "processbench": ["processbench"], "prmbench": ["prmbench"],
        "best_of_n": ["best-of-n"] * 3, "calibration": ["calibration"]
    }  # fmt: skip
    for command in (command for commands in found.values() for command in commands):
        assert "Written: " in run_command(command, capsys)
        results = json.loads((tmp_path / command[-1] / "results.json").read_text())
        assert results["benchmark"] == command[1]
        assert (results["prm"] or "").startswith("Qwen2.5-Math-PRM-7B-") or "pred_score" in command


def test_links_and_figures_of_the_pages_exist(tmp_path: Path) -> None:
    solutions = visible_errors(3)
    results = {
        "processbench": processbench(
            FunctionScorer(any_score), {"gsm8k": solutions}, tmp_path, executor=QUIET
        ),
        "calibration": calibration(FunctionScorer(any_score), solutions, tmp_path, executor=QUIET),
    }
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
    for name, found in results.items():
        first_cells = [
            line.split("|")[1]
            for line in (PAGES / f"{name}.md").read_text().splitlines()
            if line.startswith("| `")
        ]
        keys = found.keys() | (found["subsets"][0].keys() if name == "processbench" else set())
        assert {figure for cell in first_cells for figure in re.findall(r"`(\w+)`", cell)} <= keys
