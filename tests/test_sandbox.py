"""The sandbox for programs: what each level of protection refuses, and that nothing is left behind.

Levels that this system does not have are skipped, with the reason that the probe gives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkpoint.grading.sandbox import choose, launch, outer, seccomp
from forkpoint.grading.sandbox.choose import level_in_force, why_not
from forkpoint.grading.sandbox.directories import PREFIX, own_directory, sweep
from forkpoint.grading.sandbox.launch import LEVELS, ON_DISK, Level, Limits, Program, Report

KERNEL: tuple[Level, ...] = LEVELS[:-1]
PRIVATE: tuple[Level, ...] = ("namespaces", "bubblewrap")
CONFINED: tuple[Level, ...] = (*PRIVATE, "landlock")
REFUSALS = (
    "refused",
    "not permitted",
    "Permission denied",
    "No such file",
    "Read-only",
    "unable to open database",
)
LIMITS = Limits(cpu_s=5, wall_s=25.0)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Level:
    return available(request.param)


def available(level: Level) -> Level:
    if reason := why_not(level):
        pytest.skip(f"the level {level} does not hold on this system: {reason}")
    return level


class Traces:
    """What programs may leave behind: processes with a mark in their environment, and files."""

    def __init__(self, homes: Path, outside: Path) -> None:
        self.mark = uuid.uuid4().hex
        self.homes = homes
        self.outside = outside

    def processes(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
            except OSError:  # gone in the meantime, or another user's
                continue
        return found

    def processes_after(self, seconds: float) -> list[int]:
        """Return the processes that are left when the others have had time to end."""
        deadline = time.monotonic() + seconds
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.processes()


@pytest.fixture
def traces(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    found = Traces(tmp_path_factory.mktemp("homes"), tmp_path_factory.mktemp("outside"))
    (found.outside / "secret").write_text("secret")
    found.outside.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(found.homes))
    monkeypatch.setitem(launch.ENVIRONMENT, "FORKPOINT_MARK", found.mark)
    yield found
    assert found.processes_after(5) == []
    assert list(found.homes.iterdir()) == []
    assert [path.name for path in found.outside.iterdir()] == ["secret"]
    assert (found.outside / "secret").read_text() == "secret"
    assert found.outside.stat().st_mode & 0o777 == 0o755


def run(program: str, level: Level, *, has_hook: bool = True, limits: Limits = LIMITS) -> Report:
    return launch.run(Program(textwrap.dedent(program), "pass"), limits, level, has_hook=has_hook)


ORDINARY = {
    "files": """
        import os, shutil, tempfile
        with open('a', 'w') as file: file.write('x' * 10_000)
        os.rename('a', 'b'); shutil.copy2('b', 'c'); os.makedirs('d/e'); shutil.rmtree('d')
        with tempfile.TemporaryDirectory() as directory:
            open(directory + '/f', 'w').close()
        with tempfile.NamedTemporaryFile() as file: file.write(b'x')
        assert sorted(os.listdir()) == ['b', 'c']
    """,
    "databases": """
        import sqlite3
        for name in ('own.db', ':memory:'):
            connection = sqlite3.connect(name)
            connection.execute('create table numbers (value)')
            connection.execute('insert into numbers values (3)')
            connection.commit()
            assert connection.execute('select value from numbers').fetchall() == [(3,)]
    """,
    "asyncio": """
        import asyncio
        async def main(): return await asyncio.gather(*(asyncio.sleep(0.01, idx) for idx in range(9)))
        assert asyncio.run(main()) == list(range(9))
        assert asyncio.run(asyncio.wait_for(asyncio.to_thread(sum, [1, 2]), 5)) == 3
    """,
    "threads": """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(16) as threads: assert sum(threads.map(abs, range(100))) == 4950
    """,
    "modules": """
        import multiprocessing.pool, concurrent.futures.process
        import datetime, decimal, hashlib, logging, random, ssl, sys, time, unittest, uuid, zlib, signal, os
        uuid.uuid4(); datetime.datetime.now().astimezone(); os.cpu_count(); os.urandom(3)
        print('out'); print('error', file=sys.stderr); open('/dev/null', 'w').write('x')
        signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.01)
        time.sleep(0.05)
    """,
}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("has_hook", [True, False], ids=["hook", "no hook"])
def test_ordinary_programs_run(name: str, level: Level, has_hook: bool, traces: Traces) -> None:
    assert run(ORDINARY[name], level, has_hook=has_hook) == Report("passed")


ATTEMPTS: dict[str, tuple[str, tuple[Level, ...]]] = {
    "a file outside": ("open('OUTSIDE/new', 'w').write('x')", CONFINED),
    "a change outside": ("open('OUTSIDE/secret', 'a').write('x')", CONFINED),
    "removing outside": ("import os; os.remove('OUTSIDE/secret')", CONFINED),
    "removing by a directory's descriptor": (
        "import os; os.remove('secret', dir_fd=os.open('OUTSIDE', os.O_RDONLY))",
        CONFINED,
    ),
    "a database outside": (
        "import sqlite3; sqlite3.connect('OUTSIDE/new.db').execute('create table t (x)')",
        CONFINED,
    ),
    "a database outside by URI": (
        "import sqlite3\nsqlite3.connect('file:OUTSIDE/new.db', uri=True).execute('create table t (x)')",
        CONFINED,
    ),
    "a named pipe outside": ("import os; os.mkfifo('OUTSIDE/pipe')", KERNEL),
    "a named pipe inside": ("import os; os.mkfifo('pipe')", KERNEL),
    "shared memory": (
        "from multiprocessing.shared_memory import SharedMemory as S; S('forkpoint-MARK', True, 9)",
        CONFINED,
    ),
    "a pool of spawned processes": (
        "import multiprocessing as m; m.get_context('spawn').Pool(1).map(abs, [1])",
        KERNEL,
    ),
    "a forked process": ("import multiprocessing as m; m.get_context('fork').Process().start()", KERNEL),
    "a fork": ("import os\nif os.fork() == 0: os._exit(0)", KERNEL),
    "a command": ("import subprocess; subprocess.run(['true'])", KERNEL),
    "another program": ("import os; os.execv('/bin/true', ['true'])", KERNEL),
    "a spawned program": ("import os; os.posix_spawn('/bin/true', ['true'], {})", KERNEL),
    "a connection": ("import socket; socket.create_connection(('127.0.0.1', PORT), 2)", KERNEL),
    "a datagram": (
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        KERNEL,
    ),
    "a socket in the file system": (
        "import socket; socket.socket(socket.AF_UNIX).bind('OUTSIDE/socket')",
        KERNEL,
    ),
    "a datagram from a pair": (
        "import socket\nsocket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', 'OUTSIDE/socket')",
        KERNEL,
    ),
    "a signal to another process": ("import os; os.kill(os.getppid(), 0)", KERNEL),
}
"""What a program might try, with the levels at which the kernel refuses it without the audit hook."""


def attempt(name: str, traces: Traces, port: int) -> str:
    program = ATTEMPTS[name][0].replace("OUTSIDE", str(traces.outside)).replace("PORT", str(port))
    return program.replace("MARK", traces.mark)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        yield server
        with pytest.raises(TimeoutError):
            server.accept()


def assert_refused(report: Report) -> None:
    assert report.end == "failed"
    assert any(refusal in report.reason for refusal in REFUSALS), report.reason
    assert not list(Path("/dev/shm").glob("forkpoint-*")), "shared memory was left behind"


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_attempt_is_refused(name: str, level: Level, traces: Traces, listener: socket.socket) -> None:
    assert_refused(run(attempt(name, traces, listener.getsockname()[1]), level))


@pytest.mark.parametrize(("name", "at"), [(name, at) for name in ATTEMPTS for at in ATTEMPTS[name][1]])
def test_the_kernel_refuses_it_without_the_hook(
    name: str, at: Level, traces: Traces, listener: socket.socket
) -> None:
    program = attempt(name, traces, listener.getsockname()[1])
    assert_refused(run(program, available(at), has_hook=False))


@pytest.mark.parametrize("at", CONFINED)
def test_a_database_opened_by_another_database_is_confined(at: Level, traces: Traces) -> None:
    program = f"""
        import sqlite3
        connection = sqlite3.connect(':memory:')
        connection.execute("attach '{traces.outside / "new.db"}' as other")
        connection.execute('create table other.t (x)')
    """
    assert_refused(run(program, available(at)))


@pytest.mark.parametrize("at", PRIVATE)
def test_a_private_file_system_shows_no_other_file(at: Level, traces: Traces) -> None:
    assert_refused(run(f"open('{traces.outside / 'secret'}').read()", available(at)))
    assert_refused(run("open('/etc/passwd').read()", available(at)))
    assert_refused(run("open('/new', 'w')", available(at), has_hook=False))


def test_files_together_are_limited(level: Level, traces: Traces) -> None:
    program = """
        for idx in range(100):
            with open(str(idx), 'w') as file: file.write('x' * 1_000_000)
        import time; time.sleep(10)
    """
    report = run(program, level)
    assert report.end == "failed"
    assert "disk space" in report.reason or "No space left" in report.reason


def test_small_files_and_removed_files_count_too(level: Level, traces: Traces) -> None:
    many = "for idx in range(9000): open(str(idx), 'w').close()\nimport time; time.sleep(10)"
    removed = """
        import os, time
        files = [open(str(idx), 'wb') for idx in range(40)]
        for idx, file in enumerate(files):
            os.remove(str(idx)); file.write(b'x' * 1_000_000); file.flush()
        time.sleep(10)
    """
    for program in (many, removed):
        report = run(program, level)
        assert report.end == "failed"
        assert "disk space" in report.reason or "No space left" in report.reason


def test_a_directory_that_cannot_be_read_ends_the_program(traces: Traces) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every directory")
    report = run("import os, time; os.mkdir('d'); os.chmod('d', 0); time.sleep(10)", "audit")
    assert report.end == "failed" and "cannot be read" in report.reason


def test_threads_are_limited(level: Level, traces: Traces) -> None:
    program = """
        import threading, time
        threading.stack_size(1 << 16)
        for _ in range(500): threading.Thread(target=time.sleep, args=(10,)).start()
    """
    report = run(program, level)
    assert report.end == "failed"
    assert "threads" in report.reason or "start new thread" in report.reason


@pytest.mark.parametrize("level", [level for level in LEVELS if level in ON_DISK])
def test_the_watcher_counts_blocks(level: Level, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "directory" / "two").write_bytes(b"x" * 4097)
    directory_blocks = -(-(tmp_path / "directory").stat().st_size // 4096) or 1
    assert outer.disk_usage(str(tmp_path), 1 << 20) == 4096 * (directory_blocks + 1 + 2)


CHILD = """
import sys, tempfile, threading
from forkpoint.grading.code import run_all
from forkpoint.grading.sandbox import launch
tempfile.tempdir, launch.ENVIRONMENT["FORKPOINT_MARK"] = sys.argv[1:]
program = "import time; open('x', 'w').close(); time.sleep(1000)"
run_all([("assert True", program + "#" * idx) for idx in range(4)], 100)
"""


def start_programs(traces: Traces, level: Level) -> subprocess.Popen[bytes]:
    """Start a process that runs four programs which sleep."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(traces.homes), traces.mark],
        env={**os.environ, choose.SETTING: level},
    )


def wait_for_programs(traces: Traces) -> None:
    """Wait until every outer process has started a program's process, which has the name of its parent."""
    deadline = time.monotonic() + 30
    while len(traces.processes()) < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    assert len(traces.processes()) >= 8


def test_a_killed_parent_leaves_neither_processes_nor_directories(level: Level, traces: Traces) -> None:
    """They are gone within seconds, without any later start."""
    parent = start_programs(traces, level)
    wait_for_programs(traces)
    parent.kill()
    parent.wait()
    assert traces.processes_after(5) == []
    deadline = time.monotonic() + 5
    while list(traces.homes.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(traces.homes.iterdir()) == []


def test_if_all_are_killed_the_next_start_removes_the_directories(level: Level, traces: Traces) -> None:
    parent = start_programs(traces, level)
    wait_for_programs(traces)
    parent.send_signal(signal.SIGSTOP)  # it must not see that they end
    for pid in traces.processes():
        with contextlib.suppress(ProcessLookupError):  # it ended with another one
            os.kill(pid, signal.SIGKILL)
    parent.kill()
    parent.wait()
    assert traces.processes_after(5) == []
    left = list(traces.homes.iterdir())
    assert len(left) == (4 if level in ON_DISK else 0)
    assert sweep() == sorted(left)


@pytest.mark.parametrize("delay_s", [0.0, 0.01, 0.03, 0.06, 0.1, 0.15])
def test_a_parent_killed_while_programs_start_leaves_nothing(
    level: Level, delay_s: float, traces: Traces
) -> None:
    """At the latest the next start removes the directory of a program whose start was interrupted."""
    parent = start_programs(traces, level)
    deadline = time.monotonic() + 30
    while not traces.processes() and time.monotonic() < deadline:
        pass
    time.sleep(delay_s)
    parent.kill()
    parent.wait()
    assert traces.processes_after(5) == []
    sweep()


def test_sweeping_spares_directories_in_use(traces: Traces) -> None:
    left = traces.homes / f"{PREFIX}left"
    (left / "deep").mkdir(parents=True)
    (left / "deep").chmod(0)
    (left / "link").symlink_to(traces.outside)
    has_ended, swept = threading.Event(), []

    def keep_sweeping() -> None:
        while not has_ended.is_set():
            swept.extend(sweep())

    sweeper = threading.Thread(target=keep_sweeping)
    sweeper.start()
    try:
        for _ in range(200):
            with own_directory() as directory:
                (directory / "file").touch()
                time.sleep(0.001)
                assert (directory / "file").exists()
    finally:
        has_ended.set()
        sweeper.join()
    assert left in swept


def test_a_sandbox_that_cannot_be_set_up_runs_no_program(
    monkeypatch: pytest.MonkeyPatch, traces: Traces
) -> None:
    available("namespaces")
    monkeypatch.setattr(launch, "visible_paths", lambda: ["/no/such/path"])
    report = run("pass", "namespaces")
    assert report.end == "not run" and "could not be set up" in report.reason


def test_the_strongest_level_that_holds_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(choose.SETTING, raising=False)
    for number, expected in enumerate(LEVELS):
        failures = {(level, sys.executable): "" for level in LEVELS}
        failures |= {(level, sys.executable): "it is missing" for level in LEVELS[:number]}
        monkeypatch.setattr(choose, "_failures", failures)
        assert level_in_force() == expected


def test_a_level_can_be_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        choose,
        "_failures",
        {("landlock", sys.executable): "", ("bubblewrap", sys.executable): "it is missing"},
    )
    monkeypatch.setenv(choose.SETTING, "landlock")
    assert level_in_force() == "landlock"
    monkeypatch.setenv(choose.SETTING, "bubblewrap")
    with pytest.raises(ValueError, match="bubblewrap, which does not hold here: it is missing"):
        level_in_force()
    monkeypatch.setenv(choose.SETTING, "docker")
    with pytest.raises(ValueError, match="'docker' is unknown; choose from namespaces, bubblewrap"):
        level_in_force()


def test_without_bubblewrap_its_level_does_not_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choose, "_failures", {("audit", sys.executable): ""})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert seccomp.is_supported() is False or "bwrap is not installed" in why_not("bubblewrap")


def verdict_of(machine: str, call: str | int, *args: int, architecture: int | None = None) -> int:
    """Run the filter on one call as the kernel does; return its action."""
    found, column = seccomp.MACHINES[machine]
    names = {**seccomp.REFUSED, "clone": (56, 220), "clone3": (435, 435), "read": (0, 63)}
    names |= {"socketpair": (53, 199), "sendto": (44, 206), "kill": (62, 129), "prlimit64": (302, 261)}
    number = call if isinstance(call, int) else names[call][column]
    assert number is not None
    filled = [*args, *[0] * (6 - len(args))]
    data = struct.pack("=iIQ6Q", number, architecture or found, 0, *filled)
    code, place, value = seccomp.assemble(machine, pid=7), 0, 0
    while True:
        operation, if_true, if_false, operand = code[place]
        place += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x06:
            return operand
        else:
            holds = {0x15: value == operand, 0x35: value >= operand, 0x45: bool(value & operand)}[operation]
            place += if_true if holds else if_false


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_the_filter_allows_threads_and_refuses_processes(machine: str) -> None:
    allow, refuse = 0x7FFF0000, 0x50000 | errno.EPERM
    column = seccomp.MACHINES[machine][1]
    for name, numbers in seccomp.REFUSED.items():
        if numbers[column] is not None:
            assert verdict_of(machine, name) == refuse
    assert verdict_of(machine, "read") == allow
    assert verdict_of(machine, "clone", 0x3D0F00) == allow  # the flags of pthread_create
    assert verdict_of(machine, "clone", 0x1200011) == refuse  # those of fork
    assert verdict_of(machine, "clone", 0x4111) == refuse  # those of vfork
    assert verdict_of(machine, "clone3") == 0x50000 | errno.ENOSYS
    assert verdict_of(machine, "socketpair", socket.AF_UNIX) == allow
    assert verdict_of(machine, "socketpair", socket.AF_INET) == refuse
    assert verdict_of(machine, "sendto", 3, 1, 1, 0, 0) == allow
    assert verdict_of(machine, "sendto", 3, 1, 1, 0, 1) == refuse
    assert verdict_of(machine, "sendto", 3, 1, 1, 0, 1 << 32) == refuse
    assert verdict_of(machine, "kill", 7) == allow
    assert verdict_of(machine, "kill", 8) == refuse
    assert verdict_of(machine, "prlimit64", 0) == allow
    assert verdict_of(machine, "prlimit64", 1) == refuse
    assert verdict_of(machine, "read", architecture=0x40000003) == 0x80000000
    if machine == "x86_64":
        assert verdict_of(machine, 0x40000000 | 57) == refuse
