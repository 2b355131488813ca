"""Settings for all tests: one thread, a Ctrl-C that is heard, the order of files, a report of slow tests.

One thread, since two on a busy core are many times slower than one. A shell that starts the tests in the
background has them, and the processes that they start, ignore Ctrl-C; it is restored here.
"""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

from durations import Durations

signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# an example may have to wait for a core, which other processes use too
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

LONGEST = [
    "test_evidence",
    "test_distributed_training",
    "test_kills",
    "test_ray",
    "test_cli",
    "test_raft",
    "test_real_recipes",
]
"""Files that take longest, longest first. Several processes begin with them; none is left at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, begin with the files that take longest; one process keeps the usual order."""
    if hasattr(config, "workerinput"):
        ranks = {name: rank for rank, name in enumerate(LONGEST)}
        items.sort(key=lambda item: ranks.get(item.path.stem, len(LONGEST)))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Durations(), "durations")
