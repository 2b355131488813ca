"""The options of formats: the fields of a codec's dataclass, each used by reading, by writing, or by both.

Invariant: an option that a format does not have, or that has no effect in the given direction, is refused by
name. So are a value of the wrong type and a missing option that has no default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

Direction = Literal["read", "write"]


def option(default: Any = dataclasses.MISSING, used_by: Literal["read", "write", "both"] = "both") -> Any:
    """A field of a codec that callers may set, and must set if it has no default."""
    return dataclasses.field(default=default, metadata={"used_by": used_by})


def options_of(codec: type, direction: Direction) -> dict[str, dataclasses.Field[Any]]:
    """The options of a codec that have an effect in that direction, those of both directions first."""
    fields = sorted(dataclasses.fields(codec), key=lambda field: field.metadata["used_by"] != "both")
    return {field.name: field for field in fields if field.metadata["used_by"] in ("both", direction)}


def check_options(codec: type, name: str, direction: Direction, options: Mapping[str, object]) -> None:
    """Raise ValueError if `options` do not fit the format `name`."""
    known, hints = options_of(codec, direction), get_type_hints(codec)
    for key, value in options.items():
        if key not in known:
            purpose = "reading" if direction == "read" else "writing"
            raise ValueError(
                f"option {key!r} is unknown for {purpose} {name}; "
                f"choose from {', '.join(known) or 'none: it has no options'}"
            )
        if not _fits(value, hints[key]):
            raise ValueError(
                f"option {key!r} of {name} must be {_described(hints[key])}; {value!r} was given"
            )
    for key, field in known.items():
        if field.default is dataclasses.MISSING and key not in options:
            raise ValueError(f"{name} needs the option {key!r}: {_described(hints[key])}")


def parse_assignments(codec: type, assignments: Sequence[str]) -> dict[str, Any]:
    r"""Options from texts such as `threshold=0.5`; in strings, `\n` and `\t` stand for a line end and a tab.

    Raises ValueError if a text is not KEY=VALUE, a key is given twice, or a number cannot be read;
    `check_options` checks the rest.
    """
    hints = get_type_hints(codec)
    options: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or key in options:
            raise ValueError(f"options are given as KEY=VALUE, each key once; {assignment!r} was given")
        options[key] = _parsed(value, hints.get(key), f"option {key!r}")
    return options


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint in (str, bool):
        return isinstance(value, hint)
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return {str: "a string", bool: "True or False"}.get(hint, "a number")


def _parsed(value: str, hint: Any, what: str) -> object:
    if hint is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if hint == float | None:
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{what} must be a number; {value!r} was given") from None
    return value.replace("\\n", "\n").replace("\\t", "\t") if hint is str else value
