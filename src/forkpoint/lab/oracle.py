"""The exact step oracle: which step of any solution text is the first wrong one, or none.

Invariant: a solution is judged right exactly when every line is the line that the story asks for at that place, whatever
the spacing. The first error is placed at the first character that no right solution could have there, so it can be
looked up under any segmentation of the text. This file judges steps, not answers: a wrong step may still reach the
right answer by luck, which `first_error` reports and a grader does not see.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from forkpoint.lab.story import DAYS, Story, answer_line, equation_line
from forkpoint.segment import num_shared

ErrorKind = Literal["value", "operand", "distractor", "skipped", "repeated", "answer", "missing", "format"]
"""`value`: wrong result; `operand`: wrong verb, number or operator; `distractor`: an entry used that does not count;
`skipped`: an entry left out; `repeated`: used again; `answer`: last line differs from the last result; `missing`: the
text ends before the answer; `format`: not a line of this family."""

_EQUATION = re.compile(
    r"\s*(?P<day>[A-Z][a-z]+)\s*:\s*(?P<verb>[a-z]+)"
    r"\s+(?P<left>\d+)\s*(?P<operator>[-+*])\s*(?P<right>\d+)\s*=\s*(?P<result>-?\d+)\.?\s*$"
)
_ANSWER = re.compile(r"\s*The answer is\s+(?P<answer>-?\d+)\.?\s*$")


@dataclass(frozen=True, slots=True)
class StepError:
    """The first wrong step of a solution."""

    line_idx: int
    """Among the non-empty lines, from 0; that of the line that would be next where the text ends too early."""
    offset: int
    """The character of the text at which it goes wrong; the text's length where the text ends too early."""
    kind: ErrorKind


def first_error(story: Story, text: str) -> StepError | None:
    """The first wrong step of `text` as a solution of `story`, or None if all of it is right."""
    value, num_steps, start, line_idx = story.start, 0, 0, 0
    is_answered = False
    for line in text.splitlines(keepends=True):
        if line.strip():
            if is_answered:
                return StepError(line_idx, start + _indent(line), "format")
            step = story.steps[num_steps][1] if num_steps < len(story.steps) else None
            error = _equation_error(story, num_steps, value, line) if step else _answer_error(story, value, line)
            if error and start + len(line) == len(text) and _right_line(story, num_steps, value).startswith(line):
                return StepError(line_idx, len(text), "missing")
            if error:
                return StepError(line_idx, start + error[0], error[1])
            if step:
                value, num_steps = step.apply(value), num_steps + 1
            else:
                is_answered = True
            line_idx += 1
        start += len(line)
    return None if is_answered else StepError(line_idx, len(text), "missing")


def first_wrong_step(story: Story, steps: Sequence[str]) -> int:
    """The 0-based index of the first wrong step of a solution cut into `steps` (joined, they are its text); -1 if none.

    A text that ends too early is charged to its last step.
    """
    error = first_error(story, "".join(steps))
    if error is None:
        return -1
    end = 0
    for step_idx, step in enumerate(steps):
        end += len(step)
        if error.offset < end:
            return step_idx
    return len(steps) - 1


def _right_line(story: Story, step_idx: int, value: int) -> str:
    if step_idx == len(story.steps):
        return answer_line(value)
    day, event = story.steps[step_idx]
    return equation_line(day, event.verb, value, event.operator, event.amount, event.apply(value))


def _equation_error(story: Story, step_idx: int, value: int, line: str) -> tuple[int, ErrorKind] | None:
    day, expected = story.steps[step_idx]
    match = _EQUATION.match(line)
    if match is None:
        return _indent(line), "skipped" if _ANSWER.match(line) else "format"
    wanted: list[tuple[str, str, ErrorKind]] = [
        ("day", day, _wrong_entry(story, step_idx, match)),
        ("verb", expected.verb, "operand"),
        ("left", str(value), "operand"),
        ("operator", expected.operator, "operand"),
        ("right", str(expected.amount), "operand"),
        ("result", str(expected.apply(value)), "value"),
    ]
    return next(((_differs(match, name, text), kind) for name, text, kind in wanted if match[name] != text), None)


def _answer_error(story: Story, value: int, line: str) -> tuple[int, ErrorKind] | None:
    match = _ANSWER.match(line)
    if match:
        return None if match["answer"] == str(value) else (_differs(match, "answer", str(value)), "answer")
    equation = _EQUATION.match(line)
    return _indent(line), _wrong_entry(story, len(story.steps), equation) if equation else "format"


def _wrong_entry(story: Story, step_idx: int, match: re.Match[str]) -> ErrorKind:
    """What using the entry of this line would mean where step `step_idx` is due."""
    days = DAYS[: len(story.events)]
    if match["day"] not in days:
        return "format"
    used = days.index(match["day"])
    if story.events[used].distraction:
        return "distractor"
    due = days.index(story.steps[step_idx][0]) if step_idx < len(story.steps) else len(days)
    return "skipped" if used > due else "repeated"


def _differs(match: re.Match[str], name: str, expected: str) -> int:
    return match.start(name) + num_shared(match[name], expected)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
