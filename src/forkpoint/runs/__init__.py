"""Runs that can be stopped at any moment and continue from there (seam 3).

`Run` is the directory and `Journal` holds the rows in it. `LocalExecutor` does a work in this process,
`PoolExecutor` in several. Every finished item is one sealed line under a key that is a hash of the item's
content, so an item is done once and a damaged row is noticed.
This package does not know what a work is about: trees, rollouts and scores are all rows to it.
"""

from __future__ import annotations

from forkpoint.runs.complete import complete
from forkpoint.runs.journal import Journal
from forkpoint.runs.local import LocalExecutor
from forkpoint.runs.pool import PoolExecutor
from forkpoint.runs.run import Run
from forkpoint.runs.work import Executor, Tally, Work

__all__ = ["Executor", "Journal", "LocalExecutor", "PoolExecutor", "Run", "Tally", "Work", "complete"]
