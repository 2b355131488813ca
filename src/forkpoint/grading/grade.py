"""Grade an answer: correct, wrong, or ungradable, which counts as wrong but is reported separately.

Graders: `numeric` (exact fractions), `math` (normal form, then math-verify), `exact` (a string), `choice` (a
letter), `code` (a program that must pass its tests, see `code.py`), or the user's own `module:function`,
called as function(reference, prediction) -> bool with the unchanged texts.
Invariant: every pair gets a verdict within its time limit, whatever the answer is. Anything that might hang
runs in a process that can be killed (see `pool.py`, `code.py`). Importing this file loads no parser and
starts no process. This file gives no partial credit and does not judge steps.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

from forkpoint.checks import check_above
from forkpoint.grading.answers import find_answer, shown
from forkpoint.grading.code import find_code, read_tests, run_all
from forkpoint.grading.latex import decide, math_answer, split_choice, syntax_trouble
from forkpoint.grading.numerals import parse_number, same_number
from forkpoint.grading.pool import shared_pool
from forkpoint.grading.response import Reasoning, UnreadableAnswer, check_reasoning, without_reasoning

GRADERS = ("numeric", "math", "exact", "choice", "code")
TIMEOUT_S = 2.0
CHUNK_LINES = 1_000

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


@dataclass(frozen=True, slots=True)
class UnreadableLine:
    """A line of a file that cannot be graded."""

    line: int
    """The line number, counted from 1."""
    reason: str


@dataclass(frozen=True, slots=True)
class GradeCounts:
    """Counts of the verdicts on a file; unreadable lines have no verdict."""

    num_correct: int
    num_wrong: int
    num_ungradable: int
    unreadable: tuple[UnreadableLine, ...]

    @property
    def num_graded(self) -> int:
        return self.num_correct + self.num_wrong + self.num_ungradable

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers, counting ungradable ones as wrong; None if nothing was graded."""
        return self.num_correct / self.num_graded if self.num_graded else None


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


def grade_file(
    path: str | Path,
    grader: str | None = None,
    out: str | Path | None = None,
    timeout_s: float = TIMEOUT_S,
    reasoning: Reasoning = "drop",
) -> GradeCounts:
    """Grade a JSONL file with the fields `reference` and `prediction`, and optionally `grader`.

    A row's own grader takes precedence over `grader`. Every verdict is written to `out` as a JSON line with
    the number of the line it belongs to. Lines that cannot be graded are written with the outcome
    `unreadable`, counted and returned.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not a file; grade needs JSON lines with the fields reference and prediction"
        )
    if grader is not None:
        check_grader(grader)
    how = _How(grader, timeout_s, reasoning)
    if out is None:
        return _grade_lines(path, how, None)
    if Path(out).resolve() == path.resolve():
        raise ValueError(f"{out} is the file to be graded; write the verdicts to another one")
    with Path(out).open("w", encoding="utf-8") as sink:
        return _grade_lines(path, how, sink)


@dataclass(frozen=True, slots=True)
class _How:
    """How a file is graded."""

    grader: str | None
    timeout_s: float
    reasoning: Reasoning


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
        return Verdict("wrong", None, "no answer")
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
    letters, values = zip(split_choice(reference), split_choice(answer), strict=True)
    if letters[0] and letters[1]:
        return Verdict(_outcome(letters[0] == letters[1]), answer)
    has_both = any(letter and value for letter, value in zip(letters, values, strict=True))
    gold, given = map(math_answer, values if has_both else (reference, answer))
    is_same = decide(gold, given)
    if is_same is not None:
        return Verdict(_outcome(is_same), answer)
    for text, whose in ((gold.text, "reference"), (given.text, "prediction")):
        trouble = syntax_trouble(text)
        if trouble:
            return Verdict("ungradable", answer, f"the {whose} {shown(text)} cannot be read: {trouble}")
    return _Owed((gold.text, given.text), answer)


def _grade_lines(path: Path, how: _How, sink: TextIO | None) -> GradeCounts:
    counts: dict[Outcome, int] = {"correct": 0, "wrong": 0, "ungradable": 0}
    unreadable: list[UnreadableLine] = []
    with path.open("rb") as lines:
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        while chunk := list(islice(numbered, CHUNK_LINES)):
            for number, verdict in _grade_chunk(chunk, how):
                if isinstance(verdict, Verdict):
                    counts[verdict.outcome] += 1
                    row = {"line": number, **asdict(verdict)}
                else:
                    unreadable.append(verdict)
                    row = {"line": number, "outcome": "unreadable", "answer": None, "reason": verdict.reason}
                if sink:
                    sink.write(json.dumps(row, ensure_ascii=False) + "\n")
    return GradeCounts(counts["correct"], counts["wrong"], counts["ungradable"], tuple(unreadable))


def _grade_chunk(
    chunk: Sequence[tuple[int, bytes]], how: _How
) -> Iterator[tuple[int, Verdict | UnreadableLine]]:
    found: dict[int, Verdict | UnreadableLine] = {}
    rows: dict[str, list[tuple[int, str, str]]] = {}
    for number, line in chunk:
        try:
            reference, prediction, row_grader = _row(line, how.grader)
            rows.setdefault(row_grader, []).append((number, reference, prediction))
        except (ValueError, RecursionError) as error:
            found[number] = UnreadableLine(number, str(error))
    for row_grader, asked in rows.items():
        pairs = [(reference, prediction) for _, reference, prediction in asked]
        verdicts = grade_all(pairs, row_grader, how.timeout_s, how.reasoning)
        found.update(zip((number for number, _, _ in asked), verdicts, strict=True))
    yield from sorted(found.items())


def _row(line: bytes, grader: str | None) -> tuple[str, str, str]:
    """Return (reference, prediction, grader) of a line; raises ValueError if one is missing."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"a line must hold a JSON object; this one holds a {type(row).__name__}")
    grader = row.get("grader") or grader
    if not isinstance(grader, str):
        raise ValueError("there is no grader, neither in the line nor for the whole file")
    check_grader(grader)
    return _text(row, "reference"), _text(row, "prediction"), grader


def _text(row: dict[str, Any], field: str) -> str:
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"field {field!r} must be a string or a number; {shown(str(value))} was found")
    return str(value)
