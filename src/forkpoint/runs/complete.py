"""Do a work to its last item, for a stage that needs every row."""

from __future__ import annotations

from forkpoint.runs.run import Run
from forkpoint.runs.work import Executor, Work


def complete(run: Run, executor: Executor, work: Work) -> None:
    """Execute the work. RuntimeError if some of its items failed; they stay owed."""
    num_failed = executor.execute(run, work).rows_failed
    if num_failed:
        raise RuntimeError(
            f"{num_failed} items failed, see {run.directory / 'failures.jsonl'}; "
            "run the same command to try again"
        )
