"""The executor that does a work in several processes of this machine, chunk by chunk.

    with PoolExecutor(num_workers=4) as executor:
        executor.execute(run, work)

The work is pickled once per pass; every worker process makes its own copy of it. Of a work that streams, a
worker is given items as it finishes others, and their rows are journaled as they come; of another work it is
given chunks, which are journaled in their order. Only this process writes to the run.

Invariant: if a row depends on its item alone (or on its chunk, if the work does not stream), and not on the
process, the journal of a finished run is byte for byte that of a `LocalExecutor` (with the same chunk size),
whichever workers die on the way. Whether the rows of a torch model depend on the number of threads is up to
the libraries that torch computes with.
This file does not share a model between processes, gives no process a device of its own, and knows one
machine only.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process, resource_tracker, set_start_method
from multiprocessing.connection import Connection, wait
from types import TracebackType

from forkpoint.checks import check_at_least
from forkpoint.errors import RunError
from forkpoint.runs.local import LocalExecutor
from forkpoint.runs.parcel import (
    Failure,
    Items,
    Rows,
    forget_policy,
    is_on_gpu,
    performed,
    streamed,
    unpacked,
)
from forkpoint.runs.run import Run
from forkpoint.runs.stream_crew import StreamCrew
from forkpoint.runs.work import Tally, Work, streaming
from forkpoint.runs.worker import Crew, Death, Task, execute_with_workers

NUM_ATTEMPTS = 2
"""How often a chunk is tried if its worker dies."""
START_HINT = "see what they wrote above, then run the same command again"
"""Advice in the error message if workers die one after the other."""
POLL_S = 1.0
"""Seconds after which a death is noticed at the latest, even if a child of the dead worker keeps its pipe
open."""


@dataclass(frozen=True, eq=False)
class PoolExecutor:
    """Does a work in worker processes, which are kept for the next work until `close`; a context manager.

    A worker that dies (killed, out of memory) is replaced. Its chunk, or the items in its hands, are tried
    once more, then recorded as failed. A stop costs the items in the hands of the workers; if the work does
    not stream, the rows of a chunk wait for the chunks before it, and a stop costs up to `num_workers` * 4
    chunks.
    Workers end with this process, however it ends; Ctrl-C ends them at once.
    A work that cannot be pickled, or that holds an open run or a torch module, is done in this process as by
    `LocalExecutor`, with a warning unless its `stays_here` is True. (A policy from `load_policy` is sent as
    its path.) The main module of a program that uses workers must be importable: put its actions under
    `if __name__ == "__main__":`. `perform` may start programs, but not `multiprocessing` processes.
    """

    num_workers: int = 2
    """Number of worker processes at most. Each holds its own copy of the work, with the policy's weights and
    caches, beside the one in this process. On a GPU all copies share its memory, so one process with a larger
    batch is mostly better."""
    chunk_size: int = 32
    """Items per call of `perform`, or items of a stream that are under way at a time in each worker."""
    progress: bool = True
    """Whether to show on stderr how far the work is."""
    max_failed_chunks: int = 3
    """Number of failed chunks in a row that stop the pass: the cause then is hardly in the items."""
    threads_per_worker: int = 1
    """Number of threads that torch uses in each worker; more threads than cores in total make everything
    slower."""
    _workers: list[Worker] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        check_at_least(
            1,
            num_workers=self.num_workers,
            chunk_size=self.chunk_size,
            max_failed_chunks=self.max_failed_chunks,
            threads_per_worker=self.threads_per_worker,
        )

    def __enter__(self) -> PoolExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; the next `execute` starts new ones."""
        while self._workers:
            self._workers.pop().end()

    def execute(self, run: Run, work: Work) -> Tally:
        """Do the owed items of `work` and append their rows to the journal of `run`.

        Failures are as in `LocalExecutor`.

        RunError after `max_failed_chunks` failed chunks in a row, if the disk refuses a write, and if a
        worker cannot load the work.
        """
        local = LocalExecutor(self.chunk_size, self.progress, self.max_failed_chunks)
        return execute_with_workers(run, work, local, self._outcomes, self.close, self._items)

    def _outcomes(self, parcel: bytes, chunks: Sequence[range]) -> Iterator[Rows | Failure]:
        """Have the chunks performed by living workers, which then drop the work."""
        yield from self._crew().outcomes(parcel, chunks)
        self._forget()

    def _items(self, parcel: bytes, idxs: Sequence[int]) -> Iterator[Items]:
        """Have the items of a work that streams done by living workers, which then drop the work."""
        yield from StreamCrew(self._crew(), self.chunk_size).items(parcel, idxs)
        self._forget()

    def _crew(self) -> Crew[Worker]:
        for worker in [worker for worker in self._workers if not worker.is_alive]:
            self._workers.remove(worker)
            worker.end()
        start = partial(Worker, self.threads_per_worker)
        return Crew(self._workers, self.num_workers, NUM_ATTEMPTS, start, ready, START_HINT)

    def _forget(self) -> None:
        for worker in self._workers:
            worker.forget()


# --- messages between the two sides


@dataclass(frozen=True, slots=True)
class Order:
    """To a worker: load the work if there is one, then perform the chunk; without a chunk, drop the work."""

    chunk: Sequence[int] | None
    parcel: bytes | None = None
    at_a_time: int | None = None
    """Do the chunk as a stream, with so many items under way; more of them may come before it ends."""


@dataclass(frozen=True, slots=True)
class Up:
    """From a worker: it has started and waits for orders."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """From a worker: it has loaded the work."""

    is_on_gpu: bool


# --- this side


class Worker:
    """One worker process, as seen by the process that gives it chunks."""

    def __init__(self, num_threads: int) -> None:
        self.task: Task | None = None
        self.hand: set[int] = set()
        self._order: Order | None = None
        self._parcel: bytes | None = None
        """The work, until the worker is told to load it."""
        self._is_up = False
        context = get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(
            target=serve, args=(there, num_threads), name="forkpoint worker", daemon=True
        )
        with spawning(num_threads), there:
            self._process.start()

    @property
    def connection(self) -> Connection:
        return self._connection

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    @property
    def has_news(self) -> bool:
        return self._connection.poll() or not self.is_alive

    @property
    def is_free(self) -> bool:
        return self.task is None

    def load(self, parcel: bytes) -> None:
        """Have the work loaded, with the next chunk."""
        self._parcel = parcel

    def give(self, task: Task) -> None:
        """Have a chunk performed."""
        self.task = task
        self._send(Order(task.chunk, self._parcel))
        self._parcel = None

    def add(self, idxs: Sequence[int], at_a_time: int) -> None:
        """Have more items of a work that streams done."""
        self.hand |= set(idxs)
        self._send(Order(tuple(idxs), self._parcel, at_a_time))
        self._parcel = None

    def forget(self) -> None:
        """Have the work dropped, and its memory given back."""
        self._parcel = None
        self._send(Order(None))

    def listen(self) -> Rows | Failure | Items | Death | None:
        """Return the outcome of the chunk or of items, or None if the message is another one.

        Only for a worker that has news.
        """
        try:
            message = pickle.loads(self._connection.recv_bytes()) if self._connection.poll() else None
        except (EOFError, OSError):
            message = None
        if message is None:
            return self._ended()
        if isinstance(message, Rows | Failure):
            self.task = None
            return message
        if isinstance(message, Items):
            self.hand -= set(message.idxs)
            return message
        if isinstance(message, Up):
            self._is_up = True
            if self._order is not None:
                self._send(self._order)
        elif message.is_on_gpu:
            warnings.warn(
                "each worker process holds its own copy of the model on the GPU; "
                "see PoolExecutor.num_workers",
                stacklevel=2,
            )
        return None

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._connection.close()

    def _send(self, order: Order) -> None:
        """Send an order now, or as soon as the worker is up, so that nobody waits for its start."""
        if not self._is_up:
            self._order = order
            return
        with suppress(OSError):  # the worker died; `listen` notices
            self._connection.send_bytes(pickle.dumps(order))

    def _ended(self) -> Death:
        """Return why the process ended.

        RunError if it ended while it started: the next one would do the same.
        """
        self._process.join(POLL_S)  # its pipe is closed a little before its end
        code = self._process.exitcode
        if code is not None and code < 0:
            hint = " (which is what happens if memory runs out)" if code == -signal.SIGKILL else ""
            return Death(f"the worker process was ended by {signal.Signals(-code).name}{hint}")
        message = f"the worker process ended with exit code {code}"
        if self._is_up:
            return Death(message)
        hint = 'see what it wrote above; what a program does has to stand under `if __name__ == "__main__":`'
        raise RunError(f"{message} while it started; {hint}")


def ready(workers: Sequence[Worker]) -> list[Worker]:
    """Wait for workers that have something to say or died; returns none if that takes long."""
    wait([worker.connection for worker in workers], POLL_S)
    return [worker for worker in workers if worker.has_news]


@contextmanager
def spawning(num_threads: int) -> Iterator[None]:
    """Give processes started inside `num_threads` threads for torch, and no Ctrl-C until they ignore it."""
    resource_tracker.ensure_running()  # starting it would let Ctrl-C through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


# --- the other side


def serve(connection: Connection, num_threads: int) -> None:
    """Perform chunks until the process that gives them closes the connection or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the chunks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # under "fork" a lock is unlinked at once, so a kill leaves none behind; no process is started here anyway
    set_start_method("fork", force=True)
    threading.Thread(target=end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):
        for message in answers(connection, num_threads):
            connection.send_bytes(pickle.dumps(message))


def answers(connection: Connection, num_threads: int) -> Iterator[Up | Loaded | Rows | Failure | Items]:
    """Yield the answers of a worker to its orders."""
    work: Work | None = None
    yield Up()
    while True:
        order: Order = pickle.loads(connection.recv_bytes())
        if order.chunk is None:
            work = None
            forget_policy()
            continue
        if order.parcel is not None:
            loaded = unpacked(order.parcel, num_threads)
            if isinstance(loaded, Failure):
                yield loaded
                continue
            work = loaded
            yield Loaded(is_on_gpu())
        assert work is not None, "the first order has the work in it"
        if order.at_a_time is None:
            yield performed(work, order.chunk)
        else:
            stream = streaming(work)
            assert stream is not None, "only a work that streams is done as a stream"
            yield from streamed(stream, _waiting(order.chunk, connection), order.at_a_time)


def _waiting(idxs: Sequence[int], connection: Connection) -> Iterator[int]:
    """The items of an order, and of those that have come by the time that they are needed."""
    waiting = deque(idxs)
    while waiting:
        yield waiting.popleft()
        while connection.poll():
            order: Order = pickle.loads(connection.recv_bytes())
            assert order.chunk is not None, "a work is dropped only when all of it is done"
            waiting.extend(order.chunk)


def end_with_parent() -> None:
    """End this process when its parent has ended, whatever it is doing."""
    parent = parent_process()
    assert parent is not None, "workers have a parent"
    # the pipe tells at once, unless another child of the parent holds its end too
    while os.getppid() == parent.pid and not wait([parent.sentinel], POLL_S):
        pass
    os._exit(1)
