"""The outcome of a check: a verdict, a sentence on what was found and what to change, and the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    verdict: Severity
    """`problem`: results would be wrong or missing; `warning`: they may not be what was meant."""
    text: str
    details: tuple[str, ...] = ()
    """The single cases, one line each."""


def ok(check: str, text: str) -> Finding:
    return Finding(check, "ok", text)


def warning(check: str, text: str, details: Sequence[str] = ()) -> Finding:
    return Finding(check, "warning", text, tuple(details))


def problem(check: str, text: str, details: Sequence[str] = ()) -> Finding:
    return Finding(check, "problem", text, tuple(details))
