"""Grade an answer: correct, wrong, or ungradable, which counts as wrong but is reported separately.

Graders: `numeric` (exact fractions), `math` (normal form, then math-verify), `exact` (a string), `choice` (a
letter), `code` (a program that must pass its tests, see `code.py`), or the user's own `module:function`,
called as function(reference, prediction) -> bool with the unchanged texts.
Invariant: every pair gets a verdict within its time limit, whatever the answer is. Anything that might hang
runs in a process that can be killed (see `pool.py`, `code.py`). Importing this file loads no parser and
starts no process. This file gives no partial credit and does not judge steps.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from forkpoint.checks import check_above
from forkpoint.grading.answers import find_answer, shown
from forkpoint.grading.code import find_code, read_tests, run_all
from forkpoint.grading.latex import decide, math_answer, split_choice, syntax_trouble
from forkpoint.grading.numerals import parse_number, same_number
from forkpoint.grading.pool import shared_pool
from forkpoint.grading.response import (
    CUT_OFF,
    Reasoning,
    UnreadableAnswer,
    check_reasoning,
    without_reasoning,
)

GRADERS = ("numeric", "math", "exact", "choice", "code")
TIMEOUT_S = 2.0
NO_ANSWER = "no answer"
"""The reason of a verdict on a text that states no answer."""

Outcome = Literal["correct", "wrong", "ungradable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A grader's decision about one answer."""

    outcome: Outcome
    answer: str | None
    """The answer as it is written in the prediction; None if there is none or it cannot be read."""
    reason: str = ""
    """Why the outcome is `ungradable` or a program is wrong, or a note that there is no answer."""

    @property
    def is_correct(self) -> bool:
        """Whether the outcome is `correct`; an ungradable answer is not correct."""
        return self.outcome == "correct"

    @property
    def has_no_answer(self) -> bool:
        """Whether the prediction states no answer."""
        return self.reason == NO_ANSWER

    @property
    def is_cut_off(self) -> bool:
        """Whether the prediction ends before its answer does, as far as its text shows."""
        return CUT_OFF in self.reason and self.answer is None


def check_grader(grader: str) -> None:
    """Raise ValueError unless `grader` is a known name or has the form `module:function`."""
    if grader not in GRADERS and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", grader):
        raise ValueError(
            f"grader {grader!r} is unknown; choose from {', '.join(GRADERS)}, "
            "or give your own as module:function"
        )


def check_reference(reference: str, grader: str) -> None:
    """Raise ValueError unless `grader` can read `reference`, so that a bad problem set fails early."""
    check_grader(grader)
    if grader == "code":
        read_tests(reference)
    elif grader in GRADERS and _read(reference, grader, "the reference").answer is None:
        raise ValueError(
            f"{shown(reference)} cannot be read by grader {grader!r}; choose another of {', '.join(GRADERS)}"
        )


def extract_answer(text: str, grader: str, reasoning: Reasoning = "drop") -> str | None:
    """Return the answer in a solution text as written; None if there is none or it cannot be read."""
    check_grader(grader)
    check_reasoning(reasoning)
    return _read(text, grader, "the prediction", reasoning).answer


def answer_key(text: str, grader: str, reasoning: Reasoning = "drop") -> str | None:
    """Return a key for counting votes; None if there is no answer or it cannot be read.

    Answers that are equal without algebra, such as `0.5` and `1/2`, have the same key.
    """
    answer = extract_answer(text, grader, reasoning)
    if answer is None:
        return None
    number = parse_number(answer) if grader == "numeric" else None
    if number:
        return str(number.value)
    return (
        split_choice(answer)[0] or math_answer(answer).key
        if grader == "math"
        else _plain_string(answer)
        if grader == "exact"
        else answer
    )


def is_correct(reference: str, prediction: str, grader: str, timeout_s: float = TIMEOUT_S) -> bool:
    """Return whether `prediction`, an answer or a whole solution text, gives the answer `reference`."""
    return grade(reference, prediction, grader, timeout_s).is_correct


def grade(reference: str, prediction: str, grader: str, timeout_s: float = TIMEOUT_S) -> Verdict:
    """Grade one prediction, an answer or a whole solution text."""
    return grade_all([(reference, prediction)], grader, timeout_s)[0]


def grade_all(
    pairs: Iterable[tuple[str, str]],
    grader: str,
    timeout_s: float = TIMEOUT_S,
    reasoning: Reasoning = "drop",
) -> list[Verdict]:
    """Return one verdict per (reference, prediction), in order.

    `reasoning` says whether text between reasoning tags such as `<think>` is dropped or read like the rest; a
    user's function always gets the whole texts.
    Pairs that need a process are shared among a few processes, and equal pairs are judged once, so a user's
    function must give the same answer for the same pair. Raises ValueError if the grader is unknown or cannot
    be loaded.
    """
    check_grader(grader)
    check_above(0, timeout_s=timeout_s)
    check_reasoning(reasoning)
    if grader == "code":
        return _grade_code(pairs, timeout_s, reasoning)
    verdicts = [_grade_here(reference, prediction, grader, reasoning) for reference, prediction in pairs]
    owed = list(dict.fromkeys(verdict.question for verdict in verdicts if isinstance(verdict, _Owed)))
    rulings = dict(zip(owed, shared_pool(grader).ask_all(owed, timeout_s), strict=True)) if owed else {}
    settled = []
    for verdict in verdicts:
        if isinstance(verdict, _Owed):
            ruling = rulings[verdict.question]
            outcome = _outcome(ruling.is_correct) if not ruling.failure else "ungradable"
            verdict = Verdict(outcome, verdict.answer, ruling.failure)
        settled.append(verdict)
    return settled


def _grade_code(pairs: Iterable[tuple[str, str]], timeout_s: float, reasoning: Reasoning) -> list[Verdict]:
    asked = [
        (reference, _read(prediction, "code", "the prediction", reasoning)) for reference, prediction in pairs
    ]
    owed = [(reference, reading.answer) for reference, reading in asked if not reading.failure]
    rulings = iter(run_all(owed, timeout_s))
    verdicts = []
    for _, reading in asked:
        if reading.failure:
            verdicts.append(Verdict("ungradable", None, reading.failure))
        else:
            ruling = next(rulings)
            verdicts.append(Verdict(ruling.outcome, reading.answer, ruling.reason))
    return verdicts


@dataclass(frozen=True, slots=True)
class _Owed:
    """A verdict that a process still has to decide."""

    question: tuple[str, str]
    answer: str | None


@dataclass(frozen=True, slots=True)
class _Reading:
    answer: str | None
    failure: str = ""


def _outcome(is_correct: bool) -> Outcome:
    return "correct" if is_correct else "wrong"


def _read(text: str, grader: str, whose: str, reasoning: Reasoning = "drop") -> _Reading:
    try:
        if grader == "code":
            return _Reading(find_code(without_reasoning(text) if reasoning == "drop" else text))
        return _Reading(find_answer(text, grader, reasoning))
    except UnreadableAnswer as error:
        return _Reading(None, f"{whose} cannot be read: {error}")


def _grade_here(reference: str, prediction: str, grader: str, reasoning: Reasoning) -> Verdict | _Owed:
    """Return the verdict, or the question that a process has to answer first."""
    answer = _read(prediction, grader, "the prediction", reasoning)
    if grader not in GRADERS:
        return _Owed((reference, prediction), answer.answer)
    gold = _read(reference, grader, "the reference")
    if gold.answer is None:
        return Verdict(
            "ungradable", answer.answer, gold.failure or f"the reference {shown(reference)} holds no answer"
        )
    if answer.failure:
        return Verdict("ungradable", None, answer.failure)
    if answer.answer is None:
        return Verdict("wrong", None, NO_ANSWER)
    if grader == "math":
        return _grade_math(gold.answer, answer.answer)
    return Verdict(_outcome(_is_same(gold.answer, answer.answer, grader)), answer.answer)


def _is_same(reference: str, answer: str, grader: str) -> bool:
    if grader == "numeric":
        numbers = parse_number(reference), parse_number(answer)
        assert numbers[0] and numbers[1], f"{reference!r} and {answer!r} were read as numbers"
        return same_number(numbers[0], numbers[1])
    return _plain_string(reference) == _plain_string(answer)


def _plain_string(answer: str) -> str:
    """Normalise an answer: blanks, case, a final full stop and the composition of characters do not count."""
    return " ".join(unicodedata.normalize("NFC", answer).casefold().split()).removesuffix(".")


def _grade_math(reference: str, answer: str) -> Verdict | _Owed:
    (gold_letter, gold_value), (letter, value) = split_choice(reference), split_choice(answer)
    if gold_letter and letter:
        return Verdict(_outcome(gold_letter == letter), answer)
    if (gold_letter and gold_value) or (letter and value):
        gold, given = math_answer(gold_value), math_answer(value)
    else:
        gold, given = math_answer(reference), math_answer(answer)
    is_same = decide(gold, given)
    if is_same is not None:
        return Verdict(_outcome(is_same), answer)
    for text, whose in ((gold.text, "reference"), (given.text, "prediction")):
        trouble = syntax_trouble(text)
        if trouble:
            return Verdict("ungradable", answer, f"the {whose} {shown(text)} cannot be read: {trouble}")
    return _Owed((gold.text, given.text), answer)
