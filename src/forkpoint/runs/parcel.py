"""A work packed for other processes, and the outcomes that come back from them.

Invariant: an open run and the weights of a model in memory are never packed, since a copy of them must not
exist. A policy is packed apart from the work around it, and a process that has loaded it keeps it for the
next work with the same policy.
This file does not send anything; that is up to the executors.
"""

from __future__ import annotations

import gc
import io
import pickle
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from forkpoint.errors import RunError
from forkpoint.runs.local import owed_chunks
from forkpoint.runs.run import Run
from forkpoint.runs.work import StreamingWork, Work

_loaded: dict[bytes, Any] = {}
"""The policy that this process loaded last, by the bytes that it was pickled to."""


# --- the side that writes the journal


def parcel_of(run: Run, work: Work, chunk_size: int) -> bytes | None:
    """Pickle a work for other processes.

    Returns None if nothing of it is owed, or if it has to be done in this process.

    A work is done in this process if its `stays_here` says so, and, with a warning, if it cannot be pickled.
    """
    is_owed = any(True for _ in owed_chunks(run, work.keys, chunk_size))
    if not is_owed or work.stays_here:
        return None
    try:
        return _pickled(work)
    except Exception as error:  # noqa: BLE001 (pickling runs foreign code, the warning says what it raised)
        warnings.warn(
            f"{type(work).__name__} cannot be sent to worker processes ({error}); it is done in this one",
            stacklevel=4,  # where `execute` is called
        )
        return None


class WorkPickler(pickle.Pickler):
    """Refuses objects that must not be copied to another process, and packs policies apart."""

    def __init__(self, file: io.BytesIO, root: Any) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._root = root

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Run):
            raise TypeError("an open run stays in its process")
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(obj, torch.nn.Module):
            raise TypeError(f"a {type(obj).__name__} in memory stays in its process")
        if obj is not self._root and hasattr(type(obj), "reset_cache"):
            return policy_of, (_pickled(obj),)
        return NotImplemented


def _pickled(obj: Any) -> bytes:
    buffer = io.BytesIO()
    WorkPickler(buffer, obj).dump(obj)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that `perform` returned.

    They are pickled by themselves, so that rows that cannot be unpickled fail their chunk alone.
    """

    pickled_rows: bytes

    def rows(self) -> Sequence[dict[str, Any]]:
        rows: Sequence[dict[str, Any]] = pickle.loads(self.pickled_rows)
        return rows


@dataclass(frozen=True, slots=True)
class Items:
    """What came of some items of a work that streams: a row of each, or one failure of all."""

    idxs: tuple[int, ...]
    outcome: Rows | Failure


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as text, since not every exception can be pickled."""

    name: str
    message: str
    trace: str = ""
    is_fatal: bool = False
    """Whether the failure is not that of a chunk: a RunError, or a work that cannot be loaded."""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        return cls(type(error).__name__, str(error), traceback.format_exc(), isinstance(error, RunError))

    @classmethod
    def to_load(cls, error: Exception) -> Failure:
        """The failure of a worker that cannot unpickle the work."""
        reason = f"the work could not be loaded by a worker process ({type(error).__name__}: {error})"
        return cls(
            "RunError",
            f"{reason}; fix the cause, then run the same command again",
            traceback.format_exc(),
            is_fatal=True,
        )

    def rows(self) -> Sequence[dict[str, Any]]:
        """Raise an exception of the same name and message, or a RunError."""
        error: Exception = (
            RunError(self.message) if self.is_fatal else type(self.name, (Exception,), {})(self.message)
        )
        if self.trace:
            error.add_note(f"In a worker process:\n{self.trace}")
        raise error


# --- the side that does the work


def unpacked(parcel: bytes, num_threads: int) -> Work | Failure:
    """Load a work, and limit the threads of torch if the work brought torch along.

    Returns a Failure if it cannot be loaded.
    """
    try:
        work: Work = pickle.loads(parcel)
    except Exception as error:  # noqa: BLE001 (unpickling runs foreign code; the other side raises what it raised)
        return Failure.to_load(error)
    limit_torch(num_threads)
    return work


def performed(work: Work, chunk: Sequence[int]) -> Rows | Failure:
    """Perform a chunk; the exception of one that fails becomes a Failure."""
    try:
        return Rows(pickle.dumps(work.perform(chunk)))
    except Exception as error:  # noqa: BLE001 (a work is foreign code; the other side records what it raised)
        return Failure.of(error)


def streamed(work: StreamingWork, waiting: Iterator[int], at_a_time: int) -> Iterator[Items]:
    """Do the items of a work that streams, and yield what comes of each.

    If the stream raises, the items that it took have failed, and another one goes on with those that still
    wait. Ends when no item waits.
    """
    taken: set[int] = set()

    def idxs() -> Iterator[int]:
        for idx in waiting:
            taken.add(idx)
            yield idx

    while True:
        try:
            for idx, row in work.stream(idxs(), at_a_time):
                taken.remove(idx)
                yield Items((idx,), _packed(row))
            failure = Failure("ValueError", f"the stream ended without the rows of {len(taken)} items")
        except Exception as error:  # noqa: BLE001 (a work is foreign code; the other side records what it raised)
            failure = Failure.of(error)
        if not taken:
            return
        failed, taken = tuple(sorted(taken)), set()
        yield Items(failed, failure)


def _packed(row: dict[str, Any]) -> Rows | Failure:
    try:
        return Rows(pickle.dumps([row]))
    except Exception as error:  # noqa: BLE001 (pickling runs foreign code; the item has failed)
        return Failure.of(error)


def policy_of(pickled_policy: bytes) -> Any:
    """Unpickle a policy, unless it is the one loaded last.

    Another one is dropped first: memory may not hold both.
    """
    if pickled_policy not in _loaded:
        _loaded.clear()
        free_memory()
        _loaded[pickled_policy] = pickle.loads(pickled_policy)
    return _loaded[pickled_policy]


def forget_policy() -> None:
    """Drop the policy that was kept for the next work."""
    _loaded.clear()
    free_memory()


def limit_torch(num_threads: int) -> None:
    """Set the number of torch's threads, if this process has imported torch."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(num_threads)


def is_on_gpu() -> bool:
    """Whether this process uses a GPU through torch."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def free_memory() -> None:
    """Collect garbage, and give unused GPU memory back."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
