"""Rows of data sets: from files of JSON lines, and through `datasets` from a directory or the hub.

Each row comes with its place, for messages.

Invariant: a row that cannot be read is an error that names its place; no row is skipped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""The cells of a row by the names of their columns."""
PlacedRow = tuple[str, Row]
"""The place of a row, as messages name it, and the row."""


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded; JSON can express half of a surrogate pair, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_text(value: object, what: str) -> str:
    """The text of a string or of a finite number, which are what a question or an answer may be.

    Raises ValueError about `what`, the place of the value: a missing value (None, NaN) and a list have a text
    in Python, which is no answer.
    """
    if isinstance(value, str):
        if not is_unicode(value):
            raise ValueError(
                f"{what} must hold unicode text; it holds half of a surrogate pair: {value!a:.60}"
            )
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{what} must hold a string or a number; it holds {value!r:.60}")
    return str(value)


def jsonl_rows(path: Path, what: str) -> Iterator[PlacedRow]:
    """The objects in a file of JSON lines; messages call such an object `what`.

    Empty lines, and a byte order mark at the beginning, are left out. Raises ValueError when it comes to a
    line that is no JSON object in UTF-8.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{place} is not UTF-8: {error.reason} at byte {error.start + 1}") from None
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place} is not JSON: {error}") from None
            yield place, checked_row(place, row, what)


def checked_row(place: str, row: object, what: str) -> Row:
    """`row`, which must be a JSON object. Raises ValueError if it is something else."""
    if not isinstance(row, dict):
        raise ValueError(f"{place} holds a {type(row).__name__}; {what} is a JSON object")
    return row


def hub_rows(name: str, split: str, config: str | None) -> Iterator[PlacedRow]:
    """The rows of one split of a data set; `name` is a directory that `datasets` saved, or a hub id."""
    import datasets

    if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
        found = datasets.load_from_disk(name)
        if isinstance(found, datasets.DatasetDict):
            if split not in found:
                raise ValueError(f"{name} has no split {split!r}; choose from {', '.join(found)}")
            found = found[split]
    else:
        found = datasets.load_dataset(name, config, split=split)
    for idx, row in enumerate(found):
        yield f"{name}, split {split}, row {idx}", row
