"""Read one cell of a row and check its type.

Messages name the column, what it must hold and what it holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from forkpoint.row_files import is_unicode


def cell(row: Mapping[str, Any], column: str) -> Any:
    """The cell of any type. Raises ValueError if there is no such column."""
    if column not in row:
        raise ValueError(f"there is no column {column!r}; there are {', '.join(map(str, row)) or 'none'}")
    return row[column]


def text(row: Mapping[str, Any], column: str) -> str:
    """A string."""
    value = cell(row, column)
    if not isinstance(value, str):
        raise _wrong(column, "a string", value)
    check_unicode(column, value)
    return value


def flag(row: Mapping[str, Any], column: str) -> bool:
    """True or false."""
    value = cell(row, column)
    if not isinstance(value, bool):
        raise _wrong(column, "true or false", value)
    return value


def whole(row: Mapping[str, Any], column: str) -> int:
    """A whole number."""
    value = cell(row, column)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(column, "a whole number", value)
    return value


def number(row: Mapping[str, Any], column: str) -> float:
    """A finite number."""
    value = cell(row, column)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(column, "a number", value)
    return float(value)


def share(row: Mapping[str, Any], column: str) -> float:
    """A number from 0 to 1."""
    value = number(row, column)
    if not 0 <= value <= 1:
        raise _wrong(column, "a number from 0 to 1", value)
    return value


def items(row: Mapping[str, Any], column: str) -> list[Any]:
    """A list."""
    value = cell(row, column)
    if not isinstance(value, list):
        raise _wrong(column, "a list", value)
    return value


def record(row: Mapping[str, Any], column: str) -> dict[str, Any]:
    """A record of named values."""
    value = cell(row, column)
    if not isinstance(value, dict):
        raise _wrong(column, "a record", value)
    return value


def records(row: Mapping[str, Any], column: str) -> list[dict[str, Any]]:
    """A list of records."""
    values = items(row, column)
    for value in values:
        if not isinstance(value, dict):
            raise _wrong(column, "a list of records", value)
    return values


def check_unicode(column: str, value: str) -> None:
    """Raise ValueError if a text holds half of a surrogate pair, which neither files nor tokenizers take."""
    if not is_unicode(value):
        raise ValueError(f"column {column!r} holds half of a surrogate pair: {value!a:.60}")


def _wrong(column: str, wanted: str, value: object) -> ValueError:
    return ValueError(f"column {column!r} must hold {wanted}; it holds {value!r:.60}")
