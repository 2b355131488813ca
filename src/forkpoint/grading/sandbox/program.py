"""The process of an untrusted program: it gives up what it does not need, then runs the program.

Only if everything ran to the end does it read the token that waits in the channel, a socket, and send it
back. Depending on the level, it first moves to a private file system (`mounts`), forbids changes outside its
directory (`landlock`), and filters system calls (`seccomp`). At every level it limits its resources and
refuses what ordinary code does in vain, with a message that says so (an audit hook).
Invariant: a program that did not run to the end has not read the token, and no program runs before all the
protection of its level is in force. It guards tests against accidents only: the program shares an
interpreter with them, so a program that sets out to deceive can.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from forkpoint.grading.sandbox import landlock, mounts, seccomp

MAX_OPEN_FILES = 64
MAX_REASON_CHARS = 500

_PR_SET_PDEATHSIG = 1
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = {
    f"os.{name}" for name in ("fork", "forkpty", "exec", "posix_spawn", "system", "kill", "killpg")
} | {"subprocess.Popen"}
_REFUSED |= {
    f"socket.{name}"
    for name in ("connect", "bind", "sendto", "sendmsg", "getaddrinfo", "gethostbyname", "gethostbyaddr")
}
_CHANGES = dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.utime"), 1)
_CHANGES |= dict.fromkeys(("os.rename", "os.link", "os.symlink"), 2)
"""Audit events that change files, with the number of leading path arguments.

The last arguments are the directory descriptors, one for each path.
"""
_CHANGES_BY_PATH = ("os.truncate", "os.setxattr", "os.removexattr", "shutil.rmtree")
_REPLACED = {
    "os": ("mkfifo", "mknod"),
    "posix": ("mkfifo", "mknod"),
    "_posixsubprocess": ("fork_exec",),
    "_posixshmem": ("shm_open", "shm_unlink"),
}
"""Functions that raise no audit event when they make pipes, devices, processes and shared memory."""


class Refused(PermissionError):
    """The program tried something that the sandbox forbids."""


def main(task: dict[str, Any], libc: Any, channel: int, is_watched: int) -> NoReturn:
    """Run the program of a task. `is_watched` is a pipe whose other end closes with the outer process."""
    try:
        _end_with_parent(libc, is_watched)
        home = _protect(task, libc)
    except OSError as error:
        send(os.write, channel, {"broken": str(error)})
        os._exit(1)
    for name in [name for name in sys.modules if name.partition(".")[0] == "forkpoint"]:
        del sys.modules[name]  # the program has the standard library only
    _run(task["program"], home if task["has_hook"] else None, channel)


def _end_with_parent(libc: Any, is_watched: int) -> None:
    with contextlib.suppress(AttributeError):  # only Linux has it
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if select.select([is_watched], [], [], 0)[0]:
        os._exit(1)  # the outer process ended before the call above
    os.close(is_watched)


def _protect(task: dict[str, Any], libc: Any) -> str:
    """Put the protection of the task's level in force; return the program's directory. Raises OSError."""
    level, limits, home = task["level"], task["limits"], task["home"]
    if level == "namespaces":
        mounts.enter_private_root(libc, task["visible"], limits["disk_bytes"], limits["num_files"])
        home = mounts.HOME
    _limit(limits["cpu_s"], limits["memory_bytes"], limits["file_bytes"])
    if level != "audit":
        seccomp.give_up_privileges(libc, keep_reading=level not in ("namespaces", "bubblewrap"))
        if level == "landlock":
            landlock.restrict(libc, home)
        seccomp.install(libc)
    return str(home)


def _limit(cpu_s: int, memory_bytes: int, file_bytes: int) -> None:
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for name, most in limits.items():
        # SIGXCPU at the soft limit says what happened; SIGKILL follows if the program ignores it
        last = most + 1 if name == resource.RLIMIT_CPU else most
        _, hard = resource.getrlimit(name)
        if hard != resource.RLIM_INFINITY:
            most, last = min(most, hard), min(last, hard)
        resource.setrlimit(name, (most, last))


def _run(program: dict[str, Any], home: str | None, channel: int) -> NoReturn:
    """Run the solution, then the tests, and report.

    Functions that are needed afterwards are bound before foreign code runs, so that it cannot replace them.
    """
    execute, exit_now, read, write, join_threads = exec, os._exit, os.read, os.write, _thread_joiner()
    tests, describe = (
        compile(program["tests"], "<tests>", "exec", dont_inherit=True),
        _describer(program["tests"]),
    )
    random.seed(0)
    module = ModuleType("solution")
    sys.modules["solution"] = module
    if home is not None:
        _replace_functions()
        sys.addaudithook(_guard(os.path.realpath(home)))
    try:
        execute(compile(program["solution"], "<solution>", "exec", dont_inherit=True), module.__dict__)
        execute(tests, module.__dict__)
        if program["entry_point"] is not None:
            module.__dict__["check"](module.__dict__[program["entry_point"]])
        join_threads()
        send(write, channel, {"token": read(channel, 64).decode()})
    except BaseException as error:  # noqa: BLE001 foreign code may raise anything, SystemExit included
        send(write, channel, {"failure": describe(error)})
    finally:
        exit_now(1)


def _replace_functions() -> None:
    """Put functions that refuse in the place of those that the program must not call."""

    def refusing(name: str) -> Callable[..., NoReturn]:
        def refuse(*_: Any, **__: Any) -> NoReturn:
            raise Refused(f"{name} is refused")

        return refuse

    for module_name, names in _REPLACED.items():
        with contextlib.suppress(ImportError):
            module = __import__(module_name)
            for name in names:
                if hasattr(module, name):
                    setattr(module, name, refusing(f"{module_name}.{name}".replace("posix.", "os.")))


def _guard(home: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that refuses processes, signals, networking, ctypes and writing outside `home`."""
    realpath, join, readlink, fsdecode = os.path.realpath, os.path.join, os.readlink, os.fsdecode
    is_linux = sys.platform == "linux"
    has_descriptors = os.path.isdir("/proc/self/fd")  # noqa: PTH112 pathlib takes longer to load than this file

    def check_path(event: str, path: Any, dir_fd: int = -1) -> None:
        if isinstance(path, int) or (dir_fd >= 0 and is_linux and not has_descriptors):
            return  # in a private file system there is nothing outside to change
        base = home if dir_fd < 0 else readlink(f"/proc/self/fd/{dir_fd}")
        place = realpath(join(base, fsdecode(path)) if dir_fd >= 0 else fsdecode(path))
        if place != home and not place.startswith(home + os.sep) and place != os.devnull:
            raise Refused(f"{event} of {place!r:.100} is refused: it is outside the program's own directory")

    def check_database(name: Any) -> None:
        path = fsdecode(name)
        if path.startswith("file:"):
            path, _, options = path.removeprefix("file:").partition("?")
            path = ":memory:" if "mode=memory" in options else path.removeprefix("//")
        if path not in ("", ":memory:"):
            check_path("sqlite3.connect", path)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _REFUSED or event.startswith("ctypes."):
            raise Refused(f"{event} is refused")
        if event == "sqlite3.connect":
            check_database(args[0])
        elif event in _CHANGES_BY_PATH or (event == "open" and args[2] & _WRITING):
            check_path(event, args[0])
        elif event in _CHANGES:
            num_paths = _CHANGES[event]
            for path, dir_fd in zip(
                args[:num_paths], args[-num_paths:] if event != "os.symlink" else (-1, args[-1]), strict=True
            ):
                check_path(event, path, dir_fd)

    return hook


def _thread_joiner() -> Callable[[], None]:
    """Return a function that waits for the program's non-daemon threads, as the interpreter does at exit."""
    running, current = threading.enumerate, threading.current_thread()

    def join() -> None:
        for thread in running():
            if thread is not current and not thread.daemon:
                thread.join()

    return join


def _describer(tests: str) -> Callable[[BaseException], str]:
    """Return a function that says in one line why a program failed, even if it tampers with exceptions."""
    lines = tests.splitlines()

    def describe(error: BaseException) -> str:
        line_idx, traceback = -1, error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "<tests>":
                line_idx = traceback.tb_lineno - 1
            traceback = traceback.tb_next
        where = f" in {lines[line_idx].strip()!r}" if 0 <= line_idx < len(lines) else ""
        if isinstance(error, AssertionError):
            return f"assertion failed{where}"
        if isinstance(error, MemoryError):
            return f"over the memory limit{where}"
        if isinstance(error, SystemExit):
            return f"it called exit{where}"
        try:
            return f"{type(error).__name__}: {error}{where}"
        except BaseException:  # noqa: BLE001 `__str__` of the error is foreign code, too
            return f"{type(error).__name__}{where}"

    return describe


def send(write: Callable[[int, bytes], int], channel: int, report: dict[str, str]) -> None:
    cut = {name: text[:MAX_REASON_CHARS] for name, text in report.items()}
    with contextlib.suppress(OSError):  # the process that asked may be gone
        write(channel, json.dumps(cut).encode() + b"\n")
