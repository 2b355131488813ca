"""Keeps the marker `slow` honest: the end of a run names the tests that took long and lack it.

No test fails by it, since on a busy machine any test can take long.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

SLOW_S = 10.0
"""A test that takes half of this on a quiet core has the marker `slow`; cores are seldom quiet."""


class Durations:
    """Names the tests that took over `SLOW_S` seconds and are not marked as slow."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._marked: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if "slow" in report.keywords:
            self._marked.add(report.nodeid)

    def unmarked(self) -> list[tuple[float, str]]:
        """(seconds, test), the slowest first."""
        found = [
            (seconds, name)
            for name, seconds in self._seconds.items()
            if seconds > SLOW_S and name not in self._marked
        ]
        return sorted(found, reverse=True)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if unmarked := self.unmarked():
            terminalreporter.section(
                f"took over {SLOW_S:g} s and have no marker `slow` (on a busy machine this can be chance)"
            )
            for seconds, name in unmarked:
                terminalreporter.line(f"{seconds:6.1f} s  {name}")
