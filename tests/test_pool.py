"""Several processes write the journal that one would have written, whatever happens to them.

Workers import this file, so it imports torch only where a test needs it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forkpoint.errors import RunError
from forkpoint.lab.problem_set import lab_problems
from forkpoint.policies import ScriptedPolicy, load_policy
from forkpoint.records import Problem, Request
from forkpoint.runs import LocalExecutor, PoolExecutor, Run
from forkpoint.runs.work import Executor, Tally, Work
from forkpoint.runs.worker import CHUNKS_AHEAD
from forkpoint.solutions.work import TreeWork
from forkpoint.trees.grow import TreeConfig
from test_runs import SOURCE, TESTS, Sums, opened

pytestmark = pytest.mark.slow

SCRIPT = {
    "": {"one\n": 0.6, "two\n": 0.4},
    "one\n": {"The answer is 1": 0.55, "The answer is 2": 0.45},
    "two\n": {"The answer is 1": 1.0},
}


@dataclass
class Where(Sums):
    """Rows that say which process they come from."""

    num_quick: int = 1000
    """Later items take very long."""

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        time.sleep(self.sleep_s if idxs[0] < self.num_quick else 60)
        threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
        return [
            {"pid": os.getpid(), "omp": os.environ.get("OMP_NUM_THREADS"), "threads": threads} for _ in idxs
        ]


@dataclass
class Deadly(Sums):
    """Kills its process in the middle of the chunks that hold a victim, as often as it may."""

    victims: frozenset[int] = frozenset([5])
    marks: Path = Path()
    """A directory with one file per kill."""
    num_kills: int = 1
    signum: int = signal.SIGKILL

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        if self.victims & set(idxs) and len(list(self.marks.iterdir())) < self.num_kills:
            (self.marks / f"{os.getpid()}").touch()
            os.kill(os.getpid(), self.signum)
        return super().perform(idxs)


class Clumsy(Exception):
    """Cannot be unpickled."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} because {why}")


@dataclass
class Failing(Sums):
    """Fails in every way that there is."""

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        rows = super().perform(idxs)
        if 1 in idxs:
            raise Clumsy("it broke", "it could")
        if 5 in idxs:
            return rows[1:]
        if 13 in idxs:
            return [{"n": float("nan")}] * len(idxs)
        if 17 in idxs:
            return [{"sum": 1}] * len(idxs)
        return rows


class Unloadable(Sums):
    def __setstate__(self, state: object) -> None:
        raise FileNotFoundError("no weights here")


def fake_gpu(num_items: int) -> Sums:
    """Stands in for torch with a GPU when the work is unpickled."""
    cuda = types.SimpleNamespace(is_initialized=lambda: True, empty_cache=lambda: None)
    sys.modules["torch"] = types.SimpleNamespace(cuda=cuda, set_num_threads=lambda num: None)  # type: ignore[assignment]
    return Sums(num_items)


class OnGPU(Sums):
    def __reduce__(self) -> tuple[Any, ...]:
        return fake_gpu, (self.num_items,)


def pool(num_workers: int = 2, chunk_size: int = 4, **settings: Any) -> PoolExecutor:
    return PoolExecutor(num_workers, chunk_size, progress=False, **settings)


@pytest.fixture(scope="module")
def kept() -> Iterator[PoolExecutor]:
    """Two workers for all tests that do them no harm."""
    with pool() as executor:
        yield executor


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


Journal = Callable[[Executor, Work], bytes]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """The journal of a new run."""

    def done(executor: Executor, work: Work) -> bytes:
        directory = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        with opened(directory) as run:
            assert executor.execute(run, work) == Tally(
                rows_added=len(work.keys), rows_reused=0, rows_failed=0
            )
            assert list(run.failures()) == []
            run.finish({})  # which puts the rows into their canonical order
        return (directory / "journal.jsonl").read_bytes()

    return done


def local(chunk_size: int = 4) -> LocalExecutor:
    return LocalExecutor(chunk_size, progress=False)


def pids(run: Run) -> set[int]:
    return {row["pid"] for row in run.rows()}


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def comes_true(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    end_s = time.monotonic() + within_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.02)
    return condition()


# --- the same journal


def test_the_journal_is_that_of_one_process(kept: PoolExecutor, journal: Journal) -> None:
    problems = [Problem(f"p{idx}", f"question {idx}", str(1 + idx % 2)) for idx in range(30)]
    for work in (Sums(50), TreeWork(ScriptedPolicy(SCRIPT), problems, TreeConfig(tau=0.5, num_leaves=4))):
        assert journal(kept, work) == journal(local(), work)


@pytest.mark.slow
def test_a_model_gives_the_rows_that_it_gives_in_one_process(journal: Journal, directory: Path) -> None:
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        policy = load_policy("lab")
        work = TreeWork(policy, lab_problems("test", num=8), TreeConfig(num_leaves=3, tau=0.3, max_tokens=40))
        expected = journal(local(2), work)
    finally:
        torch.set_num_threads(num_threads)
    with pool(chunk_size=2) as executor:
        assert journal(executor, work) == expected
        threads = Where(4, poison={})
        threads.policy = policy  # type: ignore[attr-defined]
        with opened(directory) as run:
            executor.execute(run, threads)
            assert {(row["omp"], row["threads"]) for row in run.rows()} == {("1", 1)}


def test_rows_wait_for_slower_chunks_before_them_and_chunks_do_not_run_far_ahead(
    directory: Path, marks: Path
) -> None:
    with opened(directory) as run, pool(chunk_size=1) as executor:
        executor.execute(run, Slow(20, marks=marks))
        assert [row["idx"] for row in run.rows()] == list(range(20))
        assert next(run.rows())["num_begun"] == 2 * CHUNKS_AHEAD


@dataclass
class Slow(Sums):
    """The first item lasts until the others have come as far as they get."""

    marks: Path = Path()

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        (self.marks / str(idxs[0])).touch()
        if idxs[0] == 0:
            comes_true(lambda: len(list(self.marks.iterdir())) > 2 * CHUNKS_AHEAD, within_s=3)
        return [{"idx": idx, "num_begun": len(list(self.marks.iterdir()))} for idx in idxs]


def test_a_run_goes_on_with_any_executor(kept: PoolExecutor, directory: Path, journal: Journal) -> None:
    whole = journal(local(), Sums(24))
    for cut in (0, len(whole) // 3, len(whole) - 5):
        with opened(directory) as run:
            path = run.directory / "journal.jsonl"
        path.write_bytes(whole[:cut])
        with opened(directory) as run:
            tally = kept.execute(run, Sums(24))
        assert tally.rows_added + tally.rows_reused == 24
        assert path.read_bytes() == whole


# --- processes


def test_workers_are_kept_until_the_end_and_nothing_is_started_for_nothing(
    directory: Path, tmp_path: Path
) -> None:
    before = set(multiprocessing.active_children())

    def num_children() -> int:
        return len(set(multiprocessing.active_children()) - before)

    with pool(num_workers=8) as executor:
        with opened(directory) as run:
            LocalExecutor(progress=False).execute(run, Sums(4))
            assert executor.execute(run, Sums(4)) == Tally(rows_added=0, rows_reused=4, rows_failed=0)
        assert num_children() == 0
        with opened(tmp_path / "first") as run:
            executor.execute(run, Where(8, sleep_s=0.5))
            first = pids(run)
        assert num_children() == len(first) == 2
        assert os.getpid() not in first
        with opened(tmp_path / "second") as run:
            executor.execute(run, Where(8, sleep_s=0.5))
            assert pids(run) == first
        victim = first.pop()
        os.kill(victim, signal.SIGKILL)
        with opened(tmp_path / "third") as run:
            executor.execute(run, Where(8, sleep_s=0.5))
            assert first < pids(run)
            assert victim not in pids(run)
            assert list(run.failures()) == []
    assert num_children() == 0


def test_an_executor_that_is_dropped_ends_its_workers(directory: Path) -> None:
    executor = pool(num_workers=1)
    with opened(directory) as run:
        executor.execute(run, Where(8))
        workers = pids(run)
    assert all(map(is_running, workers))
    del executor
    gc.collect()
    assert comes_true(lambda: not any(map(is_running, workers)))


def test_workers_get_their_number_of_threads_and_this_process_keeps_its_own(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for here in ("7", None):
        monkeypatch.setenv("OMP_NUM_THREADS", here) if here else monkeypatch.delenv("OMP_NUM_THREADS")
        with opened(directory / str(here)) as run, pool(num_workers=1, threads_per_worker=3) as executor:
            executor.execute(run, Where(8))
            assert {row["omp"] for row in run.rows()} == {"3"}
        assert os.environ.get("OMP_NUM_THREADS") == here


# --- what fails


def test_a_killed_worker_costs_nothing_but_time(journal: Journal, marks: Path) -> None:
    with pool() as executor:
        assert journal(executor, Deadly(40, marks=marks)) == journal(local(), Sums(40))
    assert len(list(marks.iterdir())) == 1


def test_a_chunk_that_kills_every_worker_is_recorded_and_owed_again_while_others_go_on(
    directory: Path, marks: Path
) -> None:
    with pool() as executor:
        with opened(directory) as run:
            work = Deadly(24, victims=frozenset([5, 20]), marks=marks, num_kills=9)
            assert executor.execute(run, work) == Tally(rows_added=16, rows_reused=0, rows_failed=8)
            assert [row["idx"] for row in run.rows()] == [*range(4), *range(8, 20)]
            failures = list(run.failures())
        assert len(list(marks.iterdir())) == 4
        assert [failure["key"] for failure in failures] == [
            work.keys[idx] for idx in (*range(4, 8), *range(20, 24))
        ]
        assert {failure["error"] for failure in failures} == {"ChildProcessError"}
        assert {failure["message"] for failure in failures} == {
            "2 workers died at this chunk: "
            "the worker process was ended by SIGKILL (which is what happens if memory runs out)"
        }
        with opened(directory) as run:
            assert executor.execute(run, Sums(24)) == Tally(rows_added=8, rows_reused=16, rows_failed=0)


def test_exceptions_and_bad_rows_are_recorded_as_in_one_process(kept: PoolExecutor, tmp_path: Path) -> None:
    seen = []
    for name, executor in (("one", local()), ("several", kept)):
        with opened(tmp_path / name) as run:
            assert executor.execute(run, Failing(24)) == Tally(rows_added=8, rows_reused=0, rows_failed=16)
            failures = [(failure["key"], failure["error"], failure["message"]) for failure in run.failures()]
            seen.append((failures, list(run.rows())))
    assert seen[0] == seen[1]
    assert seen[0][0][0][1:] == ("Clumsy", "it broke because it could")


def test_three_failed_chunks_in_a_row_stop_the_pass_with_the_last_error(directory: Path) -> None:
    poison: dict[int, BaseException] = {idx: ValueError(f"item {idx}") for idx in (0, 4, 12, 16, 20)}
    with opened(directory) as run, pool() as executor:
        with pytest.raises(
            RunError, match=r"3 chunks in a row failed, the last with ValueError: item 20; 4 rows are kept"
        ) as caught:
            executor.execute(run, Sums(60, poison=poison))
        assert "perform" in "".join(getattr(caught.value.__cause__, "__notes__", [])), (
            "the worker's traceback comes along"
        )
        assert [row["idx"] for row in run.rows()] == [8, 9, 10, 11]
        assert len(list(run.failures())) == 20


def test_a_full_disk_in_a_worker_stops_the_pass_as_it_does_here(directory: Path) -> None:
    with opened(directory) as run, pool(num_workers=1) as executor:
        with pytest.raises(RunError, match="make room"):
            executor.execute(run, Sums(8, poison={1: RunError("make room")}))
        assert list(run.failures()) == []


def test_a_work_that_workers_cannot_load_stops_the_pass(directory: Path) -> None:
    with opened(directory) as run, pool(num_workers=1) as executor:
        with pytest.raises(
            RunError, match=r"could not be loaded by a worker process \(FileNotFoundError: no weights here\)"
        ):
            executor.execute(run, Unloadable(8))
        assert list(run.failures()) == []


def test_a_program_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        f"sys.path.append({TESTS!r})\n"
        "from test_pool import *\n"
        "with opened(Path(sys.argv[1])) as run:\n"
        "    pool(num_workers=1).execute(run, Sums(8))\n"
    )
    env = os.environ | {"PYTHONPATH": SOURCE}
    done = subprocess.run(
        [sys.executable, program, tmp_path / "run"], env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "RunError: the worker process ended with exit code 1 while it started" in done.stderr
    assert 'has to stand under `if __name__ == "__main__":`' in done.stderr


def test_a_work_that_cannot_be_pickled_is_done_here_and_says_so(directory: Path, kept: PoolExecutor) -> None:
    work = Where(8)
    work.lock = open(os.devnull)  # type: ignore[attr-defined]  # noqa: SIM115, PTH123
    with opened(directory) as run:
        with pytest.warns(
            UserWarning,
            match=r"Where cannot be sent to worker processes \(cannot pickle .*\); it is done in this one",
        ):
            kept.execute(run, work)
        assert pids(run) == {os.getpid()}
        with pytest.warns(UserWarning, match="an open run stays in its process"):
            kept.execute(run, Holding(run))
    work.lock.close()  # type: ignore[attr-defined]


class Holding(Sums):
    def __init__(self, held: object) -> None:
        super().__init__(12)
        self.held = held


def test_a_model_in_memory_is_not_sent_to_workers(directory: Path, kept: PoolExecutor) -> None:
    import torch

    with opened(directory) as run, pytest.warns(UserWarning, match="a Linear in memory stays in its process"):
        kept.execute(run, Holding({"model": torch.nn.Linear(2, 2)}))


def test_copies_of_a_model_on_a_gpu_are_told_of(directory: Path) -> None:
    with (
        opened(directory) as run,
        pool(num_workers=1) as executor,
        pytest.warns(UserWarning, match="its own copy of the model on the GPU"),
    ):
        executor.execute(run, OnGPU(8))


def test_an_executor_with_impossible_settings_is_refused() -> None:
    for name in ("num_workers", "chunk_size", "max_failed_chunks", "threads_per_worker"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1; 0 was given"):
            PoolExecutor(**{name: 0})  # type: ignore[arg-type]


def test_progress_is_shown_as_by_one_process(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with opened(directory) as run:
        local().execute(run, Sums(4))
        with PoolExecutor(chunk_size=4) as executor:
            executor.execute(run, Sums(12))
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith("sum: 4/12 (4 reused)")
    assert "sum: 12/12" in errors.splitlines()[-1]


# --- stopped at any moment


def started(directory: Path) -> subprocess.Popen[str]:
    """A process, leader of its group, whose two workers get stuck after 16 items."""
    code = (
        "from test_pool import *\n"
        "with opened(Path(sys.argv[1])) as run:\n"
        "    pool().execute(run, Where(400, num_quick=16))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, TESTS])}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        env=env,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )


def num_rows(directory: Path) -> int:
    path = directory / "journal.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def members(group: int) -> list[int]:
    """The processes of a group: the leader, the resource tracker of `multiprocessing`, the workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(path.parent.name))
    return found


def test_workers_do_not_outlive_a_killed_process_and_its_run_goes_on(directory: Path) -> None:
    child = started(directory)
    assert comes_true(lambda: num_rows(directory) == 16 and len(members(child.pid)) == 4, within_s=30)
    time.sleep(0.5)  # until both are stuck
    child.kill()
    child.wait()
    assert comes_true(lambda: members(child.pid) == [], within_s=5)
    child.communicate()
    with opened(directory) as run:
        assert local().execute(run, Where(40)) == Tally(rows_added=24, rows_reused=16, rows_failed=0)


@pytest.mark.parametrize("moment", ["stuck", "starting"])
def test_an_interrupt_ends_all_at_once_without_a_word_from_the_workers(directory: Path, moment: str) -> None:
    child = started(directory)
    assert comes_true(lambda: len(members(child.pid)) == 4, within_s=30)
    if moment == "stuck":
        assert comes_true(lambda: num_rows(directory) == 16, within_s=30)
    else:
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGINT)
    errors = child.communicate(timeout=10)[1]
    assert child.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "leaked" not in errors
    assert comes_true(lambda: members(child.pid) == [], within_s=5)
    with opened(directory) as run:
        assert list(run.failures()) == []
        assert local().execute(run, Where(40)).rows_failed == 0


# --- policies travel as their path


def test_a_loaded_policy_is_loaded_again_where_it_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle

    from checkpoints import make_checkpoint
    from forkpoint.policies.local import LocalPolicy

    monkeypatch.chdir(tmp_path)
    make_checkpoint(tmp_path / "model")
    policy = LocalPolicy.load("model", batch_size=3, template="Q: {question}\nA:")
    data = pickle.dumps(policy)
    assert len(data) < 1000, "the weights do not travel"
    monkeypatch.chdir("/")
    twin = pickle.loads(data)
    assert twin.name == policy.name
    requests = [
        Request(policy.encode_question("1+1"), max_tokens=8, temperature=1.0, seed=seed) for seed in range(4)
    ]
    assert twin.generate(requests) == policy.generate(requests)
    make_checkpoint(tmp_path / "model", seed=1)
    with pytest.raises(
        ValueError, match=r"held model-\w+ when it was loaded and holds model-\w+ now; load the policy again"
    ):
        pickle.loads(data)


def test_a_policy_of_a_model_in_memory_cannot_be_pickled() -> None:
    import pickle

    from checkpoints import make_model, make_tokenizer
    from forkpoint.policies.local import LocalPolicy

    with pytest.raises(
        TypeError, match="policy mine was made of a model in memory and cannot be pickled; save the model"
    ):
        pickle.dumps(LocalPolicy(make_model(), make_tokenizer(), "mine"))
