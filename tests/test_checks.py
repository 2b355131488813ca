"""The checks of a caller's arguments."""

from __future__ import annotations

import math

import pytest

from forkpoint.checks import check_above, check_at_least, check_choice, check_within


def test_a_choice_names_what_was_given_and_what_is_known() -> None:
    check_choice("plan", "leaves", ("leaves", "bisect"))
    with pytest.raises(ValueError, match=r"^plan 'omgea' is unknown; choose from leaves, bisect$"):
        check_choice("plan", "omgea", ("leaves", "bisect"))


@pytest.mark.parametrize("number", [0, -1, -math.inf, math.nan, math.inf])
def test_a_number_below_the_least_or_not_finite_is_refused_by_its_name(number: float) -> None:
    check_at_least(1, seed=1, batch_size=64)
    with pytest.raises(ValueError, match=rf"^batch_size must be at least 1; {number} was given$"):
        check_at_least(1, seed=1, batch_size=number)


@pytest.mark.parametrize("number", [0, -0.5, math.nan, math.inf])
def test_a_bound_is_not_above_itself(number: float) -> None:
    check_above(0, temperature=1e-9)
    with pytest.raises(ValueError, match=rf"^temperature must be above 0; {number} was given$"):
        check_above(0, temperature=number)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [("[0, 1)", [0, 0.5], [1, -1e-9]), ("(0, 1]", [1e-9, 1], [0, 1.1]), ("[0.5, 2]", [0.5, 2], [0.4, 2.1])],
)
def test_an_interval_holds_the_ends_with_square_brackets_only(
    interval: str, inside: list[float], outside: list[float]
) -> None:
    for number in inside:
        check_within(interval, top_p=number)
    for number in [*outside, math.nan]:
        with pytest.raises(ValueError) as refused:
            check_within(interval, top_p=number)
        assert str(refused.value) == f"top_p must be in {interval}; {number} was given"
