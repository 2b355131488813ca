"""The executor that does a work in this process, row by row or chunk by chunk.

The rows of a work that streams are journaled one by one as they are done, in any order. Another work is cut
into the same consecutive chunks whatever is done already; a chunk is performed whole or not at all, and its
rows are journaled in item order in one write.

Invariant: if rows depend on their items alone and no item fails, the journal of a finished run that was
killed any number of times is byte for byte that of a run that was never killed (see `Run.keep_order`). If the
rows of a chunk depend on each other, that holds as long as the chunk size stays the same. A stop costs what
is in flight: at most `chunk_size` items.
This file starts no threads and no processes; batching is up to the work.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

from forkpoint.checks import check_at_least
from forkpoint.errors import RunError
from forkpoint.runs.progress import Pace, display
from forkpoint.runs.run import Run
from forkpoint.runs.work import Tally, Work, streaming


@dataclass(frozen=True)
class LocalExecutor:
    """Does a work in this process."""

    chunk_size: int = 32
    """Items per call of `perform`, or items of a stream that are under way at a time; at most this many rows
    are lost when the run is stopped."""
    progress: bool = True
    """Whether to show on stderr how far the work is."""
    max_failed_chunks: int = 3
    """Number of failed chunks in a row that stop the pass: the cause then is hardly in the items."""

    def __post_init__(self) -> None:
        check_at_least(1, chunk_size=self.chunk_size, max_failed_chunks=self.max_failed_chunks)

    def execute(self, run: Run, work: Work) -> Tally:
        """Do the owed items of `work` and append their rows to the journal of `run`.

        An exception is recorded for every owed item of its chunk, or for all that are under way, and the
        next ones are tried; the items stay owed. RunError after `max_failed_chunks` such failures in a row,
        and if the disk refuses a write.
        """
        with Pass(
            run, work.keys, self.chunk_size, self.max_failed_chunks, self.progress and work.shows_progress
        ) as under_way:
            if (stream := streaming(work)) is not None:
                under_way.take_in(lambda idxs: stream.stream(idxs, self.chunk_size))
            else:
                for chunk in under_way.chunks:
                    under_way.settle(chunk, partial(work.perform, chunk))
        run.keep_order(work.keys)
        return under_way.tally


class Pass:
    """One pass over a work: its owed chunks are settled in order, each with rows or with a failure.

    Use it as a context manager.
    The executor decides in which process a chunk is performed.
    """

    def __init__(
        self, run: Run, keys: Sequence[str], chunk_size: int, max_failed_chunks: int, progress: bool
    ) -> None:
        """Find the owed chunks. ValueError if two keys are equal."""
        _refuse_doubles(keys)
        self._run, self._keys, self._max_failed_chunks = run, keys, max_failed_chunks
        self.chunks = list(owed_chunks(run, keys, chunk_size))
        self._num_added = self._num_failed = self._num_failed_in_a_row = 0
        self._num_reused = sum(key in run for key in keys)
        self._display = display(
            run.command, Pace(len(keys), self._num_reused), sys.stderr if progress else None
        )

    def __enter__(self) -> Pass:
        self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.__exit__(kind, error, trace)

    @property
    def tally(self) -> Tally:
        return Tally(rows_added=self._num_added, rows_reused=self._num_reused, rows_failed=self._num_failed)

    def settle(self, chunk: range, perform: Callable[[], Sequence[dict[str, Any]]]) -> None:
        """Journal the rows of a whole chunk, or record a failure for those of its items that are still owed.

        `perform` returns the rows; its exception is the failure.
        RunError if this is the failure in a row at which the pass gives up, and if the disk refuses a write.
        """
        owed = [self._keys[idx] for idx in chunk if self._keys[idx] not in self._run]
        error = self._journal(chunk, perform)
        if error is None:
            self._num_added += len(owed)
            self._num_failed_in_a_row = 0
            self._display.advance(len(owed))
            return
        self.fail(owed, error)

    def take_in(self, rows_of: Callable[[Iterator[int]], Iterator[tuple[int, dict[str, Any]]]]) -> None:
        """Journal the owed rows of a stream as they come, or record failures.

        `rows_of` gives the rows of the items whose indices it takes. If it raises, the items that it took
        without giving their rows have failed, and it is called again for those that it has not taken.
        RunError as in `settle`.
        """
        owed = deque(self.owed)
        taken: set[int] = set()

        def idxs() -> Iterator[int]:
            while owed:
                taken.add(owed[0])
                yield owed.popleft()

        while owed:
            error: Exception | None = None
            try:
                for idx, row in rows_of(idxs()):
                    self.keep(idx, row)
                    taken.remove(idx)
            except RunError:
                raise
            except Exception as raised:  # noqa: BLE001 (a work is foreign code; what it raised is recorded, and the items stay owed)
                error = raised
            if taken:
                missing = ValueError(f"the stream ended without the rows of {len(taken)} items")
                self.fail([self._keys[idx] for idx in sorted(taken)], error or missing)
                taken.clear()
            elif error is not None:
                raise error

    @property
    def owed(self) -> list[int]:
        """The items that have no row."""
        return [idx for idx, key in enumerate(self._keys) if key not in self._run]

    def settle_items(self, idxs: Sequence[int], give: Callable[[], Sequence[dict[str, Any]]]) -> None:
        """Journal the rows of items of a stream, or record their failure; as `settle` otherwise."""
        try:
            rows = give()
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001 (a work is foreign code; what it raised is recorded, and the items stay owed)
            self.fail([self._keys[idx] for idx in idxs], error)
            return
        for idx, row in zip(idxs, rows, strict=True):
            self.keep(idx, row)

    def keep(self, idx: int, row: dict[str, Any]) -> None:
        """Journal the row of one item, or record why it cannot be kept."""
        key = self._keys[idx]
        try:
            num_added = self._run.append([(key, row)])
        except (TypeError, ValueError) as error:
            self.fail([key], error)
            return
        self._num_added += num_added
        self._num_failed_in_a_row = 0
        self._display.advance(num_added)

    def fail(self, keys: Sequence[str], error: Exception) -> None:
        """Record the failure of items that were done together. RunError if the pass gives up."""
        self._run.record_failure(keys, error)
        self._num_failed += len(keys)
        self._num_failed_in_a_row += 1
        self._display.advance(len(keys), num_failed=len(keys))
        if self._num_failed_in_a_row == self._max_failed_chunks:
            raise RunError(_gave_up(self._run, self._num_failed_in_a_row, error)) from error

    def _journal(self, chunk: range, perform: Callable[[], Sequence[dict[str, Any]]]) -> Exception | None:
        """Journal the missing rows of a chunk.

        Returns an error of the work; raises RunError for one of the run.
        """
        try:
            rows = perform()
            if len(rows) != len(chunk):
                raise ValueError(
                    f"perform returned {len(rows)} rows for {len(chunk)} items; one per item is needed"
                )
            self._run.append((self._keys[idx], row) for idx, row in zip(chunk, rows, strict=True))
        except RunError:
            raise
        except Exception as error:  # noqa: BLE001 (a work is foreign code; what it raised is recorded, and the items stay owed)
            return error
        return None


def owed_chunks(run: Run, keys: Sequence[str], chunk_size: int) -> Iterator[range]:
    """Yield the item indices of every chunk that lacks a row; the cuts depend on `chunk_size` alone."""
    for start in range(0, len(keys), chunk_size):
        chunk = range(start, min(start + chunk_size, len(keys)))
        if any(keys[idx] not in run for idx in chunk):
            yield chunk


def _refuse_doubles(keys: Sequence[str]) -> None:
    """Raise ValueError if two items have the same key: the second would silently get the row of the first."""
    first_idxs: dict[str, int] = {}
    for idx, key in enumerate(keys):
        first_idx = first_idxs.setdefault(key, idx)
        if first_idx != idx:
            raise ValueError(
                f"items {first_idx} and {idx} have the same key {key}; "
                "drop one, or put the difference between them into the key"
            )


def _gave_up(run: Run, num_chunks: int, error: Exception) -> str:
    """Return the message of a pass that stops because of its failures."""
    return (
        f"{num_chunks} chunks in a row failed, the last with {type(error).__name__}: {error}; "
        f"{run.num_rows} rows are kept in {run.directory}: fix the cause, then run the same command again"
    )
