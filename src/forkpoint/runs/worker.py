"""The part that executors with workers share: they give out chunks, replace dead workers and keep the order.

Invariant: outcomes come in the order of the chunks, one per chunk, whichever worker performed it and whatever
died.
This file starts no processes and sends nothing; an executor brings workers that do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from forkpoint.errors import RunError
from forkpoint.runs.local import LocalExecutor, Pass
from forkpoint.runs.parcel import Failure, Items, Rows, parcel_of
from forkpoint.runs.run import Run
from forkpoint.runs.work import Tally, Work, streaming

CHUNKS_AHEAD = 4
"""Chunks per worker that may be performed before the oldest one is journaled; a stop costs at most this many
per worker."""


@dataclass(frozen=True, slots=True)
class Task:
    """A chunk in the hands of a worker."""

    idx: int
    """The index of the chunk among those of the pass."""
    chunk: range
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Death:
    """A worker ended without an answer."""

    message: str


class Worker(Protocol):
    """One worker, as seen by the process that gives it chunks."""

    @property
    def task(self) -> Task | None:
        """The task that the worker was given and has not answered; None if it is free or loads a work."""
        ...

    @property
    def hand(self) -> set[int]:
        """The items of a stream that the worker was given and has not answered."""
        ...

    @property
    def is_free(self) -> bool:
        """Whether the worker can be given a task."""
        ...

    def load(self, parcel: Any) -> None:
        """Have a work loaded, in place of the one before."""
        ...

    def give(self, task: Task) -> None:
        """Have a chunk of the work performed."""
        ...

    def listen(self) -> Rows | Failure | Items | Death | None:
        """Return the outcome of the task, of items of a stream, or of loading the work: None, or a Failure.

        Only for a worker with news.

        RunError if the worker could not be started, and another one could not be started either.
        """
        ...

    def end(self) -> None:
        """Kill the worker, dead or alive."""
        ...


AnyWorker = TypeVar("AnyWorker", bound=Worker)


@dataclass(frozen=True)
class Crew(Generic[AnyWorker]):
    """The workers of an executor, and the functions with which it starts them and waits for them."""

    workers: list[AnyWorker]
    """The current workers; they are kept for the next work."""
    num_workers: int
    """The largest number of workers."""
    num_attempts: int
    """How often a chunk is tried if its workers die."""
    start: Callable[[], AnyWorker]
    ready: Callable[[Sequence[AnyWorker]], Sequence[AnyWorker]]
    """Waits for news, and returns the workers that have some; returns none of them if that takes long."""
    start_hint: str
    """Advice in the error message if workers die before they get a task."""

    def outcomes(self, parcel: Any, chunks: Sequence[range]) -> Iterator[Rows | Failure]:
        """Have all chunks of a work performed; yields the outcome of every chunk, in their order.

        RunError if no worker stays alive until it has loaded the work, or if one cannot load it.
        """
        for worker in self.workers:
            worker.load(parcel)
        backlog = _Backlog(chunks, self.num_attempts)
        num_lost = 0
        for turn in range(len(chunks)):
            while turn not in backlog.outcomes:
                self.fill_up(parcel, backlog.num_owed)
                for worker in self.workers:
                    if worker.is_free and backlog.has_task(before=turn + CHUNKS_AHEAD * self.num_workers):
                        worker.give(backlog.next_task())
                for worker in self.ready(self.workers):
                    task, news = worker.task, worker.listen()
                    if isinstance(news, Death):
                        self.workers.remove(worker)
                        worker.end()
                        num_lost += task is None
                        if num_lost == self.num_attempts * self.num_workers:
                            raise RunError(f"workers do not start: {news.message}; {self.start_hint}")
                    else:
                        num_lost = 0
                    backlog.settle(task, news)
            yield backlog.outcomes.pop(turn)

    def fill_up(self, parcel: Any, num_owed: int) -> None:
        """Start workers until there is one for every chunk that is not done, or as many as there may be."""
        num_busy = sum(worker.task is not None or bool(worker.hand) for worker in self.workers)
        while len(self.workers) < min(self.num_workers, num_owed + num_busy):
            worker = self.start()
            worker.load(parcel)
            self.workers.append(worker)


class _Backlog:
    """The chunks that are owed, and the outcomes of those that are done and wait for their turn."""

    def __init__(self, chunks: Sequence[range], num_attempts: int) -> None:
        self._owed = deque(Task(idx, chunk) for idx, chunk in enumerate(chunks))
        self._num_attempts = num_attempts
        self.outcomes: dict[int, Rows | Failure] = {}

    @property
    def num_owed(self) -> int:
        return len(self._owed)

    def has_task(self, before: int) -> bool:
        """Whether a task below an index is owed."""
        return bool(self._owed) and self._owed[0].idx < before

    def next_task(self) -> Task:
        return self._owed.popleft()

    def settle(self, task: Task | None, news: Rows | Failure | Items | Death | None) -> None:
        """Take in what a worker says; it had no task if it loaded the work.

        Raises if the work cannot be loaded.
        """
        if task is None:
            if isinstance(news, Failure):
                news.rows()  # raises
        elif isinstance(news, Rows | Failure):
            self.outcomes[task.idx] = news
        elif isinstance(news, Death) and task.attempt < self._num_attempts:
            self._owed.appendleft(replace(task, attempt=task.attempt + 1))
        elif isinstance(news, Death):
            self.outcomes[task.idx] = Failure(
                "ChildProcessError", f"{self._num_attempts} workers died at this chunk: {news.message}"
            )


def execute_with_workers(
    run: Run,
    work: Work,
    local: LocalExecutor,
    perform: Callable[[bytes, Sequence[range]], Iterator[Rows | Failure]],
    close: Callable[[], None],
    stream: Callable[[bytes, Sequence[int]], Iterator[Items]] | None = None,
) -> Tally:
    """Do what is owed of `work` with workers, or as `local` does if the work has to stay in this process.

    `perform` yields the outcomes of the chunks of the work that it is given as a parcel. `stream`, if given,
    is called instead for a work that streams; it yields what comes of its items. `close` ends the workers; it
    is called if the pass is not finished, for whatever reason. Chunk size, progress and failures
    are those of `local`.
    """
    parcel = parcel_of(run, work, local.chunk_size)
    if parcel is None:
        return local.execute(run, work)
    with ExitStack() as unless_finished:
        unless_finished.callback(close)
        shown = local.progress and work.shows_progress
        under_way = Pass(run, work.keys, local.chunk_size, local.max_failed_chunks, shown)
        with under_way:
            if stream is not None and streaming(work) is not None:
                for items in stream(parcel, under_way.owed):
                    under_way.settle_items(items.idxs, items.outcome.rows)
            else:
                outcomes = perform(parcel, under_way.chunks)
                for chunk, outcome in zip(under_way.chunks, outcomes, strict=True):
                    under_way.settle(chunk, outcome.rows)
        unless_finished.pop_all()
    run.keep_order(work.keys)
    return under_way.tally
