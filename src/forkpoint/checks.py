"""Checks of what a caller gives: each one raises ValueError that says what was given and what is accepted.

Invariant: a check returns nothing and changes nothing. NaN fails every check of a number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


def check_choice(name: str, given: object, choices: Iterable[object]) -> None:
    """Raise ValueError unless `given` is one of `choices`; the message lists them in their order."""
    known = list(choices)
    if given not in known:
        raise ValueError(f"{name} {given!r} is unknown; choose from {', '.join(map(str, known))}")


def check_at_least(least: float, **numbers: float) -> None:
    """Raise ValueError unless every number, named by its keyword, is finite and `least` or above."""
    for name, number in numbers.items():
        if not least <= number < math.inf:
            raise ValueError(f"{name} must be at least {least:g}; {number} was given")


def check_above(bound: float, **numbers: float) -> None:
    """Raise ValueError unless every number, named by its keyword, is finite and above `bound`."""
    for name, number in numbers.items():
        if not bound < number < math.inf:
            raise ValueError(f"{name} must be above {bound:g}; {number} was given")


def check_within(interval: str, **numbers: float) -> None:
    """Raise ValueError unless every number lies in `interval`, for example `[0, 1)` or `(0, 1]`."""
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    for name, number in numbers.items():
        is_above = number > low or (number == low and interval[0] == "[")
        is_below = number < high or (number == high and interval[-1] == "]")
        if not (is_above and is_below):
            raise ValueError(f"{name} must be in {interval}; {number} was given")
