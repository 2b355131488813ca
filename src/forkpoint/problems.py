r"""Load problem sets that are named by a specification such as `lab:test` or `gsm8k:PATH`.

    lab:train  lab:valid  lab:test   the built-in stories (num=500, level=default, seed=0)
    lab:easy   lab:hard              that level of the test split
    lab-shuffle:train ..             likewise: the built-in problems without numbers, about who has which ball
    gsm8k:PATH                       as published: question, and an answer that ends in `#### n`
    math:PATH                        MATH and MATH-500: problem, and answer or a \boxed one in solution
    jsonl:PATH  parquet:PATH         any columns (question=question, answer=answer, id=id, grader=numeric)
    hub:OWNER/NAME                   likewise through `datasets` (split=test, config=); also a local directory
    PATH.jsonl  PATH.parquet         short for jsonl: and parquet:

Keys follow as a query: `jsonl:my.jsonl?answer=gold&grader=math&num=100`. For files, `num` takes the first
rows of the file, or, if `seed` is given, the first rows of an order shuffled by it; ids depend on neither.
Invariant: a set is complete or refused. A row that cannot be used is an error that names it, and so is a key
that the set does not have, or a number of problems that it cannot give.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote_plus

from forkpoint.checks import check_at_least
from forkpoint.grading.answers import find_marked
from forkpoint.grading.grade import check_grader, check_reference
from forkpoint.grading.response import UnreadableAnswer
from forkpoint.lab.problem_set import lab_problems
from forkpoint.lab.story import LEVELS, SPLITS
from forkpoint.records import Problem
from forkpoint.row_files import PlacedRow, Row, as_text, hub_rows, jsonl_rows


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns that hold the question, the answer and the id, and the grader of the answers."""

    question: str = "question"
    answer: str = "answer"
    id: str | None = None
    """None stands for the column `id` if there is one, else for the number of the row, counted from 0."""
    grader: str = "numeric"


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of problem set: the query keys that it accepts, and the function that loads it."""

    keys: tuple[str, ...]
    load: Callable[[str, dict[str, str]], list[Problem]]


def load_problems(spec: str) -> list[Problem]:
    """The problems that `spec` names (see the module's docstring).

    Raises ValueError on an unknown scheme, key or column and on an unusable row, FileNotFoundError if there
    is no file.
    """
    place, _, query_text = spec.partition("?")
    scheme, colon, path = place.partition(":")
    if not (colon and scheme in SOURCES) and place.endswith((".jsonl", ".parquet")):
        scheme, path = place.rpartition(".")[2], place
    if scheme not in SOURCES:
        raise ValueError(
            f"problem set {spec!r} is unknown; "
            f"choose from {', '.join(f'{name}:' for name in SOURCES)} or a .jsonl or .parquet"
        )
    source = SOURCES[scheme]
    return source.load(path, _query(query_text, scheme, source.keys))


def _query(text: str, scheme: str, keys: Sequence[str]) -> dict[str, str]:
    query: dict[str, str] = {}
    for field in filter(None, text.split("&")):
        key, equals, value = field.partition("=")
        if key not in keys:
            raise ValueError(f"key {key!r} is unknown for {scheme}:; choose from {', '.join(keys)}")
        if not equals or not value or key in query:
            raise ValueError(f"query {text!r} is not of the form key=value&key=value with each key once")
        query[key] = unquote_plus(value)
    return query


def _load_lab(family: str, name: str, query: dict[str, str]) -> list[Problem]:
    if name not in LAB_NAMES:
        raise ValueError(
            f"{family}:{name} is unknown; choose from {', '.join(f'{family}:{known}' for known in LAB_NAMES)}"
        )
    num, seed = _whole_number(query, "num", minimum=1), _whole_number(query, "seed")
    split, level = LAB_NAMES[name]
    if level and "level" in query:
        raise ValueError(
            f"{family}:{name} is a level already; write {family}:test?level={query['level']} instead"
        )
    return lab_problems(
        split, level or query.get("level", "default"), 500 if num is None else num, seed or 0, family
    )


def _load_gsm8k(path: str, query: dict[str, str]) -> list[Problem]:
    return _problems(_jsonl_rows(Path(path)), f"gsm8k:{Path(path).stem}", Columns(), query, needs_mark=True)


def _load_math(path: str, query: dict[str, str]) -> list[Problem]:
    rows = [(place, _with_boxed_answer(place, row)) for place, row in _jsonl_rows(Path(path))]
    id_column = "unique_id" if rows and "unique_id" in rows[0][1] else None
    return _problems(rows, f"math:{Path(path).stem}", Columns("problem", "answer", id_column, "math"), query)


def _with_boxed_answer(place: str, row: Row) -> Row:
    """A row with a column `answer`; MATH as first published has the answer only in the solution."""
    if "answer" in row or not isinstance(row.get("solution"), str):
        return row
    if "\\boxed" not in row["solution"] and "\\fbox" not in row["solution"]:
        raise ValueError(f"{place} has no column 'answer', and its solution has no boxed one")
    return {**row, "answer": row["solution"]}


def _load_jsonl(path: str, query: dict[str, str]) -> list[Problem]:
    return _problems(_jsonl_rows(Path(path)), Path(path).stem, _columns(query), query)


def _load_parquet(path: str, query: dict[str, str]) -> list[Problem]:
    import pyarrow.parquet

    _check_file(Path(path))
    table = pyarrow.parquet.read_table(path).to_pylist()
    return _problems(_numbered(table, path), Path(path).stem, _columns(query), query)


def _load_hub(name: str, query: dict[str, str]) -> list[Problem]:
    split = query.get("split", "test")
    return _problems(
        hub_rows(name, split, query.get("config")), f"hub:{name}/{split}", _columns(query), query
    )


LAB_NAMES: dict[str, tuple[str, str | None]] = {
    **{split: (split, None) for split in SPLITS},
    **{level: ("test", level) for level in LEVELS if level != "default"},
}
"""The split and the level of each name. None leaves the level to the key `level`."""
FILE_KEYS = ("num", "seed")
COLUMN_KEYS = ("question", "answer", "id", "grader", *FILE_KEYS)
SOURCES = {
    "lab": Source(("num", "seed", "level"), partial(_load_lab, "lab")),
    "gsm8k": Source(FILE_KEYS, _load_gsm8k),
    "math": Source(FILE_KEYS, _load_math),
    "jsonl": Source(COLUMN_KEYS, _load_jsonl),
    "parquet": Source(COLUMN_KEYS, _load_parquet),
    "hub": Source(("split", "config", *COLUMN_KEYS), _load_hub),
    "lab-shuffle": Source(("num", "seed", "level"), partial(_load_lab, "lab-shuffle")),
}


def _columns(query: dict[str, str]) -> Columns:
    columns = Columns(**{key: query[key] for key in ("question", "answer", "id", "grader") if key in query})
    check_grader(columns.grader)
    return columns


def _whole_number(query: dict[str, str], key: str, minimum: int | None = None) -> int | None:
    if key not in query:
        return None
    try:
        number = int(query[key])
    except ValueError:
        raise ValueError(f"{key} must be a whole number; {query[key]!r} was given") from None
    if minimum is not None:
        check_at_least(minimum, **{key: number})
    return number


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no problem set at {path}")


def _jsonl_rows(path: Path) -> Iterator[PlacedRow]:
    _check_file(path)
    yield from jsonl_rows(path, "a problem")


def _numbered(rows: Iterable[Row], place: str) -> Iterator[PlacedRow]:
    return ((f"{place}, row {idx}", row) for idx, row in enumerate(rows))


def _problems(
    rows: Iterable[PlacedRow], name: str, columns: Columns, query: dict[str, str], needs_mark: bool = False
) -> list[Problem]:
    """Check rows and turn them into problems, then shuffle by `seed` and keep the first `num`."""
    problems: dict[str, Problem] = {}
    for idx, (place, row) in enumerate(rows):
        problem = _problem(place, row, f"{name}/{idx}", columns, needs_mark)
        if problem.id in problems:
            raise ValueError(f"{place} has the id {problem.id!r} of an earlier row; ids must be unique")
        problems[problem.id] = problem
    num, seed = _whole_number(query, "num", minimum=1), _whole_number(query, "seed")
    ordered = list(problems.values())
    if num is not None and num > len(ordered):
        raise ValueError(f"{name} has {len(ordered)} problems; num={num} was asked for")
    if not ordered:
        raise ValueError(f"{name} has no problems")
    if seed is not None:
        random.Random(seed).shuffle(ordered)
    return ordered[:num]


def _problem(place: str, row: Row, default_id: str, columns: Columns, needs_mark: bool) -> Problem:
    id_column = columns.id or ("id" if "id" in row else None)
    problem_id = default_id if id_column is None else _cell(place, row, id_column)
    question, answer = _cell(place, row, columns.question), _cell(place, row, columns.answer)
    try:
        is_text = columns.grader != "code" and any(mark in answer for mark in ("####", "\\boxed", "\\fbox"))
        marked = find_marked(answer) if is_text else None
        if needs_mark and not marked:
            raise ValueError(f"answer {answer[-40:]!r} does not end in '#### n'")
        check_reference(marked or answer, columns.grader)
    except (UnreadableAnswer, ValueError) as error:
        raise ValueError(f"{place}: {error}") from None
    return Problem(problem_id, question, marked or answer, columns.grader)


def _cell(place: str, row: Row, column: str) -> str:
    if column not in row:
        raise ValueError(f"{place} has no column {column!r}; it has {', '.join(row)}")
    value = as_text(row[column], f"{place}: column {column!r}")
    if not value.strip():
        raise ValueError(f"{place}: column {column!r} is empty")
    return value.strip() if column != "question" else value
