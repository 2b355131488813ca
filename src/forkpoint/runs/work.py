"""The protocols of a work and of the executors that do it (seam 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from forkpoint.runs.run import Run

Rows = Iterator[tuple[int, dict[str, Any]]]
"""JSON rows, each with the index of its item."""


@dataclass(frozen=True, slots=True)
class Tally:
    """The result of one pass over a work; the three counts add up to the number of items."""

    rows_added: int
    rows_reused: int
    """Items that had a row before the pass."""
    rows_failed: int
    """Items that failed in the pass; they are still owed."""


class Executor(Protocol):
    """Does a work into a run (seam 3); items that are already journaled are not done again."""

    def execute(self, run: Run, work: Work) -> Tally:
        """Do the owed items of `work` and append their rows to the journal of `run`.

        An item that fails is recorded and stays owed.
        """
        ...


class Work(Protocol):
    """A list of items with one content-hash key each, and a function that turns some of them into rows."""

    @property
    def keys(self) -> Sequence[str]:
        """One key per item, unique (see `forkpoint.runs.content_key`)."""
        ...

    @property
    def stays_here(self) -> bool:
        """Whether the work is done in the process that has it, even by an executor with workers.

        True for a work that holds an open run or a model in memory: copies of these must not exist.
        """
        ...

    @property
    def shows_progress(self) -> bool:
        """Whether an executor may show how far the work is.

        False for a work that is one of many small rounds.
        """
        ...

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        """Return one JSON row per item index, in the same order.

        Rows do not have the fields `key` and `sum`: the journal adds them.
        An exception fails every item of the call; a failure of one item alone belongs in the row of that
        item.
        """
        ...


class StreamingWork(Work, Protocol):
    """A work whose items are done side by side, and whose rows come as they are done."""

    def stream(self, idxs: Iterable[int], at_a_time: int) -> Rows:
        """Yield one JSON row per item index, with the index, in any order; see `Work.perform` for rows.

        Indices are taken from `idxs` as the work has room for them. At most `at_a_time` items are taken and
        not done at any time. An exception fails all of these.
        """
        ...


def streaming(work: Work) -> StreamingWork | None:
    """The work, if its rows come as they are done."""
    return cast(StreamingWork, work) if hasattr(work, "stream") else None


def rows_of(work: StreamingWork, idxs: Sequence[int]) -> list[dict[str, Any]]:
    """What `perform` returns of a work that streams."""
    rows = dict(work.stream(idxs, len(idxs)))
    return [rows[idx] for idx in idxs]
