"""The exact step oracle: it finds the first wrong step of any solution text.

Invariant: a solution is judged right if and only if every line is the line that the story requires at that
place, apart from spacing. The first error is placed at the first character that no right solution could have
there, so the wrong step is known under any segmentation of the text. This file judges steps, not answers: a
wrong step may still lead to the right answer by luck; `first_error` reports it although a grader does not see
it. It knows no family of stories: a line is compared word by word with the right one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from forkpoint.lab.story import DAYS
from forkpoint.steps import lines_of, num_shared

ErrorKind = Literal["value", "operand", "distractor", "skipped", "repeated", "answer", "missing", "format"]
"""The kinds of errors. `value`: the result is wrong; `operand`: the verb, number, operator or person is
wrong; `distractor`: an entry is used that does not count; `skipped`: an entry is left out; `repeated`: an
entry is used again; `answer`: the last line differs from the last result; `missing`: the text ends before the
answer; `format`: the line is none of this family."""

_WORD = re.compile(r"\d+|[^\W\d]+|[^\w\s]")
_ANSWER_WORDS = ["The", "answer", "is"]
_BEFORE_RESULT = ("=", "so")
_PUNCTUATION = (":", "=", ",", "so")


class LabStory(Protocol):
    """A problem of the lab, of any family: a diary with distractors among its entries, and its solution."""

    @property
    def start(self) -> Any:
        """The state before the first entry."""
        ...

    @property
    def events(self) -> Sequence[Any]:
        """One entry per day; its `distraction` is None if it counts (see `story.Event`, `shuffle.Swap`)."""
        ...

    @property
    def question(self) -> str: ...

    @property
    def answer(self) -> int | str: ...

    @property
    def solution(self) -> str: ...

    def read(self, state: Any) -> int | str:
        """The answer that follows from the last state."""
        ...


@dataclass(frozen=True, slots=True)
class StepError:
    """The first wrong step of a solution."""

    line_idx: int
    """The index of its line among the non-empty lines, from 0; if the text ends too early, that of the line
    that is missing."""
    offset: int
    """The first wrong character of the text; the length of the text if it ends too early."""
    kind: ErrorKind


def first_error(story: LabStory, text: str) -> StepError | None:
    """The first wrong step of `text` as a solution of `story`; None if the solution is right."""
    right_lines = story.solution.split("\n")
    start, line_idx = 0, 0
    for line in lines_of(text):
        if line.strip():
            if line_idx == len(right_lines):
                return StepError(line_idx, start + _indent(line), "format")
            error = _line_error(story, right_lines[line_idx], line)
            if error and start + len(line) == len(text) and right_lines[line_idx].startswith(line):
                return StepError(line_idx, len(text), "missing")
            if error:
                return StepError(line_idx, start + error[0], error[1])
            line_idx += 1
        start += len(line)
    return None if line_idx == len(right_lines) else StepError(line_idx, len(text), "missing")


def first_wrong_step(story: LabStory, steps: Sequence[str]) -> int:
    """The 0-based index of the first wrong step of a solution that is cut into `steps`; -1 if it is right.

    The steps, joined, are the text of the solution. If it ends too early, its last step is the wrong one.
    """
    error = first_error(story, "".join(steps))
    return -1 if error is None else step_at(error.offset, steps)


def step_at(offset: int, steps: Sequence[str]) -> int:
    """The 0-based index of the step with a character of the joined text; the last step if it lies behind."""
    end = 0
    for step_idx, step in enumerate(steps):
        end += len(step)
        if offset < end:
            return step_idx
    return len(steps) - 1


def _line_error(story: LabStory, right_line: str, line: str) -> tuple[int, ErrorKind] | None:
    """Offset and kind of the first difference between a line and the right one; a full stop may end it."""
    right, words = _WORD.findall(right_line), list(_WORD.finditer(line))
    found = [word.group() for word in words]
    num_right = num_shared(right, found)
    if num_right == len(right):
        if found[num_right:] in ([], ["."]):
            return None
        return words[num_right].start(), "format"
    if num_right == 0:
        return _indent(line), _wrong_entry(story, right, found)
    if num_right == len(found):
        return len(line.rstrip()), "format"
    wrong = words[num_right]
    return wrong.start() + num_shared(wrong.group(), right[num_right]), _kind(right, num_right)


def _kind(right: Sequence[str], idx: int) -> ErrorKind:
    """The kind of the error if word `idx` of a line is wrong and the words before it are right."""
    if right[idx] in _PUNCTUATION or idx == 0:
        return "format"
    if right[:3] == _ANSWER_WORDS:
        return "answer" if idx > 2 else "format"
    return "value" if any(word in right[:idx] for word in _BEFORE_RESULT) else "operand"


def _wrong_entry(story: LabStory, right: Sequence[str], found: Sequence[str]) -> ErrorKind:
    """The kind of the error if a line begins with another day, or with the answer, that is not due there."""
    days = DAYS[: len(story.events)]
    due = days.index(right[0]) if right[0] in days else len(days)
    if found[:3] == _ANSWER_WORDS:
        return "skipped"
    if not found or found[0] not in days:
        return "format"
    used = days.index(found[0])
    if story.events[used].distraction:
        return "distractor"
    return "skipped" if used > due else "repeated"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
