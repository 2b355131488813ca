"""Formats, row by row: rows as they are published are read, and rows that do not fit are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from forkpoint.formats import FORMATS
from forkpoint.labels.leaves import wilson_interval
from forkpoint.records import LabelledSolution
from test_formats_round_trip import solution

SHEPHERD = {
    "input": "What is 2 + 2? Step 1: 2 + 2 = <<2+2=4>>4. ки\nStep 2: The answer is: 5 ки",
    "label": "What is 2 + 2? Step 1: 2 + 2 = <<2+2=4>>4. +\nStep 2: The answer is: 5 -",
    "task": "GSM8K",
}
STEPS = ("Step 1: 2 + 2 = <<2+2=4>>4.\n", "Step 2: The answer is: 5")
TURNS = [
    {"role": "user", "content": "What is 2 + 2? Step 1: 2 + 2 = <<2+2=4>>4."},
    {"role": "assistant", "content": "+"},
    {"role": "user", "content": "Step 2: The answer is: 5"},
    {"role": "assistant", "content": "-"},
]
TRL_ROW = {
    "prompt": "What is 2 + 2?",
    "completions": ["Step 1: 2 + 2 = <<2+2=4>>4.", "Step 2: The answer is: 5"],
    "labels": [True, False],
}
BENCH = {
    "id": "gsm8k-7",
    "generator": "Qwen2-7B-Instruct",
    "problem": "What is 2 + 2?",
    "steps": ["Two.", "Five.", "Ten."],
    "final_answer_correct": False,
    "label": 1,
}


def read(name: str, row: Mapping[str, Any], **options: Any) -> LabelledSolution:
    known = FORMATS[name]
    return known.codec(**{**known.preset, **options}).from_row(row)


def write(name: str, given: LabelledSolution, **options: Any) -> dict[str, Any]:
    known = FORMATS[name]
    writer: Any = known.codec(**{**known.preset, **options})
    row: dict[str, Any] = writer.to_row(given)
    return row


def values(given: LabelledSolution) -> list[float]:
    return [label.value for label in given.labels]


@pytest.mark.parametrize(
    ("name", "row", "options"),
    [
        ("math-shepherd", SHEPHERD, {"task": "GSM8K"}),
        ("er-prm", {"text": SHEPHERD["input"], "value": [1.0, 0.0]}, {}),
        ("openrlhf", {"input": SHEPHERD["input"], "value": [1.0, 0.0]}, {}),
        ("openrlhf", {"input": SHEPHERD["input"], "value": ["+", "-"]}, {"threshold": 0.5}),
        ("rlhflow", {"conversations": TURNS}, {}),
        ("trl", TRL_ROW, {}),
    ],
)
def test_a_published_row_is_read_as_its_steps_and_written_as_it_was(
    name: str, row: Mapping[str, Any], options: dict[str, Any]
) -> None:
    found = read(name, row)
    assert (found.question, found.steps, values(found), found.is_correct) == (
        "What is 2 + 2?",
        STEPS,
        [1.0, 0.0],
        False,
    )
    assert write(name, found, **options) == row


def test_labels_without_evidence_claim_none() -> None:
    for label in read("math-shepherd", SHEPHERD).labels:
        assert (label.num_correct, label.num_total, label.effective_size) == (0, 0, 0.0)
        assert (label.low, label.high) == (0.0, 1.0) == wilson_interval(label.value, 0)


def test_the_space_before_a_tag_belongs_to_the_tag() -> None:
    texts = ["q Step 1: a ки\nb ки", "q Step 1: aки\nbки", "q Step 1: a  ки\nb  ки"]
    steps = [read("er-prm", {"text": text, "value": [0.5, 0.25]}).steps for text in texts]
    assert steps == [("Step 1: a\n", "b"), ("Step 1: a\n", "b"), ("Step 1: a \n", "b ")]


def test_a_question_of_its_own_need_not_be_in_the_text() -> None:
    row = {"process": "Step: 1: a ки\nStep: 2: b ки", "labels": [1, 0], "question": "Why?"}
    found = read("openrlhf", row, input_key="process", label_key="labels")
    assert (found.question, found.steps, values(found)) == (
        "Why?",
        ("Step: 1: a\n", "Step: 2: b"),
        [1.0, 0.0],
    )
    with pytest.raises(
        ValueError, match="has the question of column 'question' in it, but does not begin with it"
    ):
        read(
            "openrlhf", {**row, "process": "Why?\nStep 1: a ки b ки"}, input_key="process", label_key="labels"
        )


@pytest.mark.parametrize("name", ["math-shepherd", "openrlhf", "er-prm"])
@pytest.mark.parametrize("part", ["question", "step"])
def test_a_text_that_holds_the_tag_is_refused(name: str, part: str) -> None:
    tagged = solution(
        ["a", "по ки рке" if part == "step" else "b"], [1, 0], question="руки?" if part == "question" else "q"
    )
    with pytest.raises(
        ValueError,
        match=f"the {part} holds the step tag 'ки'"
        if part == "question"
        else "step 2 holds the step tag 'ки'",
    ):
        write(name, tagged)
    assert read(name, write(name, tagged, tag="<step>", extras=True), tag="<step>").steps == tagged.steps


@pytest.mark.parametrize("name", ["math-shepherd", "rlhflow", "trl", "processbench"])
def test_soft_labels_are_not_hardened_without_a_threshold(name: str) -> None:
    soft = solution(["a\n\n", "b"], [1.0, 0.9])
    with pytest.raises(
        ValueError,
        match=r"step 2 has the label 0\.9, and this format holds right or wrong only; .*threshold=T",
    ):
        write(name, soft)
    for threshold, is_right in [(0.9, True), (math.nextafter(0.9, 1), False)]:
        options = {} if name == "math-shepherd" else {"separator": "\n\n"}
        row = write(name, soft, threshold=threshold, **options)
        hard = {
            "math-shepherd": lambda row: row["label"].endswith("+"),
            "rlhflow": lambda row: row["conversations"][-1]["content"] == "+",
            "trl": lambda row: row["labels"][-1],
            "processbench": lambda row: row["label"] == -1,
        }[name](row)
        assert hard is is_right


def test_trl_labels_are_booleans_and_numbers_are_read() -> None:
    row = write("trl", solution(["a\n", "b"], [1, 0]))
    assert row["labels"] == [True, False]
    assert all(isinstance(label, bool) for label in row["labels"])
    assert values(read("trl", {**TRL_ROW, "labels": [0.9, 0]})) == [0.9, 0.0]


@pytest.mark.parametrize("name", ["rlhflow", "trl", "processbench"])
def test_a_step_that_does_not_end_in_the_separator_is_written_only_as_it_is(name: str) -> None:
    inside_a_line = solution(["Step 1: a", " b;", "c"], [1, 1, 1])
    with pytest.raises(
        ValueError,
        match=r"step 1 does not end in the separator '.*', which a reader puts between steps.*separator=''",
    ):
        write(name, inside_a_line)
    assert read(name, write(name, inside_a_line, separator=""), separator="").steps == inside_a_line.steps


def test_processbench_counts_the_first_error_from_zero() -> None:
    found = read("processbench", BENCH)
    assert (found.problem_id, found.question, found.is_correct) == ("gsm8k-7", "What is 2 + 2?", False)
    assert found.steps == ("Two.\n\n", "Five.\n\n", "Ten.")
    assert values(found) == [1.0, 0.0, 0.0]
    assert write("processbench", found, generator="Qwen2-7B-Instruct") == BENCH
    assert values(read("processbench", {**BENCH, "label": -1})) == [1.0, 1.0, 1.0]
    assert values(read("processbench", {**BENCH, "label": 0})) == [0.0, 0.0, 0.0]


def test_a_processbench_label_that_counts_from_one_is_refused_with_the_likely_cause() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 2; it is 3: does the file count from 1\?"):
        read("processbench", {**BENCH, "label": 3})
    with pytest.raises(ValueError, match=r"from 0 to 2; it is -2$"):
        read("processbench", {**BENCH, "label": -2})


MR_BEN = {
    "Question_UUID": "u-1",
    "Question": "Which?",
    "Options": "A: 1 \nB: 2",
    "Model_Solution_Steps": [
        "Step 1: Look at A.",
        "- it is odd",
        "Step 2: Look at B.",
        "- even",
        "Solution: B",
    ],
    "Model_Solution_Correctness": "incorrect",
    "Model_Solution_First_Error_Step": "2",
}


def test_mr_ben_numbers_headings_from_one_and_lines_belong_to_the_heading_above() -> None:
    found = read("mr-ben", MR_BEN)
    assert (found.problem_id, found.question, found.is_correct) == ("u-1", "Which?\nA: 1 \nB: 2", False)
    assert found.steps == ("Step 1: Look at A.\n- it is odd\n", "Step 2: Look at B.\n- even\nSolution: B")
    assert values(found) == [1.0, 0.0]
    right = read(
        "mr-ben",
        {**MR_BEN, "Model_Solution_Correctness": "correct", "Model_Solution_First_Error_Step": "N/A"},
    )
    assert (right.is_correct, values(right)) == (True, [1.0, 1.0])
    led = read("mr-ben", {**MR_BEN, "Model_Solution_Steps": ["Let us see.", "Step 1: a", "Step 2: b"]})
    assert led.steps == ("Let us see.\nStep 1: a\n", "Step 2: b")


@pytest.mark.parametrize(
    "lines", [["first", "second"], ["Step 1: a", "Step 1: b"], ["Step 2: a", "Step 3: b"]]
)
def test_mr_ben_lines_without_headings_that_count_are_steps(lines: list[str]) -> None:
    assert len(read("mr-ben", {**MR_BEN, "Model_Solution_Steps": lines}).steps) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Model_Solution_First_Error_Step": "3"}, "one of 2 steps, from 1 to 2; it is 3$"),
        ({"Model_Solution_First_Error_Step": "0"}, "from 1 to 2; it is 0$"),
        ({"Model_Solution_First_Error_Step": "    else:"}, "must be N/A or a number"),
        ({"Model_Solution_Correctness": "maybe"}, "must be one of correct, incorrect"),
        ({"Model_Solution_Steps": "def f(): ..."}, "must hold a list"),
    ],
)
def test_mr_ben_refuses_what_names_no_step(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read("mr-ben", {**MR_BEN, **change})


MR_MATH = {
    "question": "What is 2 + 2?",
    "model_output_step_format": [["1. Add."], ["2. We get", "$2+2=5$."], ["3. So 5."]],
    "model_output_answer_correctness": "correct",
    "model_output_solution_first_error_step": 2,
}


def test_mr_math_counts_from_one_and_its_steps_are_lists_of_lines() -> None:
    found = read("mr-math", MR_MATH)
    assert found.steps == ("1. Add.\n", "2. We get\n$2+2=5$.\n", "3. So 5.")
    assert (values(found), found.is_correct) == ([1.0, 0.0, 0.0], False)
    fine = read("mr-math", {**MR_MATH, "model_output_solution_first_error_step": "N/A"})
    assert (values(fine), fine.is_correct) == ([1.0, 1.0, 1.0], True)
    for number in (0, 4):
        with pytest.raises(ValueError, match=f"from 1 to 3; it is {number}"):
            read("mr-math", {**MR_MATH, "model_output_solution_first_error_step": number})
    with pytest.raises(ValueError, match="step 1 must be a list of strings"):
        read("mr-math", {**MR_MATH, "model_output_step_format": ["flat"]})


def test_processbench_takes_the_first_step_below_the_threshold() -> None:
    soft = solution(["a", "b", "c"], [0.6, 0.4, 0.9])
    labels = [
        write("processbench", soft, separator="", threshold=threshold)["label"]
        for threshold in (0.3, 0.4, 0.5, 0.7)
    ]
    assert labels == [-1, -1, 1, 0]


def prm800k(steps: list[dict[str, Any]], finish_reason: str = "solution") -> dict[str, Any]:
    return {"question": {"problem": "q"}, "label": {"steps": steps, "finish_reason": finish_reason}}


def rated(*ratings: int | None, chosen: int | None = None, human: str | None = None) -> dict[str, Any]:
    completions = [
        {"text": f"c{idx}", "rating": rating, "flagged": None} for idx, rating in enumerate(ratings)
    ]
    written = {"text": human, "rating": None, "source": "human"} if human else None
    return {"completions": completions or None, "human_completion": written, "chosen_completion": chosen}


def test_prm800k_follows_the_chosen_and_the_human_steps_and_ends_with_the_solution_s_own() -> None:
    row = prm800k(
        [rated(-1, 1, chosen=1), rated(-1, -1, human="mine"), rated(0, chosen=0), rated(-1, 1)], "found_error"
    )
    found = read("prm800k", row, neutral="positive")
    assert found.steps == ("c1\n", "mine\n", "c0\n", "c0")
    assert values(found) == [1.0, 1.0, 1.0, 0.0]
    assert values(read("prm800k", row, neutral="negative")) == [1.0, 1.0, 0.0, 0.0]
    assert not found.is_correct
    assert read("prm800k", prm800k([rated(0, chosen=0)]), neutral="negative").is_correct


def test_prm800k_drops_the_empty_step_where_labelling_was_given_up() -> None:
    assert read("prm800k", prm800k([rated(1, chosen=0), rated()], "give_up"), neutral="negative").steps == (
        "c0",
    )


def test_our_rows_keep_the_evidence() -> None:
    given = solution(["a"], [0.25])
    counted = replace(
        given,
        labels=(
            replace(given.labels[0], num_correct=1, num_total=4, effective_size=4.0, low=0.05, high=0.7),
        ),
    )
    assert read("forkpoint", write("forkpoint", counted)) == counted


OURS = write("forkpoint", solution(["a"], [1]))


@pytest.mark.parametrize(
    ("name", "row", "options", "message"),
    [
        ("math-shepherd", {"text": "x"}, {}, "there is no column 'input'; there are text"),
        ("math-shepherd", {**SHEPHERD, "input": 3}, {}, "column 'input' must hold a string; it holds 3"),
        (
            "math-shepherd",
            {**SHEPHERD, "label": SHEPHERD["label"].replace(" -", " ?")},
            {},
            "they part at tag 2",
        ),
        (
            "math-shepherd",
            {**SHEPHERD, "label": SHEPHERD["label"].replace("What", "Why")},
            {},
            "they part at tag 1",
        ),
        (
            "math-shepherd",
            {**SHEPHERD, "label": SHEPHERD["label"].replace("What", "That")},
            {},
            "they part at tag 1",
        ),
        ("math-shepherd", {**SHEPHERD, "label": SHEPHERD["label"] + " more"}, {}, "it goes on with ' more'"),
        (
            "math-shepherd",
            {**SHEPHERD, "input": "What is 2 + 2?"},
            {},
            "there is no step tag 'ки' in 'What is 2",
        ),
        (
            "math-shepherd",
            {**SHEPHERD, "input": SHEPHERD["input"] + " more"},
            {},
            "there is text after the last step tag: ' more'",
        ),
        (
            "math-shepherd",
            {**SHEPHERD, "input": "Q? Step 1: or Step 1: ки", "label": "Q? Step 1: or Step 1: +"},
            {},
            "stands 2 times",
        ),
        ("er-prm", {"text": SHEPHERD["input"], "value": [0.5]}, {}, "there are 2 steps and 1 labels"),
        (
            "er-prm",
            {"text": SHEPHERD["input"], "value": [0.5, 1.5]},
            {},
            r"must be a number from 0 to 1; 1\.5 was given",
        ),
        (
            "er-prm",
            {"text": SHEPHERD["input"], "value": [0.5, math.nan]},
            {},
            "must be a number from 0 to 1; nan was given",
        ),
        (
            "er-prm",
            {"text": SHEPHERD["input"], "value": [0.5, None]},
            {},
            "must be a number from 0 to 1; None was given",
        ),
        (
            "er-prm",
            {"text": SHEPHERD["input"], "value": ["+", "="]},
            {},
            "a label must be \\+ or -; '=' was given",
        ),
        ("er-prm", {"text": SHEPHERD["input"], "value": 0.5}, {}, "column 'value' must hold a list"),
        (
            "openrlhf",
            {"text": SHEPHERD["input"], "value": [1, 0]},
            {},
            "there is no column 'input'; there are text, value",
        ),
        (
            "rlhflow",
            {"conversations": TURNS[:3]},
            {},
            "must be pairs of a step and its label; it has 3 turns",
        ),
        ("rlhflow", {"conversations": []}, {}, "it has 0 turns"),
        ("rlhflow", {"conversations": TURNS[1:]}, {}, "turn 1 must be the user's"),
        ("rlhflow", {"conversations": ["+"]}, {}, "must hold a list of records"),
        (
            "rlhflow",
            {"conversations": [*TURNS[:3], {"role": "assistant", "content": "yes"}]},
            {},
            "must be \\+ or -; 'yes' was given",
        ),
        ("trl", {**TRL_ROW, "labels": [True]}, {}, "there are 2 steps and 1 labels"),
        ("trl", {**TRL_ROW, "completions": [], "labels": []}, {}, "there are 0 steps and 0 labels"),
        ("trl", {**TRL_ROW, "completions": ["a", None]}, {}, "must hold strings; entry 2 is None"),
        ("trl", {**TRL_ROW, "labels": ["+", "-"]}, {}, "must be a number from 0 to 1; '\\+' was given"),
        (
            "trl",
            {**TRL_ROW, "is_correct": "yes"},
            {},
            "column 'is_correct' must hold true or false; it holds 'yes'",
        ),
        ("processbench", {**BENCH, "label": 3}, {}, "must be one of 3 steps, from 0 to 2; it is 3"),
        (
            "processbench",
            {**BENCH, "label": True},
            {},
            "column 'label' must hold a whole number; it holds True",
        ),
        (
            "prm800k",
            prm800k([rated(1), rated(1, chosen=0)]),
            {"neutral": "positive"},
            "step 1 has neither a chosen nor a human completion",
        ),
        (
            "prm800k",
            prm800k([rated(1, chosen=1)]),
            {"neutral": "positive"},
            "step 1 chooses completion 1 of 1",
        ),
        (
            "prm800k",
            prm800k([rated(None, chosen=0)]),
            {"neutral": "positive"},
            "step 1 must be rated -1, 0 or 1; its rating is None",
        ),
        ("prm800k", prm800k([]), {"neutral": "positive"}, "there are 0 steps"),
        ("prm800k", {"question": "q", "label": {}}, {"neutral": "positive"}, "there is no column 'steps'"),
        ("forkpoint", {**OURS, "labels": []}, {}, "there are 1 steps and 0 labels"),
        (
            "forkpoint",
            {**OURS, "is_correct": 1},
            {},
            "column 'is_correct' must hold true or false; it holds 1",
        ),
        (
            "forkpoint",
            {**OURS, "labels": [{**OURS["labels"][0], "value": 2}]},
            {},
            "'value' must hold a number from 0 to 1",
        ),
    ],
)
def test_a_row_that_does_not_fit_says_why(
    name: str, row: Mapping[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(name, row, **options)
