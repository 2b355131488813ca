"""Read JSON objects key by key, with errors that name the file, the place and the key.

Invariant: every returned value has the requested type. Keys that are not requested are ignored, so that a
file can hold more than this page shows. NaN and the infinities, which are not JSON, are read as null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and where it was found."""

    values: Mapping[str, Any]
    where: str

    @classmethod
    def of(cls, value: Any, where: str) -> Fields:
        """Return `value` as an object; raises ValueError if it is something else."""
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a JSON object; {_kind(value)} was given")
        return cls(value, where)

    def required(self, key: str) -> Any:
        """Return the value at `key`, which may be null."""
        if key not in self.values:
            raise ValueError(f"{self.where} lacks the key '{key}'")
        return self.values[key]

    def number(self, key: str) -> float:
        return self._number(key, self.required(key))

    def maybe_number(self, key: str) -> float | None:
        """Return None if the key is missing or null."""
        value = self.values.get(key)
        return None if value is None else self._number(key, value)

    def count(self, key: str) -> int:
        """Return a whole number that is not negative."""
        value = self.number(key)
        if value < 0 or value != int(value):
            raise ValueError(f"{self.where}.{key} must be a whole number of 0 or more; {value!r} was given")
        return int(value)

    def maybe_count(self, key: str) -> int | None:
        """Return None if the key is missing or null."""
        return None if self.values.get(key) is None else self.count(key)

    def text(self, key: str) -> str:
        value = self.required(key)
        if not isinstance(value, str):
            raise ValueError(f"{self.where}.{key} must be a string; {_kind(value)} was given")
        return value

    def maybe_text(self, key: str) -> str | None:
        """Return None if the key is missing or null."""
        return None if self.values.get(key) is None else self.text(key)

    def flag(self, key: str) -> bool:
        value = self.required(key)
        if not isinstance(value, bool):
            raise ValueError(f"{self.where}.{key} must be true or false; {_kind(value)} was given")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.required(key)
        if not isinstance(value, list):
            raise ValueError(f"{self.where}.{key} must be a list; {_kind(value)} was given")
        return value

    def objects(self, key: str) -> list[Fields]:
        """Return a list of objects, each with its own place."""
        return [Fields.of(value, f"{self.where}.{key}[{idx}]") for idx, value in enumerate(self.items(key))]

    def inner(self, key: str) -> Fields:
        """Return the object at `key`."""
        return Fields.of(self.required(key), f"{self.where}.{key}")

    def maybe_inner(self, key: str) -> Fields | None:
        """Return the object at `key`; None if the key is missing, null or an empty object."""
        return self.inner(key) if self.values.get(key) else None

    def numbers(self, key: str) -> tuple[float, ...]:
        return tuple(
            Fields({key: value}, f"{self.where}.{key}[{idx}]").number(key)
            for idx, value in enumerate(self.items(key))
        )

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(
            Fields({key: value}, f"{self.where}.{key}[{idx}]").text(key)
            for idx, value in enumerate(self.items(key))
        )

    def flags(self, key: str) -> tuple[bool, ...]:
        return tuple(
            Fields({key: value}, f"{self.where}.{key}[{idx}]").flag(key)
            for idx, value in enumerate(self.items(key))
        )

    def _number(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.where}.{key} must be a number; {_kind(value)} was given")
        return value


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; raises ValueError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _name: None)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from error


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), type(value).__name__)
