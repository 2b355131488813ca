"""How solutions end: the answer of each and whether it is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.grading.grade import answer_key, grade_all
from forkpoint.records import Problem


@dataclass(frozen=True, slots=True)
class End:
    """The graded end of a solution."""

    answer: str | None
    is_correct: bool
    is_gradable: bool


def graded(problems: Sequence[Problem], texts: Sequence[Sequence[str]]) -> list[tuple[End, ...]]:
    """Grade the solutions `texts` of every problem; problems with the same grader are graded together."""
    found: dict[tuple[int, int], End] = {}
    for grader in {problem.grader for problem in problems}:
        places = [
            (row, idx)
            for row, problem in enumerate(problems)
            if problem.grader == grader
            for idx in range(len(texts[row]))
        ]
        verdicts = grade_all([(problems[row].answer, texts[row][idx]) for row, idx in places], grader)
        for (row, idx), verdict in zip(places, verdicts, strict=True):
            is_gradable = verdict.outcome != "ungradable"
            answer = answer_key(texts[row][idx], grader) if is_gradable else None
            found[row, idx] = End(answer, verdict.is_correct, is_gradable)
    return [tuple(found[row, idx] for idx in range(len(solutions))) for row, solutions in enumerate(texts)]
