"""Settings for all tests: one thread, a Ctrl-C that is heard, which files come first, and which tests are slow.

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
LONGEST = [
    "test_kills",
    "test_distributed_training",
    "test_ray",
    "test_evidence",
    "test_cli",
    "test_raft",
    "test_real_recipes",
]
"""Files that take longest, longest first: several processes begin with them, so that none has a long file left at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, begin with the files that take longest; one process takes the files in their order."""
    if hasattr(config, "workerinput"):
        ranks = {name: rank for rank, name in enumerate(LONGEST)}
        items.sort(key=lambda item: ranks.get(item.path.stem, len(LONGEST)))


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
