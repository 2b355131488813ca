"""Run one program in a sandbox of a given level, from the process that asks.

Invariant: `run` returns within the program's time limit, whatever the program does, and then no process of it
is left. Its directory, if the level needs one on disk, is removed, too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

from forkpoint.grading.sandbox import mounts
from forkpoint.grading.sandbox.directories import own_directory

Level = Literal["namespaces", "bubblewrap", "landlock", "seccomp", "audit"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""Levels of protection, the strongest first."""
ON_DISK: tuple[Level, ...] = ("landlock", "seccomp", "audit")
"""Levels at which a program has a directory on disk."""
WALL_FACTOR = 5
"""Wall-clock seconds allowed per second of CPU time: a busy machine does not make a program wrong."""
END_TIMEOUT_S = 5.0
"""How long to wait until killed processes are gone."""
LIBRARIES = (
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/localtime",
)
"""Paths besides Python's own that a program sees in a private file system, if they exist."""
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}

_START = (
    "import sys; package = type(sys)('forkpoint'); package.__path__ = [sys.argv[1]]; "
    "sys.modules['forkpoint'] = package; from forkpoint.grading.sandbox.outer import main; "
    "main(*map(int, sys.argv[2:]))"
)
"""Loads the sandbox without the rest of the package, which takes longer to load."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use."""

    cpu_s: int
    wall_s: float
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    """Largest size of one file that the program writes."""
    disk_bytes: int = 1 << 24
    """Size of all files of the program together, each in whole blocks of 4 KiB."""
    num_files: int = 4096
    """Number of files and directories in a private file system; on disk, each counts as a block at least."""
    num_threads: int = 64

    @classmethod
    def of_time(cls, timeout_s: float) -> Limits:
        """Return the limits for `timeout_s` of CPU time, rounded up to whole seconds."""
        return cls(math.ceil(timeout_s), WALL_FACTOR * timeout_s)


@dataclass(frozen=True, slots=True)
class Program:
    """A program and its tests, both Python source."""

    solution: str
    tests: str
    entry_point: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """How a program ended."""

    end: Literal["passed", "failed", "not run"]
    """`not run`: the sandbox could not be set up, or died."""
    reason: str = ""


def run(program: Program, limits: Limits, level: Level, *, has_hook: bool = True) -> Report:
    """Run a program. Raises OSError if the system lacks processes, memory or disk space.

    Without `has_hook`, only the system protects, not the interpreter: for tests of the protection itself.
    """
    import_module("forkpoint.grading.sandbox.outer")  # writes the bytecode that every sandbox loads
    if level not in ON_DISK:
        return _run_in(None, program, limits, level, has_hook)
    with own_directory() as directory:
        return _run_in(directory, program, limits, level, has_hook)


def _run_in(directory: Path | None, program: Program, limits: Limits, level: Level, has_hook: bool) -> Report:
    home = str(directory) if directory else mounts.HOME
    task = {
        "program": asdict(program),
        "limits": asdict(limits),
        "level": level,
        "home": None if level == "namespaces" else home,
        "visible": visible_paths() if level == "namespaces" else [],
        "has_hook": has_hook,
    }
    content, token = json.dumps(task).encode(), secrets.token_hex(16)
    deadline = time.monotonic() + limits.wall_s
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                _command(level, theirs.fileno(), len(content), limits),
                cwd=directory or "/",
                env={"HOME": home, "TMPDIR": home, **ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            line = _talk(ours, content + token.encode(), deadline)
        except TimeoutError:
            return Report("failed", f"over the time limit of {limits.wall_s:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _await_end(ours)
    return _report(line, token)


def _command(level: Level, channel: int, num_bytes: int, limits: Limits) -> list[str]:
    package, is_inside = str(Path(__file__).parents[2]), level == "bubblewrap"
    python = [os.path.realpath(sys.executable) if is_inside else sys.executable, "-P", "-s", "-S", "-B"]
    arguments = [package, str(channel), str(num_bytes), "0" if is_inside else str(os.getpid())]
    wrapper = _bubblewrap(package, limits.disk_bytes) if is_inside else []
    return [*wrapper, *python, "-c", _START, *arguments]


def _bubblewrap(package: str, disk_bytes: int) -> list[str]:
    """Return the call of bubblewrap, up to the program that it runs. Raises FileNotFoundError."""
    wrapper = shutil.which("bwrap")
    if wrapper is None:
        raise FileNotFoundError("bwrap is not installed")
    command = [wrapper, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    for path in (*visible_paths(), f"{package}/grading"):
        command += ["--ro-bind", path, path]
    for path in mounts.DEVICES:
        command += ["--dev-bind", path, path]
    command += ["--proc", "/proc", "--size", str(disk_bytes), "--tmpfs", mounts.HOME]
    return [*command, "--remount-ro", "/", "--chdir", mounts.HOME]


@cache
def visible_paths() -> list[str]:
    """Return the directories and files of Python and of the system's libraries; none is in another."""
    own = [sys.base_prefix, sys.base_exec_prefix, sysconfig.get_path("stdlib")]
    too_much = {"/", "/home", "/root", str(Path.home())}
    found = {path for path in own if path not in too_much}
    found |= {str(Path(path).resolve()) for path in found}
    found |= {path for path in LIBRARIES if Path(path).exists()}
    return [path for path in sorted(found) if not any(str(parent) in found for parent in Path(path).parents)]


def _talk(channel: socket.socket, content: bytes, deadline: float) -> bytes:
    """Send the task, and return the first line that comes back, or whatever came before the channel closed.

    Raises TimeoutError.
    """
    received = b""
    channel.settimeout(max(0.001, deadline - time.monotonic()))
    with contextlib.suppress(ConnectionError):
        channel.sendall(content)
    while b"\n" not in received and len(received) < 4096:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            piece = channel.recv(4096)
        except ConnectionError:
            piece = b""
        if not piece:
            break
        received += piece
    return received.partition(b"\n")[0]


def _await_end(channel: socket.socket) -> None:
    """Wait until no process holds the other end: the killed processes are gone and write no more files."""
    channel.settimeout(END_TIMEOUT_S)
    with contextlib.suppress(OSError):
        while channel.recv(1 << 16):
            pass


def _report(line: bytes, token: str) -> Report:
    if not line:
        return Report("not run", "the sandbox died")
    report: Any = None
    with contextlib.suppress(ValueError):
        report = json.loads(line)
    if not isinstance(report, dict):
        return Report("failed", "it wrote to the channel of the sandbox")
    if report.get("token") == token:
        return Report("passed")
    if "broken" in report:
        return Report("not run", f"the sandbox could not be set up: {report['broken']}")
    return Report("failed", str(report.get("failure", "it forged a verdict")))
