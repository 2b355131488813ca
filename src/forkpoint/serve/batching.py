"""Solutions of many requests, scored together.

One thread alone touches the PRM: it takes solutions from a queue in the order in which they came and scores a batch at a
time. Invariant: a solution's scores, or the reason why it has none, are its own: they do not depend on what else is in its
batch beyond float rounding. What was submitted is settled, or was dropped; work that is dropped before its batch is not done.
This file knows nothing of HTTP.
"""

from __future__ import annotations

import logging
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
    """A scorer that says what it reads."""

    @property
    def format(self) -> PRMFormat:
        """How the steps that it scores are cut, and what sums their scores up."""
        ...

    def num_tokens(self, question: str, steps: Sequence[str]) -> int:
        """Tokens that it reads to score a solution. LayoutError where it cannot."""
        ...


class QueueFull(ForkpointError):
    """Too many solutions wait."""


class Stopping(ForkpointError):
    """Nothing new is taken on."""


class ScoringFailed(ForkpointError):
    """The PRM could not score a solution; `id` finds the reason in the log."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.id = uuid.uuid4().hex[:12]


@dataclass(frozen=True, slots=True)
class StepScores:
    """What the PRM says about one solution."""

    scores: list[float]
    """One per step, in [0, 1]."""
    num_tokens: int
    """Tokens that it read."""


@dataclass(eq=False, slots=True)
class _Entry:
    question: str
    steps: Sequence[str]
    future: Future[StepScores] = field(default_factory=Future)
    num_tokens: int | None = None
    """None until it is laid out."""


class Batcher:
    """A queue of solutions and the thread that scores them."""

    def __init__(self, prm: ServedPRM, config: ServeConfig, metrics: Metrics) -> None:
        self._prm, self._config, self._metrics = prm, config, metrics
        self._queue: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._work, name="forkpoint-scoring", daemon=True)
        self._thread.start()
        metrics.watch_queue(lambda: len(self._queue))

    @property
    def is_ready(self) -> bool:
        return self._thread.is_alive() and not self._is_stopping

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def submit(self, solutions: Iterable[tuple[str, Sequence[str]]]) -> list[Future[StepScores]]:
        """Queue (question, steps) pairs, all or none; each future gets scores, LayoutError or ScoringFailed.

        QueueFull where `max_queue` solutions wait already, Stopping after `stop_accepting`.
        """
        entries = [_Entry(question, steps) for question, steps in solutions]
        with self._changed:
            if self._is_stopping:
                raise Stopping("the server is stopping; ask another one")
            if len(self._queue) >= self._config.max_queue:
                raise QueueFull(f"{len(self._queue)} solutions wait already; try again later")
            self._queue.extend(entries)
            self._changed.notify_all()
        return [entry.future for entry in entries]

    def drop(self, futures: Iterable[Future[StepScores]]) -> None:
        """Forget those of the solutions that still wait."""
        cancelled = {future for future in futures if future.cancel()}
        if cancelled:
            with self._changed:
                self._queue = deque(entry for entry in self._queue if entry.future not in cancelled)

    def stop_accepting(self) -> None:
        """Take nothing new on; what waits is still scored, then the thread ends."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def _work(self) -> None:
        while self._wait():
            batch = [entry for entry in self._next_batch() if entry.future.set_running_or_notify_cancel()]
            if batch:
                self._score(batch)

    def _wait(self) -> bool:
        """Wait for a batch worth scoring; False where none will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_stopping)
            self._changed.wait_for(
                lambda: len(self._queue) >= self._config.batch_items or self._is_stopping,
                self._config.batch_wait_s,
            )
            return bool(self._queue) or not self._is_stopping

    def _next_batch(self) -> list[_Entry]:
        """The first solutions of the queue, laid out; those that cannot be are settled on the way."""
        batch: list[_Entry] = []
        num_tokens = 0
        while len(batch) < self._config.batch_items:
            with self._changed:
                if not self._queue:
                    break
                entry = self._queue.popleft()
            if entry.num_tokens is None and not self._lay_out(entry):
                continue
            assert entry.num_tokens is not None, "a solution that is laid out has tokens"
            num_tokens += entry.num_tokens
            if batch and num_tokens > self._config.batch_tokens:
                with self._changed:
                    self._queue.appendleft(entry)
                break
            batch.append(entry)
        return batch

    def _lay_out(self, entry: _Entry) -> bool:
        try:
            entry.num_tokens = self._prm.num_tokens(entry.question, entry.steps)
        except Exception as error:  # noqa: BLE001 (a tokenizer's failure is this solution's, and the thread goes on)
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(error if isinstance(error, LayoutError) else _failed(error))
            return False
        return True

    def _score(self, batch: Sequence[_Entry]) -> None:
        """Settle every solution of a batch; where the whole fails, each is tried alone."""
        try:
            scores = checked_scores(
                self._prm, [entry.question for entry in batch], [entry.steps for entry in batch]
            )
        except Exception as error:  # noqa: BLE001 (a model's failure is told to who asked, and the thread goes on)
            if len(batch) > 1:
                for entry in batch:
                    self._score([entry])
            else:
                batch[0].future.set_exception(_failed(error))
            return
        self._metrics.count_batch(
            [len(entry.steps) for entry in batch], [entry.num_tokens or 0 for entry in batch]
        )
        for entry, its_scores in zip(batch, scores, strict=True):
            entry.future.set_result(StepScores(list(its_scores), entry.num_tokens or 0))


def _failed(error: Exception) -> ScoringFailed:
    failure = ScoringFailed(f"the PRM failed: {type(error).__name__}")
    logger.error("scoring failed, id %s", failure.id, exc_info=error)
    return failure
