"""Grade the JSON lines of a file.

Invariant: every line gets a verdict or is counted as unreadable, with the reason.
This file does not judge answers (see `grade.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TextIO

from forkpoint.grading.grade import TIMEOUT_S, Outcome, Verdict, check_grader, grade_all
from forkpoint.grading.response import Reasoning
from forkpoint.grading.unread import Sample, Unread, count_unread
from forkpoint.row_files import as_text

CHUNK_LINES = 1_000


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
    unread: Unread = field(default=Unread(), compare=False)
    """The texts among the wrong and ungradable ones of which no answer was compared."""

    @property
    def num_graded(self) -> int:
        return self.num_correct + self.num_wrong + self.num_ungradable

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers, counting ungradable ones as wrong; None if nothing was graded."""
        return self.num_correct / self.num_graded if self.num_graded else None


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


def _grade_lines(path: Path, how: _How, sink: TextIO | None) -> GradeCounts:
    counts: dict[Outcome, int] = {"correct": 0, "wrong": 0, "ungradable": 0}
    unreadable: list[UnreadableLine] = []
    unread, sample = Unread(), Sample()
    with path.open("rb") as lines:
        numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
        while chunk := list(islice(numbered, CHUNK_LINES)):
            verdicts = []
            for number, verdict in _grade_chunk(chunk, how, sample):
                if isinstance(verdict, Verdict):
                    counts[verdict.outcome] += 1
                    verdicts.append(verdict)
                    row = {"line": number, **asdict(verdict)}
                else:
                    unreadable.append(verdict)
                    row = {"line": number, "outcome": "unreadable", "answer": None, "reason": verdict.reason}
                if sink:
                    sink.write(json.dumps(row, ensure_ascii=False) + "\n")
            unread = unread.plus(count_unread(verdicts))
    return GradeCounts(
        counts["correct"],
        counts["wrong"],
        counts["ungradable"],
        tuple(unreadable),
        unread.explained(sample, how.reasoning),
    )


def _grade_chunk(
    chunk: Sequence[tuple[int, bytes]], how: _How, sample: Sample
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
        sample.add(pairs, verdicts, row_grader)
        found.update(zip((number for number, _, _ in asked), verdicts, strict=True))
    yield from sorted(found.items())


def _row(line: bytes, grader: str | None) -> tuple[str, str, str]:
    """Return (reference, prediction, grader) of a line; raises ValueError if one is missing."""
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start + 1}") from None
    if not isinstance(row, dict):
        raise ValueError(f"a line must hold a JSON object; this one holds a {type(row).__name__}")
    grader = row.get("grader") or grader
    if not isinstance(grader, str):
        raise ValueError("there is no grader, neither in the line nor for the whole file")
    check_grader(grader)
    reference, prediction = (
        as_text(row.get(name), f"field {name!r}") for name in ("reference", "prediction")
    )
    return reference, prediction, grader
