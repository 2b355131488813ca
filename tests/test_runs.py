"""Runs: stopped at any moment, they continue from there; failures are recorded and owed again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import forkpoint
from forkpoint.content_key import content_key
from forkpoint.errors import ConfigDiffers, JournalCorrupt, RunError, RunLocked
from forkpoint.runs import LocalExecutor, Run
from forkpoint.runs import run as run_module
from forkpoint.runs.progress import BarDisplay, LineDisplay, Pace, display
from forkpoint.runs.work import Executor, Tally

CONFIG: dict[str, Any] = {"seed": 1, "policy": {"name": "scripted"}}
SOURCE = str(Path(next(iter(forkpoint.__path__))).parent)
TESTS = str(Path(__file__).parent)


@dataclass
class Sums:
    """Work whose rows depend on who else is in the chunk, as the last bits of batched arithmetic do."""

    stays_here = False
    shows_progress = True

    num_items: int
    sleep_s: float = 0.0
    poison: dict[int, BaseException] = field(default_factory=dict)
    calls: list[list[int]] = field(default_factory=list)

    @property
    def keys(self) -> Sequence[str]:
        return [content_key({"item": idx}) for idx in range(self.num_items)]

    def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
        self.calls.append(list(idxs))
        for idx in idxs:
            time.sleep(self.sleep_s)
            if idx in self.poison:
                raise self.poison[idx]
        return [{"idx": idx, "share": idx / (1 + sum(idxs)), "text": "x" * (idx % 50)} for idx in idxs]


def opened(directory: Path) -> Run:
    return Run.open(directory, "sum", CONFIG)


def quiet(chunk_size: int = 4, **settings: Any) -> Executor:
    return LocalExecutor(chunk_size=chunk_size, progress=False, **settings)


def started(code: str, *args: object, **settings: Any) -> subprocess.Popen[str]:
    """Another Python that has everything in this file."""
    command = [sys.executable, "-c", f"from test_runs import *\n{code}", *map(str, args)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([SOURCE, TESTS])}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def uninterrupted(tmp_path: Path) -> Callable[[int, int], bytes]:
    """The journal of a run that nothing stops."""

    def journal(num_items: int, chunk_size: int) -> bytes:
        with opened(tmp_path / "uninterrupted") as run:
            quiet(chunk_size).execute(run, Sums(num_items))
        return (tmp_path / "uninterrupted" / "journal.jsonl").read_bytes()

    return journal


# --- the directory


def test_the_configuration_is_written_first_with_the_version_outside_of_it(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "__version__", "9.8.7")
    with opened(directory / "new" / "run") as run:
        assert not (run.directory / "manifest.json").exists()
        settings = json.loads((run.directory / "config.json").read_text())
    assert settings["command"] == "sum"
    assert settings["config"] == CONFIG
    assert settings["version"] == "9.8.7"
    monkeypatch.setattr(run_module, "__version__", "9.9.0")
    opened(directory / "new" / "run").close()


def test_a_start_killed_before_its_configuration_can_be_started_again(directory: Path) -> None:
    directory.mkdir()
    (directory / "lock").touch()
    (directory / "config.json.tmp").write_text("{")
    with opened(directory) as run:
        assert run.config == CONFIG
    assert not (directory / "config.json.tmp").exists()


def test_a_full_disk_at_the_start_leaves_a_directory_that_can_be_started(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunError, match=r"No space left on device.*make room"):
        patch.setattr(os, "fsync", fsync)
        opened(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["lock"]
    opened(directory).close()


def test_a_directory_of_something_else_is_refused_and_left_alone(directory: Path) -> None:
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds notes.txt but no config.json, so it is not a run"):
        opened(directory)
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]
    with pytest.raises(NotADirectoryError, match="is a file"):
        opened(directory / "notes.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "qwen2"}', "is not the configuration of a run"),
        ("[]", "is not the configuration of a run"),
        ("{", "is not JSON"),
        ('{"format": 99, "command": "sum", "config": {}}', "format 99; this version reads format 1"),
    ],
)
def test_a_configuration_of_something_else_is_refused(directory: Path, text: str, message: str) -> None:
    directory.mkdir()
    (directory / "config.json").write_text(text)
    for use in (opened, Run.read):
        with pytest.raises(RunError, match=message):
            use(directory)
    assert (directory / "config.json").read_text() == text
    assert not (directory / "journal.jsonl").exists()


def test_another_configuration_is_refused_naming_each_key_with_both_values(directory: Path) -> None:
    Run.open(
        directory, "sum", {"seed": 1, "tau": 0.5, "policy": {"name": "a", "dtype": "bf16"}, "old": [1]}
    ).close()
    with pytest.raises(ConfigDiffers) as caught:
        Run.open(directory, "max", {"seed": 1, "tau": 1, "policy": {"name": "b", "dtype": "bf16"}, "new": {}})
    assert str(caught.value).splitlines()[1:] == [
        '  command: "sum" there, "max" here',
        "  new: nothing there, {} here",
        "  old: [1] there, nothing here",
        '  policy.name: "a" there, "b" here',
        "  tau: 0.5 there, 1 here",
    ]


def test_the_same_configuration_in_another_order_or_with_tuples_is_the_same(directory: Path) -> None:
    Run.open(directory, "sum", {"a": 1, "b": (1, 2)}).close()
    Run.open(directory, "sum", {"b": [1, 2], "a": 1}).close()


def test_a_configuration_that_is_not_json_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Run.open(directory, "sum", {"eta": float("inf")})
    assert not directory.exists()


def test_reading_needs_a_run(directory: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Run.read(directory)
    directory.mkdir()
    with pytest.raises(RunError, match=r"has no config.json"):
        Run.read(directory)


# --- the lock


def test_a_second_writer_is_refused_with_the_pid_of_the_first_and_let_in_when_that_is_killed(
    directory: Path,
) -> None:
    holder = started("run = opened(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)", directory)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=rf"is being written by process {holder.pid} on \S+ since 20"):
            opened(directory)
        assert Run.read(directory).num_rows == 0
    finally:
        holder.kill()
        holder.communicate()
    opened(directory).close()


def test_a_second_writer_in_the_same_process_is_refused_until_the_first_closes(directory: Path) -> None:
    with opened(directory), pytest.raises(RunLocked, match=f"process {os.getpid()} "):
        opened(directory)
    opened(directory).close()


def test_an_opening_that_fails_does_not_keep_the_lock(directory: Path) -> None:
    opened(directory).close()
    with pytest.raises(ConfigDiffers) as caught:
        Run.open(directory, "sum", {})
    opened(directory).close()
    assert caught.value.__traceback__ is not None, (
        "kept alive so that the lock is not freed by garbage collection"
    )


def test_a_run_is_read_while_it_is_written(directory: Path) -> None:
    with opened(directory) as run:
        run.append([("a", {"n": 1})])
        reader = Run.read(directory)
        run.append([("b", {"n": 2})])
        assert list(reader.rows()) == [{"n": 1}]
        assert list(Run.read(directory).rows()) == [{"n": 1}, {"n": 2}]


def test_a_reader_writes_nothing(directory: Path) -> None:
    opened(directory).close()
    reader = Run.read(directory)
    for write in (
        lambda: reader.append([("a", {})]),
        lambda: reader.finish({}),
        lambda: reader.record_failure(["a"], ValueError()),
    ):
        with pytest.raises(RunError, match="opened for reading"):
            write()
    (directory / "journal.jsonl").write_bytes(b"damaged\n")
    with pytest.raises(JournalCorrupt):
        Run.read(directory)
    assert (directory / "journal.jsonl").read_bytes() == b"damaged\n"


# --- the executor


def test_every_item_gets_one_row_in_item_order(directory: Path) -> None:
    with opened(directory) as run:
        work = Sums(10)
        assert quiet().execute(run, work) == Tally(rows_added=10, rows_reused=0, rows_failed=0)
        assert work.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [row["idx"] for row in run.rows()] == list(range(10))
        assert [row["idx"] for row in run.rows([work.keys[7], work.keys[2]])] == [7, 2]


def test_what_is_done_is_not_done_again(directory: Path) -> None:
    with opened(directory) as run:
        quiet().execute(run, Sums(8))
    with opened(directory) as run:
        work = Sums(12)
        assert quiet().execute(run, work) == Tally(rows_added=4, rows_reused=8, rows_failed=0)
        assert work.calls == [[8, 9, 10, 11]]


def test_a_torn_chunk_is_performed_whole_and_only_its_missing_rows_are_added(
    directory: Path, uninterrupted: Callable[[int, int], bytes]
) -> None:
    whole = uninterrupted(12, 4)
    journal_path = directory / "journal.jsonl"
    for num_bytes in random.Random(0).sample(range(len(whole)), 40):
        opened(directory).close()
        journal_path.write_bytes(whole[:num_bytes])
        num_kept = whole[:num_bytes].count(b"\n")
        with opened(directory) as run:
            work = Sums(12)
            assert quiet().execute(run, work) == Tally(
                rows_added=12 - num_kept, rows_reused=num_kept, rows_failed=0
            )
        assert work.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]][num_kept // 4 :]
        assert journal_path.read_bytes() == whole


def test_a_failing_item_is_recorded_and_its_chunk_owed_again_while_other_chunks_go_on(
    directory: Path,
) -> None:
    with opened(directory) as run:
        tally = quiet().execute(run, Sums(10, poison={5: ConnectionError("no route")}))
        assert tally == Tally(rows_added=6, rows_reused=0, rows_failed=4)
        assert [row["idx"] for row in run.rows()] == [0, 1, 2, 3, 8, 9]
    failures = list(Run.read(directory).failures())
    assert [failure.pop("time")[:2] for failure in failures] == ["20"] * 4
    keys = Sums(10).keys
    assert failures == [{"key": key, "error": "ConnectionError", "message": "no route"} for key in keys[4:8]]
    with opened(directory) as run:
        assert quiet().execute(run, Sums(10)) == Tally(rows_added=4, rows_reused=6, rows_failed=0)
        assert [row["idx"] for row in run.rows(keys)] == list(range(10))


def test_a_torn_failure_line_does_not_spoil_the_next(directory: Path) -> None:
    with opened(directory) as run:
        run.record_failure(["a", "b"], ValueError("first"))
    path = directory / "failures.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    assert [failure["key"] for failure in Run.read(directory).failures()] == ["a"]
    with opened(directory) as run:
        run.record_failure(["c"], ValueError("second"))
        assert [failure["key"] for failure in run.failures()] == ["a", "c"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"n": float("nan")}, {"n": 1}], "not JSON compliant"),
        ([{"n": 1}], "returned 1 rows for 2 items"),
        ([{"n": 1}, {"sum": 1}], "the field 'sum'"),
    ],
)
def test_rows_that_cannot_be_kept_are_a_failure(
    directory: Path, rows: list[dict[str, Any]], message: str
) -> None:
    class Bad(Sums):
        def perform(self, idxs: Sequence[int]) -> list[dict[str, Any]]:
            return rows

    with opened(directory) as run:
        assert quiet().execute(run, Bad(2)) == Tally(rows_added=0, rows_reused=0, rows_failed=2)
        assert [message in failure["message"] for failure in run.failures()] == [True, True]


def test_a_work_of_many_small_rounds_is_not_shown(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Round(Sums):
        shows_progress = False

    with opened(directory) as run:
        LocalExecutor(chunk_size=4).execute(run, Round(4))
        assert capsys.readouterr().err == ""
        LocalExecutor(chunk_size=4).execute(run, Sums(8))
        assert "8/8" in capsys.readouterr().err


def test_three_failed_chunks_in_a_row_stop_the_pass_with_the_last_error(directory: Path) -> None:
    poison: dict[int, BaseException] = {idx: ValueError(f"item {idx}") for idx in (0, 4, 12, 16, 20)}
    with opened(directory) as run:
        work = Sums(40, poison=poison)
        with pytest.raises(
            RunError, match=r"3 chunks in a row failed, the last with ValueError: item 20; 4 rows are kept"
        ) as caught:
            quiet().execute(run, work)
        assert caught.value.__cause__ is poison[20]
        assert len(work.calls) == 6, "a chunk that works starts the count anew"
        assert len(list(run.failures())) == 20


def test_an_interrupt_goes_through_and_finished_rows_stay(directory: Path) -> None:
    with pytest.raises(KeyboardInterrupt), opened(directory) as run:
        quiet().execute(run, Sums(12, poison={6: KeyboardInterrupt()}))
    with opened(directory) as run:
        assert list(run.failures()) == []
        assert quiet().execute(run, Sums(12)) == Tally(rows_added=8, rows_reused=4, rows_failed=0)


def test_two_items_with_one_key_are_refused(directory: Path) -> None:
    class Doubled(Sums):
        @property
        def keys(self) -> Sequence[str]:
            return ["a", "b", "a"]

    with opened(directory) as run, pytest.raises(ValueError, match="items 0 and 2 have the same key a"):
        quiet().execute(run, Doubled(3))


def test_an_executor_with_impossible_settings_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size must be at least 1; 0 was given"):
        LocalExecutor(chunk_size=0)
    with pytest.raises(ValueError, match="max_failed_chunks must be at least 1; 0 was given"):
        LocalExecutor(max_failed_chunks=0)


# --- the end


def test_a_manifest_says_what_the_journal_holds(directory: Path) -> None:
    with opened(directory) as run:
        quiet().execute(run, Sums(5))
        assert not run.is_finished
        run.finish({"accuracy": 0.5})
        assert run.is_finished
    manifest = Run.read(directory).manifest
    assert manifest is not None
    assert manifest["num_rows"] == 5
    assert (
        manifest["journal_digest"]
        == hashlib.blake2b((directory / "journal.jsonl").read_bytes(), digest_size=16).hexdigest()
    )
    assert manifest["summary"] == {"accuracy": 0.5}
    assert manifest["seconds"] >= 0


def test_a_finished_run_opened_again_with_nothing_to_do_stays_as_it_is(directory: Path) -> None:
    for _ in range(2):
        with opened(directory) as run:
            quiet().execute(run, Sums(5))
            run.finish({"n": 5})
            first = (directory / "manifest.json").read_bytes()
        time.sleep(0.01)
        with opened(directory) as run:
            assert run.is_finished
            assert quiet().execute(run, Sums(5)) == Tally(rows_added=0, rows_reused=5, rows_failed=0)
            run.finish({"n": 5})
        assert (directory / "manifest.json").read_bytes() == first


def test_a_finished_run_that_gains_rows_is_unfinished_until_the_manifest_is_rewritten(
    directory: Path,
) -> None:
    with opened(directory) as run:
        run.append([("a", {})])
        run.finish({})
        run.append([("a", {"n": 2})])
        assert run.is_finished, "nothing was added"
        run.append([("b", {})])
        assert not run.is_finished
        assert not (directory / "manifest.json").exists()
        run.finish({})
        assert Run.read(directory).is_finished
        run.finish({"n": 2})
        assert (run.manifest or {})["summary"] == {"n": 2}


@pytest.mark.filterwarnings("ignore:.*damaged lines")
def test_a_manifest_of_another_journal_does_not_count(directory: Path) -> None:
    with opened(directory) as run:
        run.append([("a", {"n": 1}), ("b", {"n": 2})])
        run.finish({})
    path = directory / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert not Run.read(directory).is_finished
    with opened(directory) as run:
        assert not run.is_finished
        assert not (directory / "manifest.json").exists()


def test_seconds_go_on_where_a_killed_writer_last_added_a_row(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("forkpoint.runs.lock.time.monotonic", lambda: now)
    with opened(directory) as run:
        now += 7
        run.append([("a", {})])
        now += 100  # killed some time here: closing notes nothing
    now = 0.0
    with opened(directory) as run:
        now += 5
        run.finish({})
        assert (run.manifest or {})["seconds"] == 12


# --- stopped at any moment


@pytest.mark.slow
def test_a_run_killed_thirty_times_ends_byte_for_byte_like_one_that_never_was(
    directory: Path, uninterrupted: Callable[[int, int], bytes]
) -> None:
    num_items, chunk_size = 1000, 3
    whole = uninterrupted(num_items, chunk_size)
    chance = random.Random(12)
    code = """
with opened(Path(sys.argv[1])) as run:
    print("open", flush=True)
    tally = quiet(int(sys.argv[3])).execute(run, Sums(int(sys.argv[2]), sleep_s=float(sys.argv[4])))
    run.finish({})
print(tally.rows_added, tally.rows_reused, flush=True)
"""
    num_rows_seen = [0]
    for attempt in range(30):
        child = started(code, directory, num_items, chunk_size, 0.01)
        assert child.stdout is not None
        if attempt % 5:  # the others are killed while they start
            assert child.stdout.readline() == "open\n"
        time.sleep(chance.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL, "the work must outlast the kills"
        journal_path = directory / "journal.jsonl"
        data = journal_path.read_bytes() if journal_path.exists() else b""
        assert whole.startswith(data)
        num_rows_seen.append(data.count(b"\n"))
    assert num_rows_seen == sorted(num_rows_seen)
    assert len(set(num_rows_seen)) > 5, "the kills must hit the work"
    output, errors = started(code, directory, num_items, chunk_size, 0).communicate()
    assert output.split() == ["open", str(num_items - num_rows_seen[-1]), str(num_rows_seen[-1])], errors
    assert (directory / "journal.jsonl").read_bytes() == whole
    assert Run.read(directory).is_finished


def test_a_run_that_fills_the_disk_stops_and_goes_on_when_there_is_room(
    directory: Path, uninterrupted: Callable[[int, int], bytes]
) -> None:
    whole = uninterrupted(200, 8)
    code = """
with opened(Path(sys.argv[1])) as run:
    quiet(8).execute(run, Sums(200))
"""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, resource.RLIM_INFINITY))

    child = started(code, directory, preexec_fn=limit)
    errors = child.communicate()[1]
    assert child.returncode == 1
    assert "RunError" in errors
    assert "File too large" in errors
    assert "every line before is kept: make room, then run the same command again" in errors
    data = (directory / "journal.jsonl").read_bytes()
    assert whole.startswith(data)
    assert data.endswith(b"\n")
    assert data.count(b"\n") % 8 == 0
    assert len(data) > len(whole) // 4
    with opened(directory) as run:
        assert list(run.failures()) == [], "a full disk is not the items' fault"
        quiet(8).execute(run, Sums(200))
    assert (directory / "journal.jsonl").read_bytes() == whole


# --- progress


class Clock:
    """Time that passes when told to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_reused_rows_count_as_done_but_not_as_speed(clock: Clock) -> None:
    pace = Pace(num_total=100, num_reused=40, clock=clock)
    assert (pace.num_settled, pace.items_per_s, pace.left_s) == (40, None, None)
    clock.now_s += 10
    pace.advance(20, num_failed=5)
    assert (pace.num_settled, pace.items_per_s, pace.left_s) == (60, 2.0, 20.0)
    clock.now_s += 4
    assert (pace.elapsed_s, pace.items_per_s, pace.left_s) == (14.0, 2.0, 16.0)
    assert str(pace) == "60/100 (40 reused, 5 failed), 2.0/s, 0:00:14 elapsed, 0:00:16 left"
    pace.advance(40)
    assert pace.left_s == 0


def test_a_slow_rate_is_told_in_a_unit_that_fits(clock: Clock) -> None:
    pace = Pace(num_total=99, num_reused=0, clock=clock)
    clock.now_s += 60
    pace.advance(30)
    assert "30.0/min" in str(pace)
    clock.now_s += 3540
    pace.advance(15)
    assert "45.0/h" in str(pace)


def test_a_stream_that_is_no_terminal_gets_a_line_per_tenth_or_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    with display("sum", Pace(num_total=1000, num_reused=0, clock=clock), stream) as shown:
        assert isinstance(shown, LineDisplay)
        for _ in range(500):
            shown.advance(1)
        assert [line.split()[1].rstrip(",") for line in stream.getvalue().splitlines()] == [
            f"{n}/1000" for n in (0, 100, 200, 300, 400, 500)
        ]
        for _ in range(50):
            clock.now_s += 1
            shown.advance(1)
    lines = [line.split()[1].rstrip(",") for line in stream.getvalue().splitlines()]
    assert lines[6:] == [f"{n}/1000" for n in (510, 520, 530, 540, 550)]


def test_a_terminal_gets_a_bar_that_starts_with_the_reused_rows(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    with display("sum", Pace(num_total=10, num_reused=4), terminal) as shown:
        assert isinstance(shown, BarDisplay)
        assert "4/10 (4 reused)" in terminal.getvalue()
        assert drawn_share(terminal.getvalue(), until=" 4/10") == pytest.approx(0.4, abs=0.03)
        shown.advance(6)
    assert "10/10 (4 reused)" in terminal.getvalue()
    assert drawn_share(terminal.getvalue(), until=" 10/10") == 1


def drawn_share(screen: str, until: str) -> float:
    """How much of the last bar is filled; without colour the rest of it is blank."""
    bar = screen[screen.rindex("sum ") + len("sum ") : screen.rindex(until)]
    return bar.count("━") / len(bar)


def test_progress_goes_to_stderr_and_can_be_turned_off(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(directory) as run:
        quiet().execute(run, Sums(4))
        assert capsys.readouterr() == ("", "")
        LocalExecutor(chunk_size=4).execute(run, Sums(8))
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("sum: 4/8 (4 reused)")
    assert "sum: 8/8" in errors.splitlines()[-1]
