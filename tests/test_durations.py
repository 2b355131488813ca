"""The end of a run names the slow tests that are not marked, and no others."""

from __future__ import annotations

from typing import Literal

import pytest

from durations import SLOW_S, Durations


def report(
    name: str, when: Literal["setup", "call", "teardown"], seconds: float, *marks: str
) -> pytest.TestReport:
    place = ("test_x.py", 1, name)
    return pytest.TestReport(name, place, dict.fromkeys(marks, 1), "passed", None, when, duration=seconds)


def test_the_time_of_a_test_is_that_of_all_its_parts_and_marked_tests_are_not_named() -> None:
    durations = Durations()
    for item in (
        report("long", "call", SLOW_S + 1),
        report("marked", "call", SLOW_S + 2, "slow"),
        report("by its fixture", "setup", SLOW_S - 1),
        report("by its fixture", "call", 1.5),
        report("short", "call", SLOW_S - 0.5),
    ):
        durations.pytest_runtest_logreport(item)
    assert durations.unmarked() == [(SLOW_S + 1, "long"), (SLOW_S + 0.5, "by its fixture")]
