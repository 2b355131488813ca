"""Grading: closed forms, laws, hostile answers, and agreement with published verdicts on real solutions."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.grading.file import GradeCounts, grade_file
from forkpoint.grading.grade import (
    answer_key,
    check_grader,
    check_reference,
    extract_answer,
    grade,
    grade_all,
    is_correct,
)
from forkpoint.grading.numerals import parse_number
from forkpoint.grading.pool import GradingPool, GradingWorker, close_shared_pools, shared_pool
from forkpoint.grading.unread import Sample, Unread, count_unread
from forkpoint.select import majority

DATA = Path(os.environ.get("FORKPOINT_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"needs the real data sets at {DATA} (set FORKPOINT_DATA)"
)

USER_GRADERS = """
import os, time

def same(reference, prediction):
    with open("calls.txt", "a") as calls:
        calls.write("called\\n")
    print("whatever a grader prints")
    os.system("echo and whatever its children print")
    return reference == prediction

def slow(reference, prediction):
    while prediction == "hang":
        time.sleep(0.01)
    if prediction == "die":
        os._exit(3)
    if prediction == "raise":
        raise KeyError("no such thing")
    return 0.5 if prediction == "half" else prediction == reference
"""


@pytest.fixture
def user_graders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the name of a module with graders that exists only in the working directory."""
    (tmp_path / "my_graders.py").write_text(USER_GRADERS)
    monkeypatch.chdir(tmp_path)
    yield "my_graders"
    close_shared_pools()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("A: 0", 0),
        ("1,234,567", 1234567),
        ("1/2", Fraction(1, 2)),
        (r"\boxed{\frac{14}{3}}", Fraction(14, 3)),
        (r"3\frac12", Fraction(7, 2)),
        ("3 1/2", Fraction(7, 2)),
        ("3½", Fraction(7, 2)),
        ("$18", 18),
        ("18.00", 18),
        (".5", Fraction(1, 2)),
        ("5%", 5),
        (r"\boxed{50\%}", 50),
        (r"\boxed{90^\circ}", 90),
        (r"\boxed{5\text{ cm}}", 5),
        (r"\boxed{10{,}000}", 10000),
        (r"\boxed{10,\!080}", 10080),
        ("-3", -3),
        ("−3", -3),  # U+2212
        ("-$5", -5),
        ("1e5", 100000),
        ("$1.8 million", 1800000),
        ("18.", 18),
        ("#### 72", 72),
        ("16 - 3 = 13\nA: 13", 13),
        ("16 - 3 = 13", 13),
        ("The answer is $18.00.", 18),
        ("The answer is 18. She has 3 left.", 18),
        ("The answer is **18** dollars.", 18),
        ("**Answer:** 18", 18),
        ("**The answer is 18**", 18),
        ("Answer:\n18", 18),
        ("The answer is 7. No, the answer is 8.", 8),
        (r"The answer is 7, so \boxed{8}", 8),
        (r"\boxed{7} and then \boxed{8}", 8),
        (r"\boxed{\boxed{7}}", 7),
        (r"\boxed{x = 5}", 5),
        ("#### Summary\nThe answer is 18", 18),
        ("Total: 20 hours.\n* done", 20),
        ("The answer is 5 (x=2).", 5),
        ("#### 5 (since a=2)", 5),
        ("#### 5(x=2, y=3)", 5),
        ("The answer is 5, since 2a=4", 5),
        ("The answer is 5 because 2*3 = 6.", 5),
        ("The answer is 5 when x = 2.", 5),
        ("The answer is 5 for $x = 2$.", 5),
        ("The answer is 5, x=2.", 5),
        (r"\boxed{5 \text{ (since } a=2)}", 5),
        ("So there are 12 - 7 = 5 (a=7).", 5),
        ("The answer is x = 5 (a=7).", 5),
        ("The answer is (x = 5)", 5),
        ("The answer is 3 + 2 = 5", 5),
        ("The answer is 5 dozen = 60 eggs", 60),
        ("The answer is 2 x = 10", 10),
        ("The answer is the same as 5", 5),
        ("5 apples and 3 pears make 8", 8),
    ],
)
def test_numbers_are_read_as_they_are_written(text: str, value: int | Fraction) -> None:
    answer = extract_answer(text, "numeric")
    assert answer is not None
    number = parse_number(answer)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize(
    "text",
    [
        "5, 6",
        "5 or 6",
        "4:30",
        "1,2345",
        "9**9",
        "3*4",
        r"3\sqrt{2}",
        r"12\pi",
        "2^10",
        "5²",
        "10-12",
        "52_8",
        "1/0",
        "1/2/3",
        "1e999",
        "f(18)",
        r"2\sqrt{3}+2",
        "f(x)-3",
        "|x|-3",
        "3 apples and 4 pears",
        "3 apples or 4 pears",
        "3 apples, 4 pears",
        "5 feet 3 inches",
        "2 hours and 30 minutes",
        "$5 plus 3",
    ],
)
def test_what_is_no_single_number_is_ungradable(text: str) -> None:
    for prediction in (text, f"\\boxed{{{text}}}", f"The answer is {text}."):
        assert grade("5", prediction, "numeric").outcome == "ungradable"


ANSWERS_BELOW = [
    "Answer:\n$$\n{}\n$$",
    "Answer:\n\n$${}$$\n\nDone.",
    "**Answer:**\n\\[\n{}\n\\]\nThat is all.",
    "The answer is\n\\[ {} \\]",
    "The answer is:\n\n\\[ x = {} \\]",
    "Final answer:\n```\n{}\n```",
    "Answer:\n```text\n{}\n```\nDone.",
    "## Answer\n{}",
    "### Final Answer\n\n{}\n",
    "**Answer**\n\n{}.",
    "Answer\n{}",
    "Answer:\n- {}",
    "Answer:\n\n* {}\n",
    "Answer:\n> {}",
    "Answer:\n1. {}",
    "Answer: `{}`",
    "Answer: `${}$`",
    "<answer>{}</answer>",
    "<answer>\n{}\n</answer>\n",
]


@pytest.mark.parametrize("grader", ["numeric", "math"])
@pytest.mark.parametrize("form", ANSWERS_BELOW)
def test_an_answer_may_stand_on_the_lines_below_its_marker(form: str, grader: str) -> None:
    assert is_correct("13", "So 2 + 11 = 13.\n" + form.format("13"), grader)
    assert is_correct("-13", form.format("-13"), grader)
    assert grade("13", form.format("-13"), grader).outcome == "wrong"
    assert grade("-13", form.format("13"), grader).outcome == "wrong"


def test_a_list_below_a_marker_is_several_answers() -> None:
    assert is_correct("5, 6", "Answer:\n- 5\n- 6\n", "math")
    assert is_correct("5, 6", "Answer:\n1. $5$\n2. $6$", "math")
    assert grade("5", "Answer:\n- 5\n- 6\n", "numeric").outcome == "ungradable"


def test_a_heading_with_nothing_below_announces_nothing() -> None:
    assert is_correct("5", "So 2 + 3 = 5.\n# Answer", "numeric")
    assert is_correct("5", "The answer is 5.\n## Final answer\n", "math")


def test_a_matrix_below_a_marker_is_read_whole() -> None:
    text = "The answer is\n\\[\n\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}\n\\]"
    assert is_correct(r"\begin{pmatrix}1\\2\end{pmatrix}", text, "math")


@pytest.mark.parametrize("text", ["The answer is 5 (x=2).", "#### 5 (since a=2)", r"\boxed{5}, since a=2"])
def test_math_does_not_read_reasons_either(text: str) -> None:
    assert is_correct("5", text, "math")
    assert not is_correct("2", text, "math")


@pytest.mark.parametrize("grader", ["numeric", "math", "exact"])
@pytest.mark.parametrize(
    "text",
    [
        "2 + 3 = 5\n#### 5\n\nQuestion: Bob has 3 and 4.\n3 + 4 = 7\n#### 7",
        "2 + 3 = 5\n#### 5\n\nBob has 3 and 4. The answer is \\boxed{7}",
        "2 + 3 = 5\n#### 5.\n\nBob has 3 and 4. 3 + 4 = 7",
        "The answer is 5.\n\nQuestion: Bob has 3 and 4.\nAnswer: The answer is 7.",
        "So \\boxed{5}.\n\nProblem 2: Bob has 3 and 4. So \\boxed{7}.",
        "So \\boxed{5}.\n\n## Problem 2\nBob has 3 and 4. So \\boxed{7}.",
        "A: 5\n\nQ: Bob has 3 and 4.\nA: 7",
        "The answer is 5.<|im_end|>\n<|im_start|>user\n3 + 4?<|im_end|>The answer is 7.",
        "The answer is 5.</s> The answer is 7.",
        "**Problem:** Tom has 2 and 3.\nThe answer is 5.\n\n**Problem:** Bob.\nThe answer is 7.",
    ],
)
def test_what_runs_on_after_the_answer_is_not_read(text: str, grader: str) -> None:
    assert is_correct("5", text, grader)
    assert not is_correct("7", text, grader)


@pytest.mark.parametrize(
    "text",
    [
        "#### Step 2\nAdd 5.\n#### 7",
        "#### 1. Add 2\n#### 2. Add 5\nThe answer is 7",
        "Question: 3 + 4?\nThe answer is 7",
        "#### Answer: 7",
    ],
)
def test_a_heading_is_no_answer(text: str) -> None:
    assert is_correct("7", text, "numeric")


@pytest.mark.parametrize(
    "text",
    [
        r"so $x=\boxed{2}$ or $x=\boxed{3}$.",
        r"\boxed{2} and \boxed{3}",
        r"$\boxed{2}, \boxed{3}$",
        r"\(\boxed{2}\) and \(\boxed{3}\)",
        r"\boxed{2} \text{ or } \boxed{3}",
        "#### 2, 3",
    ],
)
def test_two_boxes_for_two_answers_are_both_read(text: str) -> None:
    assert is_correct("2, 3", text, "math")
    for half in ("2", "3"):
        assert not is_correct(half, text, "math")
        assert grade(half, text, "numeric").outcome == "ungradable"


def test_boxes_that_are_apart_are_separate_statements() -> None:
    assert is_correct("3", r"First \boxed{2}. Then the total is \boxed{3}.", "math")
    assert is_correct("3", r"\boxed{3} and again \boxed{3}", "math")
    assert is_correct("3", r"\boxed{3}, \boxed{3}", "numeric")
    assert is_correct("639/40", r"\boxed{15\frac{39}{40}}, or \boxed{\frac{639}{40}}", "numeric")


CHOICES = [r"\textbf{(B)}\ 12", r"\text{(B) } 12", r"\textbf{(B) }12", "(B) 12", r"\mathrm{(B)}~12"]


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_may_come_with_its_value(choice: str) -> None:
    boxed = f"\\boxed{{{choice}}}"
    assert is_correct("B", boxed, "choice")
    for reference in ("B", "(B)", r"\text{(B)}", "12", choice):
        assert is_correct(reference, boxed, "math"), reference
        assert is_correct(boxed, reference, "math"), reference
    for reference in ("C", "(C)", "13", r"\textbf{(C)}\ 12"):
        assert not is_correct(reference, boxed, "math"), reference


def test_two_choices_are_no_choice() -> None:
    for text in (r"\boxed{A, C}", "The answer is A and C", "Answer: (A) or (C).", r"\boxed{A}, \boxed{C}"):
        assert grade("A", text, "choice").outcome == "ungradable"
    assert is_correct("A", "The answer is A, I think.", "choice")


THOUGHTS = [
    "<think>{}</think>\n{}",
    "{}</think>\n{}",
    "<think>\n{}\n</think>\n\n{}",
    "<thinking>{}</thinking>{}",
    "<reasoning>{}</reasoning><answer>{}</answer>",
    "<|begin_of_thought|>{}<|end_of_thought|>\n<|begin_of_solution|>{}<|end_of_solution|>",
    "◁think▷{}◁/think▷{}",
    "[THINK]{}[/THINK]{}",
    "<seed:think>{}</seed:think>{}",
    "<|START_THINKING|>{}<|END_THINKING|>{}",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>",
    "analysisWe try. {}assistantfinal{}",
]


@pytest.mark.parametrize("grader", ["numeric", "math"])
@pytest.mark.parametrize("form", THOUGHTS)
def test_reasoning_is_not_graded(form: str, grader: str) -> None:
    text = form.format("Perhaps \\boxed{7}?", "The answer is 5.")
    assert is_correct("5", text, grader)
    assert not is_correct("7", text, grader)
    assert grade_all([("7", text)], grader, reasoning="read")[0].is_correct
    assert extract_answer(text, grader) == "5"
    assert extract_answer(text, grader, "read") == "7"


@pytest.mark.parametrize(
    "text",
    [
        "<think>Perhaps \\boxed{7}?",
        "<think>Perhaps \\boxed{7}?</think> Hm. <think>Or 7",
        "<|begin_of_thought|>Perhaps \\boxed{7}?",
        "◁think▷Perhaps \\boxed{7}?",
        "<|channel|>analysis<|message|>Perhaps \\boxed{7}?",
        "analysisPerhaps \\boxed{7}?",
    ],
)
def test_reasoning_that_is_not_closed_has_no_answer(text: str) -> None:
    for grader in ("numeric", "math", "exact", "code"):
        verdict = grade("7", text, grader)
        assert (verdict.outcome, verdict.answer) == ("ungradable", None)
        assert "cut off" in verdict.reason


def test_nothing_after_the_reasoning_is_no_answer() -> None:
    assert grade("7", "<think>Perhaps \\boxed{7}?</think>\n", "math").reason == "no answer"


def test_an_unknown_way_to_treat_reasoning_is_refused() -> None:
    with pytest.raises(ValueError, match="reasoning 'keep' is unknown; choose from drop, read"):
        grade_all([("7", "7")], "math", reasoning="keep")  # type: ignore[arg-type]


JSON_ANSWERS = [
    '{"reasoning": "3 times 2.", "answer": "6"}',
    '{"reasoning": "3 times 2.", "answer": 6}',
    '{\n  "reasoning": "3 times 2. The answer is 7.",\n  "answer": "6"\n}\n',
    '```json\n{"reasoning": "3 times 2.", "answer": "6"}\n```',
    '```\n{"reasoning": "3 times 2.", "answer": "6 apples"}\n```\nDone.',
    'Here it is:\n\n{"reasoning": "\\\\boxed{7}", "final_answer": "$6"}',
    '{"steps": [{"answer": 7}, {"answer": 8}], "Final Answer": "The answer is 6."}',
    '{"answer": "6", "confidence": 0.7}',
    '{"reasoning": "He said \\\\"7\\\\".", "answer": "\\\\\\\\boxed{6}"}'.replace("\\\\", "\\"),
    '{"reasoning": "3 times 2 \\n is", "answer": "\\boxed{6}"}',
    '{"answer": "6"',
    '{"answer": "6"}\n\nQuestion: 3 + 4?\n{"answer": "7"}',
    "{'reasoning': '3 times 2', 'answer': '6'}",
    '{"result": 6}',
    '<think>{"answer": 7}</think>{"answer": 6}',
]


@pytest.mark.parametrize("grader", ["numeric", "math"])
@pytest.mark.parametrize("text", JSON_ANSWERS)
def test_the_answer_of_a_json_object_is_read(text: str, grader: str) -> None:
    assert is_correct("6", text, grader)
    assert not is_correct("7", text, grader)


def test_latex_in_json_is_read_with_and_without_doubled_backslashes() -> None:
    for text in (r'{"answer": "\frac{1}{2}"}', r'{"answer": "\\frac{1}{2}"}', r'{"answer": "\\dfrac12"}'):
        assert is_correct(r"\frac{1}{2}", text, "math"), text
    assert is_correct("1, 2", '{"answer": [1, 2]}', "math")
    assert is_correct("B", '{"answer": "B"}', "choice")


@pytest.mark.parametrize(
    "text",
    [
        '{"reasoning": "The answer is 6',
        '{"reasoning": "3 times 2.", "answer": "6',
        '{"answer": 6',
        '{"answer": ',
    ],
)
def test_json_that_is_cut_off_has_no_answer(text: str) -> None:
    for grader in ("numeric", "math"):
        verdict = grade("6", text, grader)
        assert (verdict.outcome, verdict.answer) == ("ungradable", None)
        assert "cut off" in verdict.reason


def test_json_without_an_answer_is_read_as_text() -> None:
    assert grade("6", '{"answer": null}', "math").reason == "no answer"
    assert is_correct("6", '{"city": "Rome"}\nThe answer is 6.', "math")
    assert is_correct(r"\{1, 2\}", r"The answer is \{1, 2\}", "math")


def test_two_values_are_no_single_number() -> None:
    for text in ("The answer is x=5, y=2.", "The answer is x=5 and y=2.", r"\boxed{x=5, y=2}"):
        assert grade("2", text, "numeric").outcome == "ungradable"


def test_a_reference_with_two_amounts_is_refused() -> None:
    for reference in ("3 apples and 4 pears", "#### 3 apples and 4 pears", "5 feet 3 inches"):
        with pytest.raises(ValueError, match="cannot be read"):
            check_reference(reference, "numeric")
    check_reference("#### 5 (since a=2)", "numeric")


@pytest.mark.parametrize(
    "text", ["", "no idea", "#### ", "A:", "16 - 3 = 13\nThe answer is", r"\boxed{}", "5+13=18\nbuys: 18*"]
)
def test_a_text_without_an_answer_is_wrong_and_says_so(text: str) -> None:
    verdict = grade("18", text, "numeric")
    assert (verdict.outcome, verdict.answer, verdict.reason) == ("wrong", None, "no answer")


def test_decimals_may_be_rounded_only_against_fractions_they_cannot_write() -> None:
    assert is_correct("1/3", "0.333333", "numeric")
    assert not is_correct("1/3", "0.33", "numeric")
    assert not is_correct("1/2", "0.4999999", "numeric")
    assert is_correct("201.9", "201.89999999999998", "numeric")
    assert not is_correct("1234567.89", "1234567.88", "numeric")
    assert not is_correct("12345678901.25", "12345678901.26", "numeric")
    assert not is_correct("1000001", "1000002", "numeric")


@given(number=st.integers(-(10**30), 10**30))
def test_a_whole_number_is_itself_in_every_dress_and_never_its_successor(number: int) -> None:
    for text in (
        f"{number}",
        f"{number:,}",
        f"{number}.00",
        f"\\boxed{{{number}}}",
        f"#### {number:,}",
        f"The answer is {number}.",
        f"A: ${number}",
    ):
        assert is_correct(str(number), text, "numeric"), text
        assert not is_correct(str(number + 1), text, "numeric"), text


@given(top=st.integers(-999, 999), bottom=st.integers(1, 999))
def test_fractions_are_compared_exactly(top: int, bottom: int) -> None:
    assert is_correct(f"{top}/{bottom}", rf"\boxed{{\frac{{{top}}}{{{bottom}}}}}", "numeric")
    assert is_correct(f"{top}/{bottom}", f"{2 * top}/{2 * bottom}", "numeric")
    assert not is_correct(f"{top}/{bottom}", f"{top}/{bottom + 1}" if top else "1/7", "numeric")
    assert answer_key(f"{top}/{bottom}", "numeric") == str(Fraction(top, bottom))


@settings(max_examples=300)
@given(
    text=st.text(st.sampled_from("\\{}boxed#A: answer is 0123.,/$%*-=\n\x00é"), max_size=60),
    grader=st.sampled_from(["numeric", "exact", "choice"]),
)
def test_any_text_gets_a_verdict(text: str, grader: str) -> None:
    assert grade("B 5", text, grader).outcome in ("correct", "wrong", "ungradable")


def test_exact_ignores_blanks_case_and_a_full_stop() -> None:
    assert is_correct("New  York", "The answer is new york.", "exact")
    assert is_correct("caf\u00e9", "cafe\u0301", "exact")
    assert not is_correct("New York", "Newark", "exact")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "(B)",
        "b",
        "The answer is B",
        "answer: (b)",
        "**Answer: B) 12**",
        r"\boxed{\text{(B)}}",
        "Option A fails.\nB.\n",
    ],
)
def test_choices_are_read_as_they_are_written(text: str) -> None:
    assert is_correct("B", text, "choice")
    assert not is_correct("(C)", text, "choice")


def test_a_word_is_no_choice() -> None:
    assert grade("A", "I think A good answer needs time", "choice").outcome == "wrong"
    assert grade("A", "The answer is Apple", "choice").outcome == "ungradable"


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        (r"\frac{14}{3}", "14/3"),
        (r"90^\circ", "90"),
        (r"\$5.00", "5"),
        (r"5\text{ cm}", "5"),
        (r"5\text{ cm}", "5 centimeters"),
        (r"864 \mbox{ inches}^2", "864 square inches"),
        (r"50\%", "50"),
        (r"10,\!080", "10080"),
        (r"\left( 3, \frac{\pi}{2} \right)", "(3,pi/2)"),
        (r"3\sqrt{13}", "3*sqrt(13)"),
        (r"\text{Evelyn}", "evelyn"),
        (r"\text{(C)}", "C"),
        (r"\text{C}", "C"),
        (r"\text{Yes}", "Yes"),
        ("yes", r"\text{Yes}"),
        (r"\text{4:30 p.m.}", r"4:30 \text{ p.m.}"),
        ("x=5", "5"),
        ("1,-2", "-2, 1"),
        (r"\{1,2\}", "2,1"),
        ("(1,2)", "1,2"),
        ("x^2+2x+1", "(x+1)^2"),
        ("1024", "2**10"),
        ("4210_{5}", "4210_5"),
        ("6-5i", "-5i+6"),
        (r"\begin{pmatrix} -18 \\ -49 \end{pmatrix}", r"\begin{bmatrix}-18\\-49\end{bmatrix}"),
        (r"(-\infty,2)\cup(3,\infty)", r"(-\infty, 2) \cup (3, \infty)"),
    ],
)
def test_equal_mathematics_is_correct(reference: str, prediction: str) -> None:
    verdicts = grade_all(
        [(reference, prediction), (reference, f"So $\\boxed{{{prediction}}}$."), (reference, reference)],
        "math",
    )
    assert [verdict.outcome for verdict in verdicts] == ["correct"] * 3


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        (r"5\text{ cm}", r"5\text{ m}"),
        (r"864 \mbox{ inches}^2", r"864 \text{ inches}"),
        (r"\$5", "5 cents"),
        ("(1,2)", r"\{1,2\}"),
        ("(1,2)", "2,1"),
        ("(1,2)", "(2,1)"),
        ("[1,2]", "(1,2)"),
        ("[0,1]", "0,1"),
        (r"50\%", "0.5"),
        ("52_8", "52"),
        ("52_8", "52_9"),
        ("Evelyn", "nylevE"),
        (r"\text{east}", "seat"),
        (r"\text{4:30 p.m.}", "4:30 a.m."),
        ("5", "5 or 6"),
        ("12", r"12\text{ or nine}"),
        ("0.0000001", "0.0000002"),
        (r"\frac{1}{3}", "0.33"),
        ("p-q", "q-p"),
        ("x=5", "y=5"),
    ],
)
def test_different_mathematics_is_wrong(reference: str, prediction: str) -> None:
    assert [
        verdict.outcome
        for verdict in grade_all([(reference, prediction), (reference, f"\\boxed{{{prediction}}}")], "math")
    ] == ["wrong"] * 2


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("HHT", "THH"),
        ("ABC", "BCA"),
        ("AB", "BA"),
        ("HHT", "T H H"),
        ("H T T", "TTH"),
        ("HHT", r"\text{THH}"),
        ("HHT", r"\mathrm{THH}"),
        ("AB", "ab"),
        ("HHT, HTH", "HHT, THH"),
        ("(AB, CD)", "(CD, AB)"),
        ("listen", "silent"),
        ("2,3", "2,2,3"),
        ("2,2,3", "2,3,3"),
        ("3", "3,3"),
        ("3 and 4", "3, 4, and 4"),
        ("(1,2)", "(1,2,2)"),
        (r"\sqrt{2}, 3", r"3, \sqrt{2}, 3"),
        ("x=2", "x=2, x=2"),
    ],
)
def test_order_and_number_of_letters_and_items_count(reference: str, prediction: str) -> None:
    for first, second in ((reference, prediction), (prediction, reference)):
        assert not is_correct(first, second, "math")
        assert not is_correct(first, f"\\boxed{{{second}}}", "math")
        assert is_correct(first, first, "math")


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("HHT", "HHT"),
        ("HHT", "H H T"),
        ("HHT", r"\text{HHT}"),
        ("Tom", "tom"),
        ("NO", "no"),
        ("HT, TH", "TH, HT"),
        ("2,3", "3, 2"),
        ("2 and 3", "2, 3"),
        ("1, 2, and 3", r"3, 2 \text{ or } 1"),
        (r"\pm 3", "3, -3"),
        (r"\{2,3\}", "3,2"),
        ("(1,2)", "1,2"),
        ("1,000, 2,000", "1000, 2000"),
        ("x=2, x=3", "3, 2"),
        (r"2 \text{ and } 3", "2,3"),
        ("2x", "2*x"),
        ("xy", r"y \cdot x"),
    ],
)
def test_equal_words_and_lists_are_equal(reference: str, prediction: str) -> None:
    assert is_correct(reference, prediction, "math")


AMOUNTS = [
    ("12", "12 cups"),
    ("12", "12 cups of flour"),
    ("12 cups", "12"),
    ("12 cups", r"12\text{ cups}"),
    ("12", r"12\text{ cups}"),
    ("1 cup", "1"),
    ("18", "18 apples"),
    ("18 apples", "18 red apples"),
    ("20", "$20 per book"),
    (r"\$20", "$20 per book"),
    ("20", r"\$20 \text{ per book}"),
    ("20 dollars", "$20"),
    ("20", "€20"),
    ("-10", "-10°F"),
    ("-10", r"-10^\circ F"),
    ("-10", r"-10^{\circ}\text{F}"),
    ("-10°F", "-10 degrees Fahrenheit"),
    ("-10°", "-10°C"),
    ("1200", "1,200 square feet"),
    ("1200 square feet", "1200 sq ft"),
    ("15", "15 miles per hour"),
    ("15 mph", "15 miles per hour"),
    ("15", "15 mph"),
    (r"15\text{ m/s}", "15 meters per second"),
    (r"\frac{1}{2}", r"\frac{1}{2} cup"),
    ("3 1/2", "3 1/2 cups"),
    (r"3\sqrt{2}", r"3\sqrt{2} units"),
    (r"2\pi", r"2\pi inches"),
    ("50", "50 percent"),
    ("7", "7 days."),
]


@pytest.mark.parametrize(("reference", "prediction"), AMOUNTS)
def test_a_unit_that_one_side_writes_does_not_count(reference: str, prediction: str) -> None:
    pairs = [(reference, prediction), (prediction, reference), (reference, f"So $\\boxed{{{prediction}}}$.")]
    verdicts = grade_all([*pairs, (prediction, prediction)], "math")
    assert [verdict.outcome for verdict in verdicts] == ["correct"] * 4
    assert answer_key(reference, "math") == answer_key(prediction, "math")


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("12 cups", "12 spoons"),
        ("12", "13 cups"),
        ("12", "12 dozen"),
        ("12", "12 hundred"),
        ("10", "10 below zero"),
        ("-10°F", "-10°C"),
        ("10°F", "-10°F"),
        (r"\$20", "20 cents"),
        ("$20", "€20"),
        ("12 square feet", "12 feet"),
        ("12", "12 and 3 cups"),
        ("12 cups", "12 or nine cups"),
        ("3", "3 remainder two"),
        ("2", "2 abc"),
        ("2", "2 x"),
        ("2", "2 is not enough"),
    ],
)
def test_a_unit_that_changes_the_amount_counts(reference: str, prediction: str) -> None:
    assert not is_correct(reference, prediction, "math")
    assert not is_correct(prediction, reference, "math")


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("1", r"\frac{R}{r}"),
        ("0", r"\pi(R^2-r^2)"),
        ("2a", "a+A"),
        ("x+1", "X+1"),
        ("x_A+1", "x_a+1"),
        (r"2\Omega", r"2\omega"),
        (r"\Gamma", r"\gamma"),
        ("2e", "2E"),
        ("P(A)", "P(a)"),
        ("(r,R)", "(R,r)"),
        ("s", "S"),
    ],
)
def test_the_case_of_a_symbol_counts(reference: str, prediction: str) -> None:
    assert [
        verdict.outcome
        for verdict in grade_all(
            [(reference, prediction), (prediction, reference), (reference, reference)], "math"
        )
    ] == ["wrong", "wrong", "correct"]


@pytest.mark.parametrize(
    ("reference", "prediction"),
    [
        ("10^{-20}", "10^{-21}"),
        (r"\frac{1}{10^{13}}", r"\frac{1}{10^{14}}"),
        ("0", "10^{-20}"),
        ("10^{-20}x", "10^{-21}x"),
        ("(10^{-20},1)", "(10^{-21},1)"),
        (r"0.0000001\pi", r"0.0000002\pi"),
    ],
)
def test_small_numbers_are_compared_relative_to_their_size(reference: str, prediction: str) -> None:
    pairs = [(reference, prediction), (prediction, reference), (prediction, prediction)]
    assert [verdict.outcome for verdict in grade_all(pairs, "math")] == ["wrong", "wrong", "correct"]


def test_the_noise_of_evaluation_is_no_difference() -> None:
    assert is_correct("0", r"\sqrt{3+2\sqrt{2}}-1-\sqrt{2}", "math")
    assert is_correct("10^{-20}", r"\frac{1}{10^{20}}", "math")
    assert is_correct(r"\frac{\pi}{3}", "1.047198", "math")
    assert not is_correct(r"\sqrt{2}", "1.41421", "math")


def test_equal_answers_have_one_key() -> None:
    assert (
        answer_key(r"so \boxed{\frac12}", "math")
        == answer_key("0.5", "math")
        == answer_key("A: 1/2", "numeric")
        == "1/2"
    )
    assert answer_key(r"\boxed{\text{(C)}}", "math") == answer_key("C", "choice") == "C"
    assert answer_key("The answer is New York.", "exact") == "new york"
    assert answer_key("no number", "numeric") is None


def test_an_answer_that_is_cut_off_is_not_replaced_by_another_number() -> None:
    verdict = grade("18", "First 5 + 13 = 18.\nSo it is \\boxed{18", "numeric")
    assert verdict.outcome == "ungradable"
    assert "not balanced" in verdict.reason


@pytest.mark.parametrize("grader", ["numeric", "math", "exact"])
@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{5}. Checking again, it is \boxed{",
        r"\boxed{5} and then \boxed{8",
        r"\boxed{5} and then \boxed{\frac{1}{2}",
        r"\boxed{5}. Checking again, it is $\boxed",
        r"\boxed{5}. Checking again, it is $\bo",
        r"\boxed{5}. Checking again, it is \fbox{7",
        r"#### 5. Checking again, it is \boxed{",
        r"The answer is 5. Checking again, it is \boxed{7",
    ],
)
def test_an_earlier_answer_does_not_stand_in_for_a_box_that_is_cut_off(text: str, grader: str) -> None:
    verdict = grade("5", text, grader)
    assert verdict.outcome == "ungradable"
    assert "cut off" in verdict.reason


@pytest.mark.parametrize("text", ["The answer is 5. Checking again, the answer is", "A: 5\nA:"])
def test_an_earlier_answer_does_not_stand_in_for_a_marker_without_one(text: str) -> None:
    assert grade("5", text, "numeric").reason == "no answer"


HOSTILE = [
    "9**9**9**9",
    "9" * 10**6,
    "x" * 10**6,
    "\\boxed{" * 30_000,
    r"\boxed{\frac{1}{2",
    r"\frac{1}{2",
    "5\x00",
    "{" * 450 + "}" * 450,
    "(" * 450,
]


REPETITIVE = [
    "Answer:\n" + "- \\[5\n" * 30_000,
    "Answer:\n" + "- ```5\n" * 20_000,
    "Answer:\n- `5" * 20_000,
    "#### 5 (a=" * 20_000,
    "5 (a=" * 40_000,
    "answer is 5 and " * 12_000,
    "\\boxed{5}, " * 20_000,
    "5 (" + "=" * 150_000,
    "#### 5a " * 20_000,
    "####" + " a5" * 50_000,
    "Question" * 20_000,
    "<answer>" * 20_000,
    "<think></think>" * 10_000,
    '{"a":"' * 30_000,
    '{"a":' * 30_000,
    '\n{"a":"' * 20_000,
    '\n{"a":1}' * 20_000,
]


@pytest.mark.parametrize("grader", ["numeric", "math", "choice"])
@pytest.mark.parametrize("prediction", REPETITIVE, ids=lambda text: text[:12])
def test_finding_an_answer_takes_linear_time(prediction: str, grader: str) -> None:
    start = time.process_time()
    extract_answer(prediction, grader)
    assert time.process_time() - start < 5  # quadratic time would be minutes


@pytest.mark.parametrize("grader", ["numeric", "math"])
@pytest.mark.parametrize("prediction", HOSTILE, ids=lambda text: text[:12])
def test_hostile_answers_are_ungradable_at_once(prediction: str, grader: str) -> None:
    start = time.monotonic()
    verdict = grade("5", prediction, grader)
    if not (
        grader == "numeric" and not any(map(str.isdigit, prediction))
    ):  # a text without digits has no answer to judge
        assert verdict.outcome == "ungradable"
        assert verdict.reason
    assert not verdict.is_correct
    assert time.monotonic() - start < 1


def test_a_hang_is_killed_and_the_answers_around_it_are_not_harmed() -> None:
    is_correct("x+y", "y+x", "math")  # starts the process
    hangs = [r"\boxed{9^{9^9}}"] * 5  # asked once
    start = time.monotonic()
    verdicts = grade_all(
        [("5", hang) for hang in hangs] + [("x+y", "y+x"), ("x+y", "y-x")], "math", timeout_s=1.0
    )
    assert [verdict.outcome for verdict in verdicts] == ["ungradable"] * 5 + ["correct", "wrong"]
    assert verdicts[0].reason == "over the time limit of 1 s"
    assert grade("x+y", "y+x", "math").is_correct
    assert time.monotonic() - start < 15  # a second each on an idle machine


def test_grading_works_in_any_thread() -> None:
    outcomes: list[str] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(grade("a+b", "b+a", "math").outcome))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["correct"] * 4
    assert len(shared_pool("math")._all) <= shared_pool("math").num_workers


def test_the_same_pair_is_asked_once(user_graders: str) -> None:
    assert [
        verdict.outcome for verdict in grade_all([("a", "a"), ("a", "b"), ("a", "a")], f"{user_graders}:same")
    ] == [
        "correct",
        "wrong",
        "correct",
    ]
    assert Path("calls.txt").read_text() == "called\n" * 2


def test_your_own_grader_gets_both_texts_and_may_print(user_graders: str) -> None:
    verdicts = grade_all([("a", "a"), ("a", "A: a")], f"{user_graders}:same")
    assert [verdict.outcome for verdict in verdicts] == ["correct", "wrong"]
    assert [verdict.answer for verdict in verdicts] == ["a", "a"]


def test_whatever_your_own_grader_does_is_one_answer_s_failure(user_graders: str) -> None:
    verdicts = grade_all(
        [("a", text) for text in ("a", "hang", "die", "raise", "half", "b", "a")],
        f"{user_graders}:slow",
        timeout_s=0.3,
    )
    assert [verdict.outcome for verdict in verdicts] == ["correct", *["ungradable"] * 4, "wrong", "correct"]
    assert [verdict.reason for verdict in verdicts[1:5]] == [
        "over the time limit of 0.3 s",
        "the grading process died",
        "KeyError: 'no such thing'",
        "the grader returned 0.5; it has to return True or False",
    ]


def test_a_grader_that_cannot_be_loaded_is_your_mistake(user_graders: str) -> None:
    with pytest.raises(ValueError, match="No module named 'no_such_module'"):
        grade("a", "a", "no_such_module:same")
    with pytest.raises(ValueError, match="has no attribute 'no_such_function'"):
        grade("a", "a", f"{user_graders}:no_such_function")


def test_an_unknown_grader_is_refused_with_the_known_ones() -> None:
    for name in ("mtah", "", "a:b:c", "module:"):
        with pytest.raises(ValueError, match="choose from numeric, math, exact, choice"):
            check_grader(name)
    with pytest.raises(ValueError, match="timeout_s must be above 0"):
        grade("5", "5", "numeric", timeout_s=0)


def test_a_reference_that_cannot_be_read_is_noticed() -> None:
    assert grade("x+y", "5", "numeric").outcome == "ungradable"
    assert grade("", "5", "math").reason == "the reference '' holds no answer"
    with pytest.raises(ValueError, match="cannot be read by grader 'numeric'"):
        check_reference("x+y", "numeric")
    check_reference("x+y", "math")


def test_a_script_without_a_main_guard_grades_and_leaves_no_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from forkpoint.grading.grade import grade\nfrom forkpoint.grading.pool import shared_pool\n"
        "print(grade('x+y', 'y+x', 'math').outcome, *[worker._process.pid for worker in "
        "shared_pool('math')._all])\n"
    )
    done = run_python(str(script))
    outcome, pid = done.stdout.split()
    assert outcome == "correct"
    assert not is_running(int(pid))


@pytest.mark.skipif(
    not (hasattr(signal, "setitimer") and Path("/proc").is_dir()), reason="needs POSIX timers and /proc"
)
def test_a_hanging_process_ends_even_if_its_parent_was_killed(user_graders: str) -> None:
    script = (
        "import threading, time\nfrom forkpoint.grading.pool import GradingWorker\n"
        f"worker = GradingWorker('{user_graders}:slow')\nprint(worker._process.pid, flush=True)\n"
        "worker.ask('a', 'hang', 0.3)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment(), text=True
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    time.sleep(0.1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert is_running(pid)
    for _ in range(100):
        time.sleep(0.1)
        if not is_running(pid):
            return
    pytest.fail("the process still runs")


def test_importing_the_grader_is_light() -> None:
    heavy = {"torch", "math_verify", "sympy", "datasets", "pyarrow", "transformers"}
    done = run_python(
        "-c", f"import sys, forkpoint.grading.grade, forkpoint.problems; print({heavy} & set(sys.modules))"
    )
    assert done.stdout.strip() == "set()"


def test_a_worker_answers_in_time_whatever_it_is_asked() -> None:
    worker = GradingWorker("math")
    start = time.monotonic()
    ruling = worker.ask("5", "9^{9^9}", 0.3)
    assert time.monotonic() - start < 1.5
    assert ruling.failure == "over the time limit of 0.3 s"
    assert not worker.is_alive
    worker.close()


def test_a_closed_pool_starts_again() -> None:
    pool = GradingPool("math", num_workers=1)
    assert pool.ask("x+y", "y+x", 5.0).is_correct
    pool.close()
    assert not pool._all
    assert pool.ask("x+y", "y+x", 5.0).is_correct
    pool.close()


def test_a_file_is_graded_line_by_line_and_nothing_is_dropped(tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.jsonl", tmp_path / "verdicts.jsonl"
    lines = [
        b'{"reference": 18, "prediction": "A: 18"}',
        b'{"reference": "18", "prediction": "A: 19", "grader": "numeric"}',
        b"",
        b'{"reference": "x+y", "prediction": "y+x", "grader": "math"}',
        b'{"reference": "18", "prediction": "9**9**9"}',
        b"not json",
        b'{"reference": "18"}',
        b'["18", "18"]',
        b'{"reference": "18", "prediction": "18", "grader": "mtah"}',
        b'{"reference": "18", "prediction": "\xff"}',
        b'{"reference": "B", "prediction": "(B)", "grader": "choice"}',
    ]
    answers.write_bytes(b"\n".join(lines))
    counts = grade_file(answers, "numeric", out)
    assert (counts.num_correct, counts.num_wrong, counts.num_ungradable) == (3, 1, 1)
    assert [found.line for found in counts.unreadable] == [6, 7, 8, 9, 10]
    assert counts.unreadable[1].reason == "field 'prediction' must hold a string or a number; it holds None"
    assert (counts.num_graded, counts.accuracy) == (5, 0.6)
    rows = rows_of(out)
    assert [row["line"] for row in rows] == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
    assert rows[0] == {"line": 1, "outcome": "correct", "answer": "18", "reason": ""}
    assert [row["outcome"] for row in rows] == [
        "correct",
        "wrong",
        "correct",
        "ungradable",
        *["unreadable"] * 5,
        "correct",
    ]


def test_half_of_a_surrogate_pair_is_one_unreadable_line_and_the_others_get_verdicts(tmp_path: Path) -> None:
    answers, out = tmp_path / "answers.jsonl", tmp_path / "verdicts.jsonl"
    lines = [
        b'\xef\xbb\xbf{"reference": "18", "prediction": "A: 18"}',
        b'{"reference": "18", "prediction": "A: 18 \\ud83d"}',
        b'{"reference": "18", "prediction": "A: 18"}',
        b'{"reference": NaN, "prediction": "nan"}',
    ]
    answers.write_bytes(b"\n".join(lines))
    counts = grade_file(answers, "numeric", out)
    assert [row["outcome"] for row in rows_of(out)] == ["correct", "unreadable", "correct", "unreadable"]
    assert counts.unreadable[0].reason.startswith("field 'prediction' must hold unicode text")
    assert counts.unreadable[1].reason == "field 'reference' must hold a string or a number; it holds nan"


def long_solution(number: int) -> str:
    return f"There are {number - 2} of them at first, and two more come. " * 5 + f"So that makes {number}"


def test_texts_without_an_answer_are_counted_and_the_grader_that_reads_them_is_named(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    texts = [
        *map(long_solution, range(10, 20)),
        "The answer is 5",
        r"\boxed{",
        r"\boxed{\frac{1}{2",
        r"\frac{1}{2",
        "<think>7",
    ]
    rows = [{"reference": str(10 + idx), "prediction": text} for idx, text in enumerate(texts)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unread = grade_file(answers, "math").unread
    assert unread == Unread(
        15, num_without_answer=10, num_ungradable=1, num_cut_off=3, likely_grader="numeric"
    )
    assert unread.message().splitlines() == [
        "15 texts: 10 had no answer, 1 could not be graded, 3 were cut off; these count as wrong",
        "warning: 93.3% of the texts were not read; --grader numeric finds correct answers in them",
    ]
    counted = grade_file(answers, "numeric").unread
    assert (counted.num_without_answer, counted.likely_grader) == (0, None)


def test_a_few_texts_without_an_answer_are_no_warning(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    texts = ["The answer is 5"] * 38 + ["", "The answer is 9**9"]
    answers.write_text("".join(json.dumps({"reference": "5", "prediction": text}) + "\n" for text in texts))
    unread = grade_file(answers, "numeric").unread
    assert unread == Unread(40, num_without_answer=1, num_ungradable=1)
    assert "warning" not in unread.message()
    assert "warning" in grade_file(answers, "choice").unread.message()


def test_no_grader_is_named_if_none_reads_the_texts() -> None:
    pairs = [("5", "I do not know. " * 30)] * 10
    sample = Sample()
    sample.add(pairs, verdicts := grade_all(pairs, "math"), "math")
    found = count_unread(verdicts).explained(sample)
    assert found == Unread(10, num_without_answer=10)
    assert "look at some of them" in found.message()


def test_a_file_needs_a_grader_and_another_place_for_its_verdicts(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    with pytest.raises(FileNotFoundError, match=r"answers\.jsonl is not a file"):
        grade_file(answers, "math")
    answers.write_text('{"reference": "18", "prediction": "18"}\n')
    assert (
        grade_file(answers).unreadable[0].reason
        == "there is no grader, neither in the line nor for the whole file"
    )
    with pytest.raises(ValueError, match="choose from"):
        grade_file(answers, "mtah")
    with pytest.raises(ValueError, match="is the file to be graded"):
        grade_file(answers, "numeric", answers)
    assert grade_file(answers, "numeric") == GradeCounts(1, 0, 0, ())


@needs_data
def test_numeric_agrees_with_the_published_verdicts_on_gsm8k() -> None:
    rows = rows_of(DATA / "gsm8k" / "example_model_solutions.jsonl")
    solutions = [
        (row["ground_truth"], row[model])
        for row in rows
        for model in row
        if model.endswith(("finetuning", "verification"))
    ]
    verdicts = grade_all([(truth, solution["solution"]) for truth, solution in solutions], "numeric")
    agreements = [
        verdict.is_correct == solution["is_correct"]
        for verdict, (_, solution) in zip(verdicts, solutions, strict=True)
    ]
    assert len(agreements) == 4 * 1319
    assert sum(agreements) == len(agreements)
    assert sum(verdict.outcome == "ungradable" for verdict in verdicts) == 1  # "A: 10+John's age"


@needs_data
def test_math_agrees_with_the_published_verdicts_that_are_right() -> None:
    """The published harness misses problem 3 (`4:30 p.m.`, all samples) and sample 7 of problem 72 (10000 for
    `10{,}000`).
    """
    rows = rows_of(DATA / "samples_same_model" / "math_cot_100.jsonl")
    verdicts = grade_all([(row["answer"], response) for row in rows for response in row["response"]], "math")
    keys = [answer_key(response, "math") for row in rows for response in row["response"]]
    published_majority = majority_here = 0
    differences = set()
    for start, row in zip(range(0, len(verdicts), 8), rows, strict=True):
        here = [verdict.is_correct for verdict in verdicts[start : start + 8]]
        differences |= {(row["idx"], idx) for idx in range(8) if here[idx] != row["score"][idx]}
        majority_here += here[majority(keys[start : start + 8])]
        published_majority += row["score"][majority(row["pred"])]
    assert differences == {(3, idx) for idx in range(8)} | {(72, 7)}
    assert sum(any(row["score"]) for row in rows) == 96
    assert published_majority == 93
    assert majority_here == 94  # problem 3
    assert (
        sum(any(verdict.is_correct for verdict in verdicts[start : start + 8]) for start in range(0, 800, 8))
        == 98
    )  # 3 and 72


@needs_data
def test_math_finds_the_real_pairs_consistent_that_are_not_garbled() -> None:
    pairs = json.loads((DATA / "grader_pairs" / "math500_gpt_answers.json").read_text(encoding="utf-8"))
    verdicts = grade_all([(pair["answer"], pair["prediction"]) for pair in pairs], "math")
    garbled = [
        pair["prediction"] for pair, verdict in zip(pairs, verdicts, strict=True) if not verdict.is_correct
    ]
    assert len(garbled) == 20
    assert (
        sum(verdict.outcome == "ungradable" for verdict in verdicts) == 15
    )  # the others parse as something else
    marks = (
        "pmatrix",
        "mbox",
        r"\frac*",
        r"\frac3*",
        r"\pm*",
        r"\frac2707",
        r"\frac919",
        "11+9a/20",
        "{14/5}",
        "1371/2",
    )
    assert all(any(mark in prediction for mark in marks) for prediction in garbled)


PAGE = Path(__file__).parents[1] / "docs" / "reference" / "grading.md"


def examples_of(header: str) -> list[tuple[str, ...]]:
    """Return the rows of the page's table with this header, as the contents of their cells."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(header) + 2
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    # bars inside code spans do not end a cell
    return [tuple(re.findall(r"(?:`[^`]*`|[^`|])+", row)) for row in rows]


def code(cell: str) -> str:
    return cell.strip().strip("`").replace("\\n", "\n")


@pytest.mark.parametrize(
    "row", examples_of("| | rule | text | grader | answer |"), ids=lambda row: row[2].strip()
)
def test_the_page_on_grading_says_what_is_read(row: tuple[str, ...]) -> None:
    text, grader, answer = code(row[-3]), code(row[-2]), row[-1].strip()
    if answer in ("cut off", "none"):
        verdict = grade("5", text, grader)
        assert verdict.answer is None
        assert verdict.is_cut_off == (answer == "cut off")
        assert verdict.has_no_answer == (answer == "none")
    else:
        assert extract_answer(text, grader) == code(answer)


@pytest.mark.parametrize(
    "row", examples_of("| rule | reference | text | grader | verdict |"), ids=lambda row: row[-3].strip()
)
def test_the_page_on_grading_says_what_is_compared(row: tuple[str, ...]) -> None:
    assert grade(code(row[-4]), code(row[-3]), code(row[-2])).outcome == row[-1].strip()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
