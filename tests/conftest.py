"""Settings for all tests: one thread, a Ctrl-C that is heard, how tests are shared out to processes, and which are slow.

One thread, since two on a busy core are many times slower than one. A shell that starts the tests in the background has them,
and the processes that they start, ignore Ctrl-C; it is restored here.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SLOW_S = 10.0
"""A test that takes longer has the marker `slow`."""
SPREAD: set[str] = set()
"""Files whose tests share nothing that takes time to make: each test goes to the process that is free."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, keep the tests of a file together, and begin with the files that have slow tests."""
    if not hasattr(config, "workerinput"):
        return
    slow: dict[str, int] = defaultdict(int)
    for item in items:
        name = item.path.stem
        if name not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(name))
        slow[name] += item.get_closest_marker("slow") is not None
    items.sort(key=lambda item: -slow[item.path.stem])


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


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations(), "durations")
