"""A scorer that any number of threads may use; a solution that it cannot read has None instead of scores.

RL libraries call reward functions from threads, some with one solution per call. One thread at a time scores
for all waiting threads: the requests that arrive meanwhile are the next batch. Invariant: a solution's scores
do not depend on the other solutions of its batch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from forkpoint.errors import LayoutError
from forkpoint.prms.scores import scores_or_refusals
from forkpoint.records import Scorer

Item = tuple[str, tuple[str, ...]]
"""A question, and the steps of a solution."""
Scores = tuple[float, ...] | None
"""One score in [0, 1] per step; None for a solution that the scorer cannot read."""


class SharedScorer:
    """One `Scorer` for all threads of a process."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._turn, self._list_lock = threading.Lock(), threading.Lock()
        self._waiting: list[tuple[Sequence[Item], Future[list[Scores]]]] = []

    def score(self, items: Sequence[Item]) -> list[Scores]:
        """The scores, in the order of `items`.

        Exceptions of the scorer, except LayoutError, are raised in every thread whose items were in the
        batch.
        """
        asked: Future[list[Scores]] = Future()
        with self._list_lock:
            self._waiting.append((items, asked))
        with self._turn:
            if not asked.done():
                self._score_waiting()
        return asked.result()

    def _score_waiting(self) -> None:
        with self._list_lock:
            batch, self._waiting = self._waiting, []
        try:
            found = scores_or_refusals(self._scorer, [item for items, _ in batch for item in items])
        except BaseException as error:  # an interrupt too, or the callers in this batch wait for ever
            for _, future in batch:
                future.set_exception(error)
            raise
        scores = iter(None if isinstance(scores, LayoutError) else scores for scores in found)
        for items, future in batch:
            future.set_result([next(scores) for _ in items])
