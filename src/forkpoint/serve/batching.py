"""Score the solutions of many requests together.

Only one thread uses the PRM: it takes solutions from a queue, first come first served, and scores one batch
at a time.
Invariant: the scores of a solution, or the reason why it has none, do not depend on the other solutions in
its batch, apart from float rounding. Everything that was submitted is settled unless it was dropped; a
solution that is dropped before its batch begins is not scored.
This file knows nothing of HTTP.
"""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from forkpoint.errors import ForkpointError, LayoutError
from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.scores import checked_scores
from forkpoint.records import Scorer
from forkpoint.serve.config import ServeConfig
from forkpoint.serve.metrics import Metrics

logger = logging.getLogger(__name__)


class ServedPRM(Scorer, Protocol):
    """A scorer that describes what it reads."""

    @property
    def format(self) -> PRMFormat:
        """How the steps that it scores are cut, and how their scores are aggregated."""
        ...

    def num_tokens(self, question: str, steps: Sequence[str]) -> int:
        """The number of tokens that it reads to score a solution.

        Raises LayoutError if it cannot read the solution.
        """
        ...


class QueueFull(ForkpointError):
    """Too many solutions are waiting."""


class Stopping(ForkpointError):
    """The server is stopping and accepts nothing new."""


class ScoringFailed(ForkpointError):
    """The PRM could not score a solution; the log has the reason under `id`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.id = uuid.uuid4().hex[:12]


@dataclass(frozen=True, slots=True)
class StepScores:
    """The scores of one solution."""

    scores: list[float]
    """One score per step, in [0, 1]."""
    num_tokens: int
    """Tokens that the PRM read."""


@dataclass(eq=False, slots=True)
class _Entry:
    question: str
    steps: Sequence[str]
    future: Future[StepScores] = field(default_factory=Future)
    num_bytes: int = field(init=False)
    """Memory of the texts."""
    num_tokens: int | None = None
    """None until the tokens have been counted."""

    def __post_init__(self) -> None:
        self.num_bytes = sum(map(sys.getsizeof, (self.question, *self.steps)))


class Batcher:
    """A queue of solutions and the thread that scores them."""

    def __init__(self, prm: ServedPRM, config: ServeConfig, metrics: Metrics) -> None:
        self._prm, self._config, self._metrics = prm, config, metrics
        self._queue: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name="forkpoint-scoring", daemon=True)
        self._thread.start()
        metrics.watch_queue(lambda: len(self._queue), self._num_bytes)

    @property
    def is_ready(self) -> bool:
        """Whether solutions are accepted."""
        return self._thread.is_alive() and not self._is_stopping

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def submit(self, solutions: Iterable[tuple[str, Sequence[str]]]) -> list[Future[StepScores]]:
        """Queue (question, steps) pairs, all of them or none.

        Each future gets scores, or the exception LayoutError or ScoringFailed.
        Raises QueueFull if `max_queue` solutions or `max_queue_bytes` of text are waiting already, and
        Stopping after `stop_accepting`.
        """
        entries = [_Entry(question, steps) for question, steps in solutions]
        with self._changed:
            if self._is_stopping:
                raise Stopping("the server is stopping; ask another one")
            if len(self._queue) >= self._config.max_queue:
                raise QueueFull(f"{len(self._queue)} solutions wait already; try again later")
            if (num_bytes := self._num_bytes()) >= self._config.max_queue_bytes:
                raise QueueFull(f"solutions of {num_bytes:,} bytes wait already; try again later")
            self._queue.extend(entries)
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def drop(self, futures: Iterable[Future[StepScores]]) -> None:
        """Remove from the queue those of the solutions that are still waiting."""
        cancelled = {future for future in futures if future.cancel()}
        if cancelled:
            with self._changed:
                self._queue = deque(entry for entry in self._queue if entry.future not in cancelled)

    def stop_accepting(self) -> None:
        """Accept nothing new. The solutions in the queue are still scored; then the thread ends."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def _num_bytes(self) -> int:
        """The memory of the texts that are waiting."""
        with self._changed:
            return sum(entry.num_bytes for entry in self._queue)

    def _work(self) -> None:
        while self._wait():
            batch = [entry for entry in self._next_batch() if entry.future.set_running_or_notify_cancel()]
            if batch:
                self._score(batch)

    def _wait(self) -> bool:
        """Wait for a batch that is worth scoring. Returns False if the thread should end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_stopping)
            self._changed.wait_for(
                lambda: len(self._queue) >= self._config.batch_items or self._is_stopping,
                self._config.batch_wait_s,
            )
            return bool(self._queue) or not self._is_stopping

    def _next_batch(self) -> list[_Entry]:
        """The first solutions of the queue that fit into a batch; unreadable ones are settled on the way."""
        batch: list[_Entry] = []
        num_tokens = 0
        while len(batch) < self._config.batch_items:
            with self._changed:
                if not self._queue:
                    break
                entry = self._queue.popleft()
            if entry.num_tokens is None and not self._count_tokens(entry):
                continue
            assert entry.num_tokens is not None, "the tokens of the entry were counted"
            num_tokens += entry.num_tokens
            if batch and num_tokens > self._config.batch_tokens:
                with self._changed:
                    self._queue.appendleft(entry)
                break
            batch.append(entry)
        return batch

    def _count_tokens(self, entry: _Entry) -> bool:
        """Count the tokens of a solution. If that fails, settle it and return False."""
        try:
            entry.num_tokens = self._prm.num_tokens(entry.question, entry.steps)
        except Exception as error:  # noqa: BLE001 (settles this solution only; the thread goes on)
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(error if isinstance(error, LayoutError) else _failed(error))
            return False
        return True

    def _score(self, batch: Sequence[_Entry]) -> None:
        """Score a batch and settle every solution; if the whole batch fails, each solution is tried alone."""
        try:
            scores = checked_scores(
                self._prm, [entry.question for entry in batch], [entry.steps for entry in batch]
            )
        except Exception as error:  # noqa: BLE001 (told to those who asked; the thread goes on)
            if len(batch) > 1:
                for entry in batch:
                    self._score([entry])
            else:
                batch[0].future.set_exception(_failed(error))
            return
        self._metrics.count_batch(
            [len(entry.steps) for entry in batch], [entry.num_tokens or 0 for entry in batch]
        )
        for entry, scores_of_steps in zip(batch, scores, strict=True):
            entry.future.set_result(StepScores(list(scores_of_steps), entry.num_tokens or 0))


def _failed(error: Exception) -> ScoringFailed:
    failure = ScoringFailed(f"the PRM failed: {type(error).__name__}")
    logger.error("scoring failed, id %s", failure.id, exc_info=error)
    return failure
