"""Workers of any kind: outcomes in order, deaths that cost attempts, workers that never start."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from forkpoint.errors import RunError
from forkpoint.runs.parcel import Failure, Rows
from forkpoint.runs.worker import CHUNKS_AHEAD, Crew, Death, Task

CHUNKS = [range(start, start + 2) for start in range(0, 40, 2)]
LOADING = -1


class FakeWorker:
    """A worker in this process that dies at some chunks, or while it loads, as often as `num_deaths` says."""

    def __init__(self, num_deaths: dict[int, int], given: list[int]) -> None:
        self.task: Task | None = None
        self.hand: set[int] = set()
        self.is_asked = False
        self._num_deaths, self._given = num_deaths, given

    @property
    def is_free(self) -> bool:
        return not self.is_asked

    def load(self, parcel: str) -> None:
        self.is_asked, self._parcel = True, parcel

    def give(self, task: Task) -> None:
        assert self.is_free
        self.task, self.is_asked = task, True
        self._given.append(task.idx)

    def listen(self) -> Rows | Failure | Death | None:
        task, self.task, self.is_asked = self.task, None, False
        place = LOADING if task is None else task.idx
        if self._num_deaths.get(place, 0) > 0:
            self._num_deaths[place] -= 1
            return Death(f"died at {place}")
        if self._parcel == "broken":
            return Failure.to_load(ValueError("no such work"))
        return None if task is None else Rows(str(task.chunk.start).encode())

    def end(self) -> None:
        assert self.is_free, "a dead worker has nothing left to do"


def youngest(workers: Sequence[FakeWorker]) -> list[FakeWorker]:
    """Earlier chunks take longer: of all workers, the one with the last chunk answers next."""
    asked = [worker for worker in workers if worker.is_asked]
    return [max(asked, key=lambda worker: len(CHUNKS) if worker.task is None else worker.task.idx)]


def crew(num_deaths: dict[int, int] | None = None, given: list[int] | None = None) -> Crew[FakeWorker]:
    start = partial(FakeWorker, num_deaths or {}, [] if given is None else given)
    return Crew([], 3, 2, start, youngest, "see why")


def outcomes(of: Crew[FakeWorker], parcel: str = "work") -> list[Rows | Failure]:
    return list(of.outcomes(parcel, CHUNKS))


WHOLE = [Rows(str(chunk.start).encode()) for chunk in CHUNKS]


def test_outcomes_come_in_order_and_workers_stay_for_the_next_work() -> None:
    several = crew()
    assert outcomes(several) == WHOLE
    before = list(several.workers)
    assert len(before) == 3
    assert outcomes(several) == WHOLE
    assert several.workers == before


def test_a_chunk_is_tried_again_after_a_death_and_fails_after_the_last_attempt() -> None:
    assert outcomes(crew({4: 1, 7: 1})) == WHOLE
    found = outcomes(crew({4: 2}))
    assert found[4] == Failure("ChildProcessError", "2 workers died at this chunk: died at 4")
    assert found[:4] + found[5:] == WHOLE[:4] + WHOLE[5:]


def test_chunks_are_not_given_far_ahead_of_the_oldest_one() -> None:
    given: list[int] = []
    stream = crew(given=given).outcomes("work", CHUNKS)
    for turn in range(len(CHUNKS)):
        next(stream)
        assert max(given) < turn + CHUNKS_AHEAD * 3


def test_workers_that_die_before_they_have_the_work_stop_the_pass() -> None:
    assert outcomes(crew({LOADING: 5})) == WHOLE
    with pytest.raises(RunError, match="workers do not start: died at -1; see why"):
        outcomes(crew({LOADING: 6}))


def test_a_work_that_cannot_be_loaded_stops_the_pass() -> None:
    with pytest.raises(
        RunError, match=r"could not be loaded by a worker process \(ValueError: no such work\)"
    ):
        outcomes(crew(), "broken")
