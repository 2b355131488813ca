"""Many jobs with one policy: each asks for completions and takes them in, and none waits for the others.

A job is whatever needs completions for one problem: a tree, a set of samples, a search. Jobs are begun in
their order as the policy has room; of the jobs under way, the oldest is served first.
Invariant: a job sees its own completions only, one at a time, so what it does depends on them and on nothing
beside it. This file starts no threads.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from forkpoint.policies.stream import completions_of
from forkpoint.records import Completion, Policy, Request

SETTLE_SHARE = 8
"""Jobs that wait to be settled are settled together, once they are one in so many of those under way."""


class Job(Protocol):
    """Needs completions, some of which it can ask for only when it has others."""

    @property
    def is_done(self) -> bool:
        """Whether the job needs nothing more; completions that it asked for may still come."""
        ...

    def next_request(self) -> Request | None:
        """The next request that can be asked now; None if nothing can until something is absorbed or settled.

        Each request is returned once.
        """
        ...

    def spare_request(self) -> Request | None:
        """A request that may turn out not to be needed, for a policy that has nothing else to do; or None."""
        return None

    def absorb(self, request: Request, completion: Completion) -> None:
        """Take in the completion of a request."""
        ...


AnyJob = TypeVar("AnyJob", bound=Job)
Name = TypeVar("Name")


def done_jobs(
    policy: Policy,
    jobs: Iterable[tuple[Name, AnyJob]],
    settle: Callable[[Sequence[AnyJob]], None] | None = None,
    at_a_time: int | None = None,
) -> Iterator[tuple[Name, AnyJob]]:
    """Every job as soon as it is done, with the name that it was given, in any order.

    At most `at_a_time` jobs are under way (None: as many as the policy has room for). `settle`, if given, is
    called with jobs that are not done, have nothing in flight and ask for nothing, several of them at a time.
    """
    desk = _Desk(iter(jobs), settle, at_a_time)
    for request, completion in completions_of(policy, desk):
        desk.absorb(request, completion)
        yield from desk.take_done()
    yield from desk.take_done()


@dataclass(eq=False, slots=True)
class _UnderWay(Generic[Name, AnyJob]):
    """A job that was begun."""

    name: Name
    job: AnyJob
    number: int
    num_pending: int = 0
    """Requests that the job has returned and whose completions it has not got."""
    is_over: bool = False


class _Desk(Generic[Name, AnyJob]):
    """The source of the requests of many jobs; hands the completions back to those that asked."""

    def __init__(
        self,
        jobs: Iterator[tuple[Name, AnyJob]],
        settle: Callable[[Sequence[AnyJob]], None] | None,
        at_a_time: int | None,
    ) -> None:
        self._jobs, self._settle, self._at_a_time = jobs, settle, at_a_time
        self._asking: list[tuple[int, int, Request, _UnderWay[Name, AnyJob]]] = []
        """A heap of requests, those of the oldest job first."""
        self._askers: defaultdict[Request, deque[_UnderWay[Name, AnyJob]]] = defaultdict(deque)
        self._running: dict[int, _UnderWay[Name, AnyJob]] = {}
        self._unsettled: dict[int, _UnderWay[Name, AnyJob]] = {}
        self._done: deque[tuple[Name, AnyJob]] = deque()
        self._num_begun = self._num_asked = self._num_in_flight = 0
        self._has_more = True

    def next(self, room: int) -> list[Request]:
        """Requests of jobs under way, then of new ones, then, if the room is not filled, spare ones."""
        taken: list[Request] = []
        while len(taken) < room:
            if self._asking:
                _, _, request, under_way = heapq.heappop(self._asking)
                taken.append(self._ask(request, under_way))
                self._advance(under_way)
            elif self._must_settle():
                self._settle_all()
            elif not self._begin():
                if not self._unsettled or self._num_in_flight:
                    break
                self._settle_all()
        return taken + self._spare(room - len(taken))

    def absorb(self, request: Request, completion: Completion) -> None:
        askers = self._askers[request]
        under_way = askers.popleft()
        if not askers:
            del self._askers[request]
        under_way.num_pending -= 1
        self._num_in_flight -= 1
        under_way.job.absorb(request, completion)
        self._advance(under_way)

    def take_done(self) -> Iterator[tuple[Name, AnyJob]]:
        while self._done:
            yield self._done.popleft()

    def _ask(self, request: Request, under_way: _UnderWay[Name, AnyJob]) -> Request:
        self._askers[request].append(under_way)
        self._num_in_flight += 1
        return request

    def _begin(self) -> bool:
        """Begin one more job, if there is one and it may be begun now."""
        if not self._has_more or (self._at_a_time is not None and len(self._running) >= self._at_a_time):
            return False
        named = next(self._jobs, None)
        if named is None:
            self._has_more = False
            return False
        under_way = _UnderWay(*named, self._num_begun)
        self._num_begun += 1
        self._running[under_way.number] = under_way
        self._advance(under_way)
        return True

    def _advance(self, under_way: _UnderWay[Name, AnyJob]) -> None:
        """Look what a job asks for next, and whether it is done or has to be settled."""
        if under_way.is_over:
            return
        request = under_way.job.next_request()
        if request is not None:
            self._num_asked += 1
            under_way.num_pending += 1
            heapq.heappush(self._asking, (under_way.number, self._num_asked, request, under_way))
        elif under_way.job.is_done:
            under_way.is_over = True
            del self._running[under_way.number]
            self._done.append((under_way.name, under_way.job))
        elif not under_way.num_pending:
            assert self._settle is not None, "a job that waits for nothing asks for something, or is done"
            self._unsettled[under_way.number] = under_way

    def _must_settle(self) -> bool:
        return bool(self._unsettled) and len(self._unsettled) * SETTLE_SHARE >= len(self._running)

    def _settle_all(self) -> None:
        assert self._settle is not None, "jobs wait only if there is someone to settle them"
        waiting = [self._unsettled[number] for number in sorted(self._unsettled)]
        self._unsettled = {}
        self._settle([under_way.job for under_way in waiting])
        for under_way in waiting:
            self._advance(under_way)

    def _spare(self, room: int) -> list[Request]:
        """Requests that may not be needed, in turn from all jobs under way, the oldest first."""
        taken: list[Request] = []
        turns = deque(self._running.values())
        while turns and len(taken) < room:
            under_way = turns.popleft()
            request = under_way.job.spare_request()
            if request is not None:
                under_way.num_pending += 1
                taken.append(self._ask(request, under_way))
                turns.append(under_way)
        return taken
