"""Runs that can be stopped at any moment and go on where they were (seam 3).

`Run` is the directory, `Journal` the rows in it; `LocalExecutor` gets work done into it, `PoolExecutor` does so in several
processes. Every finished item is one sealed line under a key that is a hash of the item's content, so an item is done once
and a damaged row is noticed.
This package does not know what the work is: trees, rollouts and scores are all rows to it.
"""

from __future__ import annotations

from forkpoint.records import Tally
from forkpoint.runs.complete import complete
from forkpoint.runs.journal import JSON, Journal, canonical_json, content_key
from forkpoint.runs.local import LocalExecutor
from forkpoint.runs.pool import PoolExecutor
from forkpoint.runs.run import Run

__all__ = ["JSON", "Journal", "LocalExecutor", "PoolExecutor", "Run", "Tally", "canonical_json", "complete", "content_key"]
