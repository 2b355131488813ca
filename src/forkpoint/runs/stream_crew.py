"""Have the items of a work that streams done by workers: each is given more as it finishes some.

Invariant: every item comes back once, with its row or with a failure, whatever dies; they come in any order.
This file starts no processes and sends nothing; an executor brings workers that do.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from forkpoint.errors import RunError
from forkpoint.runs.parcel import Failure, Items
from forkpoint.runs.worker import Crew, Death, Worker

RESERVE = 4
"""A worker has one item in so many more in its hands than it may have under way, so that it finds the next
one there; at least as many."""


class StreamWorker(Worker, Protocol):
    """A worker that does items as a stream."""

    @property
    def hand(self) -> set[int]:
        """The items that the worker was given and has not answered."""
        ...

    def add(self, idxs: Sequence[int], at_a_time: int) -> None:
        """Have more items done."""
        ...

    def listen(self) -> Any:
        """As `Worker.listen`; also what came of some items."""
        ...


AnyWorker = TypeVar("AnyWorker", bound=StreamWorker)


@dataclass(frozen=True)
class StreamCrew(Generic[AnyWorker]):
    """The workers of a crew, at a work that streams."""

    crew: Crew[AnyWorker]
    at_a_time: int
    """Items that a worker may have under way."""

    def items(self, parcel: Any, idxs: Sequence[int]) -> Iterator[Items]:
        """Have all items of a work done; yields what came of them, as it comes.

        RunError if no worker stays alive until it has loaded the work, or if one cannot load it.
        """
        crew = self.crew
        for worker in crew.workers:
            worker.load(parcel)
        owed, num_deaths, num_lost = deque(idxs), Counter[int](), 0
        has_answered: set[int] = set()
        while owed or any(worker.hand for worker in crew.workers):
            crew.fill_up(parcel, -(-len(owed) // self.at_a_time))
            for worker in crew.workers:
                if not worker.hand or id(worker) in has_answered:
                    self._give(worker, owed)
            for worker in crew.ready(crew.workers):
                news = worker.listen()
                if isinstance(news, Items):
                    has_answered.add(id(worker))
                    num_lost = 0
                    yield news
                elif isinstance(news, Failure):
                    news.rows()  # raises
                elif isinstance(news, Death):
                    crew.workers.remove(worker)
                    worker.end()
                    num_lost += id(worker) not in has_answered
                    has_answered.discard(id(worker))
                    yield from self._dropped(worker, news, num_deaths, owed)
                    if num_lost == crew.num_attempts * crew.num_workers:
                        raise RunError(f"workers do not start: {news.message}; {crew.start_hint}")

    def _give(self, worker: AnyWorker, owed: deque[int]) -> None:
        """Fill the hands of a worker; all workers get about as much while there is enough."""
        share = -(-(len(owed) + len(worker.hand)) // self.crew.num_workers)
        room = min(self.at_a_time + max(RESERVE, self.at_a_time // RESERVE), share) - len(worker.hand)
        if room > 0 and owed:
            worker.add([owed.popleft() for _ in range(min(room, len(owed)))], self.at_a_time)

    def _dropped(
        self, worker: AnyWorker, death: Death, num_deaths: Counter[int], owed: deque[int]
    ) -> Iterator[Items]:
        """What a dead worker had in its hands: owed again, or failed for good."""
        num_deaths.update(worker.hand)
        lost = sorted(worker.hand)
        owed.extendleft(reversed([idx for idx in lost if num_deaths[idx] < self.crew.num_attempts]))
        failed = tuple(idx for idx in lost if num_deaths[idx] >= self.crew.num_attempts)
        if failed:
            message = f"{self.crew.num_attempts} workers died at these items: {death.message}"
            yield Items(failed, Failure("ChildProcessError", message))
