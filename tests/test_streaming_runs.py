"""Works that stream: a row is kept the moment it is done, and a finished journal has one order."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from forkpoint.errors import RunError
from forkpoint.runs import LocalExecutor, PoolExecutor, Run
from forkpoint.runs.work import Rows, Tally, rows_of
from forkpoint.solutions.work import TreeWork
from forkpoint.trees.grow import TreeConfig
from test_runs import Sums, opened


@dataclass
class Shuffled(Sums):
    """Rows come in an order of their own, and some items fail or kill their process."""

    seed: int = 0
    num_under_way: list[int] = field(default_factory=list)
    stop_after: int | None = None
    victims: frozenset[int] = frozenset()
    marks: Path = Path()
    num_kills: int = 0

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        return rows_of(self, idxs)

    def stream(self, idxs: Iterable[int], at_a_time: int) -> Rows:
        chance, waiting, given, source = random.Random(self.seed), list[int](), 0, iter(idxs)
        while True:
            waiting += itertools.islice(source, at_a_time - len(waiting))
            self.num_under_way.append(len(waiting))
            if not waiting:
                return
            if poisoned := self.poison.keys() & set(waiting):
                raise self.poison[min(poisoned)]
            if self.victims & set(waiting) and len(list(self.marks.iterdir())) < self.num_kills:
                (self.marks / f"{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if given == self.stop_after:
                raise KeyboardInterrupt
            given += 1
            idx = waiting.pop(chance.randrange(len(waiting)))
            yield idx, {"idx": idx, "text": "x" * (idx % 50)}


def local(at_a_time: int = 4, **settings: Any) -> LocalExecutor:
    return LocalExecutor(at_a_time, progress=False, **settings)


def journal_of(directory: Path) -> bytes:
    return (directory / "journal.jsonl").read_bytes()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    """The journal of a run that does one item at a time, so that rows come in order."""
    with opened(tmp_path / "whole") as run:
        local(1).execute(run, Shuffled(30))
        before = journal_of(tmp_path / "whole")
        run.finish({})
    assert journal_of(tmp_path / "whole") == before
    return before


def test_rows_are_kept_as_they_come_and_finish_puts_them_into_item_order(
    tmp_path: Path, whole: bytes
) -> None:
    with opened(tmp_path / "run") as run:
        work = Shuffled(30)
        assert local(7).execute(run, work) == Tally(rows_added=30, rows_reused=0, rows_failed=0)
        assert max(work.num_under_way) == 7
        assert [row["idx"] for row in run.rows()] != list(range(30))
        run.finish({})
        assert [row["idx"] for row in run.rows()] == list(range(30))
        assert run.is_finished
        assert [row["idx"] for row in run.rows([work.keys[9], work.keys[3]])] == [9, 3]
        run.append([("z", {"n": 1})])
    assert journal_of(tmp_path / "run").startswith(whole)
    assert Run.read(tmp_path / "run").num_rows == 31


@pytest.mark.parametrize("seed", range(5))
def test_stopped_again_and_again_it_ends_with_the_same_bytes_and_no_row_is_done_twice(
    tmp_path: Path, whole: bytes, seed: int
) -> None:
    chance, num_rows, num_stops = random.Random(seed), 0, 0
    while num_rows < 30:
        stop_after = chance.randrange(6)
        work = Shuffled(30, seed=chance.randrange(1000), stop_after=stop_after)
        with opened(tmp_path / "run") as run:
            try:
                local(chance.randrange(1, 9)).execute(run, work)
                run.finish({})
            except KeyboardInterrupt:
                num_stops += 1
                assert run.num_rows == num_rows + stop_after
            num_rows = run.num_rows
    assert num_stops > 2
    with opened(tmp_path / "run") as run:
        assert local().execute(run, Shuffled(30)).rows_reused == 30
        run.finish({})
    assert journal_of(tmp_path / "run") == whole


def test_a_stop_while_the_order_is_restored_leaves_all_rows(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with opened(tmp_path / "run") as run:
        local().execute(run, Shuffled(30))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "replace", interrupted)
            run.finish({})
    with opened(tmp_path / "run") as run:
        assert local().execute(run, Shuffled(30)) == Tally(rows_added=0, rows_reused=30, rows_failed=0)
        run.finish({})
    assert journal_of(tmp_path / "run") == whole


def test_works_keep_their_order_and_rows_of_others_their_place(tmp_path: Path) -> None:
    class Second(Shuffled):
        @property
        def keys(self) -> Sequence[str]:
            return [f"second/{idx}" for idx in range(self.num_items)]

    journals = []
    for name, seed, at_a_time in (("a", 0, 1), ("b", 1, 5), ("c", 2, 20)):
        with opened(tmp_path / name) as run:
            run.append([("first", {"n": 1})])
            local(at_a_time).execute(run, Shuffled(10, seed=seed))
            run.append([("between", {"n": 2})])
            local(at_a_time).execute(run, Second(10, seed=seed))
            run.finish({})
        journals.append(journal_of(tmp_path / name))
    assert journals[0] == journals[1] == journals[2]


def test_a_failure_costs_what_is_under_way_and_the_others_go_on(tmp_path: Path) -> None:
    work = Shuffled(20, poison={7: ConnectionError("no route")})
    with opened(tmp_path / "run") as run:
        tally = local(3).execute(run, work)
        assert 1 <= tally.rows_failed <= 3 and tally.rows_added == 20 - tally.rows_failed
        failures = list(run.failures())
        assert work.keys[7] in {failure["key"] for failure in failures}
        assert {failure["message"] for failure in failures} == {"no route"}
        assert local(3).execute(run, Shuffled(20)).rows_added == tally.rows_failed


def test_a_row_that_cannot_be_kept_fails_alone_and_many_failures_end_the_pass(tmp_path: Path) -> None:
    class Odd(Shuffled):
        def stream(self, idxs: Iterable[int], at_a_time: int) -> Iterator[tuple[int, dict[str, Any]]]:
            for idx, row in super().stream(idxs, at_a_time):
                yield idx, {"n": float("nan")} if idx == 5 else row

    with opened(tmp_path / "odd") as run:
        assert local().execute(run, Odd(12)) == Tally(rows_added=11, rows_reused=0, rows_failed=1)
    poison: dict[int, BaseException] = {idx: ValueError(f"item {idx}") for idx in range(12)}
    with (
        opened(tmp_path / "bad") as run,
        pytest.raises(RunError, match="3 chunks in a row failed, the last with ValueError: item 2"),
    ):
        local(1).execute(run, Shuffled(12, poison=poison))


# --- several processes


@pytest.mark.slow
def test_workers_stream_their_shares_into_the_same_journal(tmp_path: Path, whole: bytes) -> None:
    with PoolExecutor(2, 3, progress=False) as executor:
        for name in ("first", "second"):
            with opened(tmp_path / name) as run:
                tally = executor.execute(run, Shuffled(30))
                assert tally == Tally(rows_added=30, rows_reused=0, rows_failed=0)
                run.finish({})
            assert journal_of(tmp_path / name) == whole


@pytest.mark.slow
def test_a_worker_that_dies_costs_nothing_and_items_that_kill_are_recorded(
    tmp_path: Path, whole: bytes
) -> None:
    (tmp_path / "marks").mkdir()
    with PoolExecutor(2, 3, progress=False) as executor:
        with opened(tmp_path / "once") as run:
            work = Shuffled(30, victims=frozenset([11]), marks=tmp_path / "marks", num_kills=1)
            assert executor.execute(run, work).rows_failed == 0
            run.finish({})
        assert journal_of(tmp_path / "once") == whole
        with opened(tmp_path / "always") as run:
            work = Shuffled(30, victims=frozenset([11]), marks=tmp_path / "marks", num_kills=99)
            tally = executor.execute(run, work)
            assert 1 <= tally.rows_failed <= 7 and tally.rows_added == 30 - tally.rows_failed
            assert {failure["error"] for failure in run.failures()} == {"ChildProcessError"}
            assert executor.execute(run, Shuffled(30)).rows_added == tally.rows_failed
            run.finish({})
        assert journal_of(tmp_path / "always") == whole


@pytest.mark.slow
def test_failures_in_workers_are_recorded_as_here(tmp_path: Path) -> None:
    work = Shuffled(20, poison={7: ConnectionError("no route"), 13: ValueError("odd")})
    with PoolExecutor(2, 1, progress=False) as executor, opened(tmp_path / "run") as run:
        tally = executor.execute(run, work)
        assert (tally.rows_added, tally.rows_failed) == (18, 2)
        failures = {failure["key"]: (failure["error"], failure["message"]) for failure in run.failures()}
    assert failures == {
        work.keys[7]: ("ConnectionError", "no route"),
        work.keys[13]: ("ValueError", "odd"),
    }


# --- a real model


@pytest.mark.slow
def test_trees_of_a_model_are_the_same_bytes_for_any_batch_cache_and_depth(tmp_path: Path) -> None:
    import torch

    from forkpoint.lab.problem_set import lab_problems
    from forkpoint.policies import load_policy

    problems = lab_problems("test", num=6)
    config = TreeConfig(num_leaves=5, tau=0.3, max_tokens=60)
    num_threads, journals = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for idx, (batch_size, cache_bytes, max_waste, at_a_time) in enumerate(
            [(1, 0, 0.0, 1), (3, 1 << 20, 0.03, 2), (64, 1 << 30, 1e9, 64), (64, 1 << 18, 1e9, 1)]
        ):
            policy = load_policy("lab", device="cpu", batch_size=batch_size, cache_bytes=cache_bytes)
            with opened(tmp_path / str(idx)) as run:
                work = TreeWork(policy, problems, config, max_waste=max_waste)
                local(at_a_time).execute(run, work)
                run.finish({})
            journals.append(journal_of(tmp_path / str(idx)))
    finally:
        torch.set_num_threads(num_threads)
    assert journals[0].count(b"\n") == 6
    assert all(journal == journals[0] for journal in journals)
