"""Workers of a Ray cluster write the journal that one process would have written, whatever happens to them.

One cluster serves all tests. Workers import this file.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forkpoint.errors import RunError
from forkpoint.formats.labels_file import LABELS
from forkpoint.lab.problem_set import lab_problems
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems
from forkpoint.policies import ScriptedPolicy, load_policy
from forkpoint.records import Problem
from forkpoint.runs.parcel import forget_policy, parcel_of
from forkpoint.runs.work import Executor, Tally, Work
from forkpoint.runs.worker import CHUNKS_AHEAD
from forkpoint.solutions.work import TreeWork
from forkpoint.trees.grow import TreeConfig
from test_pool import (
    SCRIPT,
    Deadly,
    Failing,
    Holding,
    Slow,
    Unloadable,
    Where,
    comes_true,
    is_running,
    local,
    num_rows,
    pids,
)
from test_runs import SOURCE, TESTS, Sums, opened

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'forkpoint[ray]'")

from forkpoint.runs.ray import NUM_ATTEMPTS, RayExecutor, _room  # noqa: E402 (needs Ray)

pytestmark = pytest.mark.slow

PATIENCE_S = 180.0
"""With a busy machine."""
NUM_CPUS = 4
"""That the cluster thinks it has: two workers are kept, and tests have two more of their own at most."""
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([SOURCE, TESTS]),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and those that these have started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray that was there before any executor."""
    before = descendants(os.getpid())
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        ray.init(
            "local",
            num_cpus=NUM_CPUS,
            num_gpus=1,
            object_store_memory=100_000_000,
            include_dashboard=False,
            log_to_driver=False,
        )
        yield ray.get_runtime_context().gcs_address
        started = descendants(os.getpid()) - before
        ray.shutdown()
    assert comes_true(lambda: not any(map(is_running, started)), PATIENCE_S), (
        "processes of Ray are left behind"
    )


def many(num_workers: int = 2, chunk_size: int = 4, **settings: Any) -> RayExecutor:
    return RayExecutor(num_workers, chunk_size=chunk_size, progress=False, **settings)


@pytest.fixture(scope="module")
def kept(cluster: str) -> Iterator[RayExecutor]:
    """Two workers for all tests that do them no harm."""
    with many() as executor:
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


# --- the same journal


def test_the_journal_is_that_of_one_process(kept: RayExecutor, journal: Journal) -> None:
    problems = [Problem(f"p{idx}", f"question {idx}", str(1 + idx % 2)) for idx in range(30)]
    for work in (Sums(50), TreeWork(ScriptedPolicy(SCRIPT), problems, TreeConfig(tau=0.5, num_leaves=4))):
        assert journal(kept, work) == journal(local(), work)


def test_labels_by_a_model_are_those_of_one_process(kept: RayExecutor, tmp_path: Path) -> None:
    import torch

    def labelled(name: str, executor: Executor) -> tuple[bytes, bytes]:
        """Sampled in one pass and rolled out in another."""
        tree, plan = TreeConfig(tau=0.3, max_tokens=40), RolloutPlan(num_solutions=2, num_rollouts=2)
        problems = lab_problems("test", num=4)
        summary = label_problems(
            problems, load_policy("lab"), tmp_path / name, tree, LabelConfig(), executor, Sampling(plan)
        )
        assert (summary.num_problems, summary.num_failed) == (4, 0)
        assert summary.num_labels > 4
        return (tmp_path / name / "journal.jsonl").read_bytes(), (tmp_path / name / LABELS).read_bytes()

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert labelled("many", kept) == labelled("one", local())
    finally:
        torch.set_num_threads(num_threads)


def test_rows_wait_for_slower_chunks_before_them_and_chunks_do_not_run_far_ahead(
    kept: RayExecutor, directory: Path, marks: Path
) -> None:
    with opened(directory) as run:
        kept.execute(run, Slow(80, marks=marks))
        assert [row["idx"] for row in run.rows()] == list(range(80))
        assert next(run.rows())["num_begun"] == 2 * CHUNKS_AHEAD


def test_workers_are_other_processes_with_threads_and_gpus_of_their_own_and_stay_until_the_end(
    cluster: str, tmp_path: Path
) -> None:
    with many(num_workers=1, cpus_per_worker=2, gpus_per_worker=1) as executor:
        seen = []
        for name in ("first", "second"):
            with opened(tmp_path / name) as run:
                executor.execute(run, Place(8))
                seen.append(pids(run))
                assert {(row["omp"], row["gpus"]) for row in run.rows()} == {("2", "0")}
        workers = seen[0]
        assert seen[1] == workers
        assert len(workers) == 1
        assert os.getpid() not in workers
        assert all(map(is_running, workers))
    assert comes_true(lambda: not any(map(is_running, workers)), PATIENCE_S)
    assert ray.is_initialized(), "it was there before"


class Place(Where):
    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        return [row | {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")} for row in super().perform(idxs)]


def test_a_worker_without_a_gpu_of_its_own_sees_none(kept: RayExecutor, directory: Path) -> None:
    with opened(directory) as run:
        kept.execute(run, Place(8))
        assert {row["gpus"] for row in run.rows()} == {""}


def test_a_policy_is_loaded_once_for_all_works_that_hold_it(directory: Path) -> None:
    def unpacked(policy: ScriptedPolicy) -> ScriptedPolicy:
        parcel = parcel_of(run, Holding([policy, "other work"] * len(loaded)), chunk_size=4)
        assert parcel is not None
        twin: ScriptedPolicy = pickle.loads(parcel).held[0]
        return twin

    loaded = [1]
    one, other = ScriptedPolicy(SCRIPT), ScriptedPolicy({"": {"one": 1.0}})
    with opened(directory) as run:
        try:
            first = unpacked(one)
            loaded.append(2)
            assert unpacked(one) is first is not one
            assert unpacked(other) is not first
            assert unpacked(one) is not first, "only one is kept"
        finally:
            forget_policy()


# --- what fails


def test_a_worker_killed_in_the_middle_of_a_chunk_costs_nothing_but_time(
    kept: RayExecutor, journal: Journal, marks: Path
) -> None:
    def kill() -> None:
        comes_true(lambda: any(marks.iterdir()), PATIENCE_S)
        os.kill(int(next(marks.iterdir()).name), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert journal(kept, Hunted(40, marks=marks)) == journal(local(), Sums(40))
    killer.join()
    assert len(list(marks.iterdir())) == 1


@dataclass
class Hunted(Sums):
    """The first process that comes to the ninth item says so, and waits for its end."""

    marks: Path = Path()

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        if 9 in idxs and not any(self.marks.iterdir()):
            (self.marks / str(os.getpid())).touch()
            time.sleep(10 * PATIENCE_S)
        return super().perform(idxs)


def test_a_chunk_that_kills_every_worker_is_recorded_and_owed_again_while_others_go_on(
    kept: RayExecutor, directory: Path, marks: Path
) -> None:
    work = Deadly(24, marks=marks, num_kills=9)
    with opened(directory) as run:
        assert kept.execute(run, work) == Tally(rows_added=20, rows_reused=0, rows_failed=4)
        assert [row["idx"] for row in run.rows()] == [*range(4), *range(8, 24)]
        failures = list(run.failures())
    assert len(list(marks.iterdir())) == NUM_ATTEMPTS == 3
    assert [failure["key"] for failure in failures] == work.keys[4:8]
    assert {failure["error"] for failure in failures} == {"ChildProcessError"}
    assert all(
        failure["message"].startswith("3 workers died at this chunk: The actor died unexpectedly")
        for failure in failures
    )
    with opened(directory) as run:
        assert kept.execute(run, Sums(24)) == Tally(rows_added=4, rows_reused=20, rows_failed=0)


def test_exceptions_and_bad_rows_are_recorded_as_in_one_process(kept: RayExecutor, tmp_path: Path) -> None:
    seen = []
    for name, executor in (("one", local()), ("many", kept)):
        with opened(tmp_path / name) as run:
            assert executor.execute(run, Failing(24)) == Tally(rows_added=8, rows_reused=0, rows_failed=16)
            failures = [(failure["key"], failure["error"], failure["message"]) for failure in run.failures()]
            seen.append((failures, list(run.rows())))
    assert seen[0] == seen[1]
    assert seen[0][0][0][1:] == ("Clumsy", "it broke because it could")


def test_failed_chunks_in_a_row_stop_the_pass_with_the_last_error(cluster: str, directory: Path) -> None:
    poison: dict[int, BaseException] = {idx: ValueError(f"item {idx}") for idx in (0, 8, 12)}
    with opened(directory) as run, many(num_workers=1, max_failed_chunks=2) as executor:
        with pytest.raises(
            RunError, match=r"2 chunks in a row failed, the last with ValueError: item 12; 4 rows are kept"
        ) as caught:
            executor.execute(run, Sums(60, poison=poison))
        assert "perform" in "".join(getattr(caught.value.__cause__, "__notes__", [])), (
            "the worker's traceback comes along"
        )


def test_a_work_that_workers_cannot_load_stops_the_pass(cluster: str, directory: Path) -> None:
    with opened(directory) as run, many(num_workers=1) as executor:
        with pytest.raises(
            RunError,
            match=r"on .* the work could not be loaded by a worker process "
            r"\(FileNotFoundError: no weights here\)",
        ):
            executor.execute(run, Unloadable(8))
        with pytest.raises(
            RunError, match=r"do not start: The actor died unexpectedly.*a worker needs room for the model"
        ):
            executor.execute(run, TooLarge(8, marks=directory))
        assert list(run.failures()) == []
        assert len(list(directory.glob("killed-*"))) == NUM_ATTEMPTS


@dataclass
class TooLarge(Sums):
    """Kills the process that loads it."""

    marks: Path = Path()

    def __setstate__(self, state: dict[str, Any]) -> None:
        (state["marks"] / f"killed-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_work_that_cannot_be_pickled_is_done_here_and_says_so(kept: RayExecutor, directory: Path) -> None:
    work = Where(8)
    with opened(directory) as run, open(os.devnull) as file:  # noqa: PTH123
        work.file = file  # type: ignore[attr-defined]
        with pytest.warns(
            UserWarning,
            match=r"Where cannot be sent to worker processes \(cannot pickle .*\); it is done in this one",
        ):
            kept.execute(run, work)
        assert pids(run) == {os.getpid()}


# --- the cluster


def test_workers_for_which_the_cluster_has_no_room_are_refused_at_once(cluster: str, directory: Path) -> None:
    with opened(directory) as run:
        for settings, message in (
            (
                {"num_workers": 5},
                "5 workers with 1 CPUs and 0 GPUs each were asked for; the Ray cluster has room for 4",
            ),
            (
                {"cpus_per_worker": 3},
                "2 workers with 3 CPUs and 0 GPUs each were asked for; the Ray cluster has room for 1",
            ),
            (
                {"gpus_per_worker": 1},
                "2 workers with 1 CPUs and 1 GPUs each were asked for; the Ray cluster has room for 1",
            ),
        ):
            with pytest.raises(ValueError, match=message), many(**settings) as executor:
                executor.execute(run, Sums(8))
        assert run.num_rows == 0


def test_a_worker_has_its_room_on_one_machine_and_its_share_on_one_gpu() -> None:
    machine = {"CPU": 32.0, "GPU": 4.0, "memory": 1e9}
    rooms = [
        (1, 0, 32),
        (5, 0, 6),
        (1, 1, 4),
        (16, 1, 2),
        (1, 2, 2),
        (1, 3, 1),
        (1, 8, 0),
        (1, 0.5, 8),
        (1, 0.3, 12),
        (1, 0.1, 32),
    ]
    assert [_room(machine, num_cpus, num_gpus) for num_cpus, num_gpus, _ in rooms] == [
        room for *_, room in rooms
    ]
    assert _room({"CPU": 8.0}, 1, 1) == 0


def test_an_executor_with_impossible_settings_is_refused() -> None:
    for name in ("num_workers", "cpus_per_worker", "chunk_size", "max_failed_chunks"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1; 0 was given"):
            many(**{name: 0})
    for num_gpus in (-1, 1.5):
        with pytest.raises(
            ValueError, match=f"a whole number, or a fraction of one GPU; {num_gpus} was given"
        ):
            RayExecutor(gpus_per_worker=num_gpus)


# --- programs


def program(code: str, *args: object) -> subprocess.Popen[str]:
    """Another Python that has everything in this file."""
    command = [sys.executable, "-c", code, *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=os.environ | ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


JOB = """
from test_ray import *
with opened(Path(sys.argv[1])) as run, many(address=sys.argv[2]) as executor:
    executor.execute(run, Barred(40, bars=Path(sys.argv[3])))
"""


@dataclass
class Barred(Sums):
    """Goes on by twelve items for every bar that is lifted."""

    bars: Path = Path()

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        comes_true(lambda: len(list(self.bars.iterdir())) * 12 > idxs[0], 10 * PATIENCE_S)
        return super().perform(idxs)


def test_workers_do_not_outlive_a_killed_program_and_its_run_goes_on(
    cluster: str, kept: RayExecutor, directory: Path, marks: Path, journal: Journal
) -> None:
    for num_bars, address in enumerate(("local", cluster), 1):
        (marks / address).touch()
        child = program(JOB, directory, address, marks)

        def is_done(num_wanted: int = 12 * num_bars, child: subprocess.Popen[str] = child) -> bool:
            return num_rows(directory) == num_wanted or child.poll() is not None

        assert comes_true(is_done, PATIENCE_S)
        processes = descendants(child.pid)
        workers = {
            pid for pid in processes if Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::Performer")
        }
        assert len(workers) == (2 if address == "local" else 0), "a Ray of its own, or none"
        child.kill()
        assert child.communicate() == ("", "")
        assert num_rows(directory) == 12 * num_bars
        assert comes_true(lambda: not any(map(is_running, workers)), PATIENCE_S)  # noqa: B023
        for pid in filter(is_running, processes):  # helpers that Ray ends a minute later
            os.kill(pid, signal.SIGKILL)
    assert comes_true(lambda: ray.available_resources().get("CPU", 0) == NUM_CPUS - 2, PATIENCE_S), (
        "only those kept here are left"
    )
    with opened(directory) as run:
        assert kept.execute(run, Sums(40)) == Tally(rows_added=16, rows_reused=24, rows_failed=0)
    assert (directory / "journal.jsonl").read_bytes() == journal(local(), Sums(40))


def test_an_address_where_no_cluster_is_ends_at_once(directory: Path) -> None:
    done = program(
        "from test_ray import *\n"
        "with opened(Path(sys.argv[1])) as run: many(address='127.0.0.1:1').execute(run, Sums(4))",
        directory,
    )
    errors = done.communicate(timeout=PATIENCE_S)[1]
    assert "ConnectionError: there is no Ray cluster at 127.0.0.1:1" in errors


def test_without_ray_the_package_works_and_the_executor_says_what_to_install() -> None:
    done = program(
        "import sys\nsys.modules['ray'] = None\n"
        "import forkpoint.runs, forkpoint.cli\nimport forkpoint.runs.ray"
    )
    errors = done.communicate(timeout=PATIENCE_S)[1]
    assert "pip install 'forkpoint[ray]'" in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("ModuleNotFoundError: work on several machines needs Ray")
