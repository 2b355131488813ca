"""Reads candidate solutions of problems from files, whoever wrote them.

A row is a problem with its question, its gold answer and its candidates. A candidate is a text, a list of
steps, or a record with `text` or `steps`. Answers, verdicts and scores of candidates are read from columns of
your choice: each is a list in parallel with the candidates or, if candidates are records, a field of each.
Invariant: a column that is not named is not used. Without a column of verdicts the candidates are graded
here, and without one of answers the answers are read here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

from forkpoint.formats.cells import cell, items, text
from forkpoint.formats.containers import read_rows
from forkpoint.grading.grade import answer_key, check_grader, grade_all
from forkpoint.grading.response import Reasoning, check_reasoning
from forkpoint.grading.unread import Sample, Unread, count_unread
from forkpoint.records import Solution
from forkpoint.row_files import as_text
from forkpoint.steps import Segmentation, newline_steps

Cut = Literal["lines", "paragraphs", "whole"]
CUT_OF: dict[Segmentation, Cut] = {"newline": "lines", "solution": "whole"}
"""The cut for PRMs trained on each segmentation; `entropy` steps cannot be read off a text."""
PARAGRAPH = re.compile(r"\s*\S.*?(?:\n[ \t]*\n\s*|\s*\Z)", re.DOTALL)


@dataclass(frozen=True)
class CandidateColumns:
    """The columns of a file, and the grader for candidates without verdicts."""

    question: str = "question"
    """The column with the text of the problem."""
    answer: str = "answer"
    """The column with the gold answer; read if there is no column of verdicts."""
    candidates: str = "candidates"
    """The column with the list of candidates."""
    answers: str | None = None
    """The column with the candidates' answers, of which equal texts are equal votes; None reads them out of
    the candidates."""
    verdicts: str | None = None
    """The column with true or false for every candidate; None grades the candidates."""
    scores: str | None = None
    """The column with a number, or a list of step scores, for every candidate."""
    grader: str = "math"
    """How answers are read and judged if no column gives them: numeric, math, exact, choice, code, or
    module:function."""
    reasoning: Reasoning = "drop"
    """Whether text between reasoning tags such as `<think>` is dropped before answers are looked for, or read
    like the rest."""

    def __post_init__(self) -> None:
        check_grader(self.grader)
        check_reasoning(self.reasoning)


@dataclass(frozen=True, slots=True)
class Candidates:
    """One problem and its candidates; all tuples have one entry per candidate."""

    question: str
    solutions: tuple[Solution, ...]
    """The candidates; their `answer` is what votes are counted by."""
    steps: tuple[tuple[str, ...] | None, ...]
    """The steps of each candidate; None for one that is a text."""
    scores: tuple[tuple[float, ...], ...] | None = None
    """The scores of the file, at least one per candidate; None if it has none."""


@dataclass(frozen=True, slots=True)
class CandidateFile:
    """The problems of a file, and the columns that were read."""

    problems: tuple[Candidates, ...]
    columns: CandidateColumns
    num_ungradable: int = 0
    """Number of answers without a verdict; they count as wrong."""
    unread: Unread | None = None
    """The candidates of which no answer was compared; None if the file gives the verdicts."""


@dataclass(frozen=True, slots=True)
class _Row:
    """The content of a row; tuples have one entry per candidate, and a column that is not read is None."""

    question: str
    gold: str
    texts: tuple[str, ...]
    steps: tuple[tuple[str, ...] | None, ...]
    answers: tuple[Any, ...] | None
    verdicts: tuple[bool, ...] | None
    scores: tuple[tuple[float, ...], ...] | None


def read_candidates(source: str, columns: CandidateColumns = CandidateColumns()) -> CandidateFile:
    """Read the problems of a .jsonl, .json or .parquet file or a hub data set.

    ValueError names the first row that does not fit.
    """
    rows = []
    for where, row in read_rows(source):
        try:
            rows.append(_row(row, columns))
        except ValueError as error:
            raise ValueError(f"{where} is not a problem with candidates: {error}") from None
    if not rows:
        raise ValueError(f"{source} holds no problems")
    num_ungradable, unread = 0, None
    if columns.verdicts is None:
        pairs = [(row.gold, candidate) for row in rows for candidate in row.texts]
        graded = grade_all(pairs, columns.grader, reasoning=columns.reasoning)
        num_ungradable = sum(verdict.outcome == "ungradable" for verdict in graded)
        sample = Sample()
        sample.add(pairs, graded, columns.grader)
        unread = count_unread(graded).explained(sample, columns.reasoning)
        remaining = iter(graded)
        rows = [replace(row, verdicts=tuple(next(remaining).is_correct for _ in row.texts)) for row in rows]
    return CandidateFile(tuple(_candidates(row, columns) for row in rows), columns, num_ungradable, unread)


def cut(candidate: str, how: Cut) -> tuple[str, ...]:
    """Cut a text into lines, paragraphs (between blank lines) or one step; the steps joined are the text."""
    match how:
        case "lines":
            return newline_steps(candidate)
        case "paragraphs":
            return tuple(PARAGRAPH.findall(candidate)) or (candidate,)
        case "whole":
            return (candidate,)


def _row(row: Mapping[str, Any], columns: CandidateColumns) -> _Row:
    entries = items(row, columns.candidates)
    if not entries:
        raise ValueError(f"column {columns.candidates!r} is empty; a problem needs at least one candidate")
    steps, texts = zip(*(_steps_and_text(entry) for entry in entries), strict=True)
    answers, verdicts, scores = (
        _said(row, entries, name) for name in (columns.answers, columns.verdicts, columns.scores)
    )
    if verdicts is not None and not all(verdict in (True, False) for verdict in verdicts):
        raise ValueError(
            f"column {columns.verdicts!r} must hold true or false for every candidate; "
            f"it holds {verdicts!r:.80}"
        )
    return _Row(
        question=text(row, columns.question),
        gold=as_text(cell(row, columns.answer), f"column {columns.answer!r}") if verdicts is None else "",
        texts=texts,
        steps=steps,
        answers=answers,
        verdicts=None if verdicts is None else tuple(bool(verdict) for verdict in verdicts),
        scores=None if scores is None else tuple(_scores(score) for score in scores),
    )


def _steps_and_text(entry: Any) -> tuple[tuple[str, ...] | None, str]:
    content = entry.get("steps", entry.get("text")) if isinstance(entry, dict) else entry
    if isinstance(content, str):
        return None, content
    if isinstance(content, list) and content and all(isinstance(step, str) for step in content):
        return tuple(content), "\n".join(content)
    raise ValueError(
        f"a candidate is a text, a list of steps, or a record with `text` or `steps`; {entry!r:.80} was given"
    )


def _said(row: Mapping[str, Any], entries: Sequence[Any], column: str | None) -> tuple[Any, ...] | None:
    """Return the values of a column, one per candidate; None if no column is named."""
    if column is None:
        return None
    if all(isinstance(entry, dict) for entry in entries):
        return tuple(cell(entry, column) for entry in entries)
    values = items(row, column)
    if len(values) != len(entries):
        raise ValueError(f"column {column!r} has {len(values)} entries for {len(entries)} candidates")
    return tuple(values)


def _scores(value: Any) -> tuple[float, ...]:
    scores = value if isinstance(value, list) else [value]
    if not scores or not all(
        isinstance(score, (int, float)) and not isinstance(score, bool) and isfinite(score)
        for score in scores
    ):
        raise ValueError(
            f"the scores of a candidate are a number or a list of numbers; {value!r:.80} was given"
        )
    return tuple(float(score) for score in scores)


def _candidates(row: _Row, columns: CandidateColumns) -> Candidates:
    assert row.verdicts is not None, "rows without verdicts have been graded"
    answers = (
        row.answers
        if row.answers is not None
        else [answer_key(candidate, columns.grader, columns.reasoning) for candidate in row.texts]
    )
    solutions = tuple(
        Solution(candidate, (), (), None if answer is None else str(answer), is_correct, num_sampled_tokens=0)
        for candidate, answer, is_correct in zip(row.texts, answers, row.verdicts, strict=True)
    )
    return Candidates(row.question, solutions, row.steps, row.scores)
