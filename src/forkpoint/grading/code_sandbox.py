"""The process that runs an untrusted program.

It is called as `python code_sandbox.py PROGRAM CHANNEL CPU_S WALL_S MEMORY FILE_SIZE`.
The sandbox consists of two processes. The outer one creates namespaces if the system allows it, starts the
inner one in them, waits for it to end and reports over the channel, a socket, how it ended. The inner one
limits its own resources and runs the contents of the file PROGRAM. Only if everything ran to the end does it
read the token that waits in the channel and send it back.
Invariant: a program that did not run to the end has not read the token. When the outer process ends, so does
the inner one; if there are namespaces, every process that the inner one started ends too.
This file uses only the standard library, imports nothing from the package, and does not judge (see
`code.py`). It guards against accidents only: the program shares an interpreter with its tests, so a program
that sets out to deceive can.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

MAX_OPEN_FILES = 64
MAX_REASON_CHARS = 500

_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
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


class Refused(PermissionError):
    """The program tried something that the sandbox forbids."""


def main(file: Path, channel: int, cpu_s: int, wall_s: float, memory_bytes: int, file_bytes: int) -> None:
    """Run the program in `file`, remove the file, and report over the channel; the rest are limits."""
    program = json.loads(file.read_bytes())
    file.unlink()
    signal.setitimer(signal.ITIMER_REAL, wall_s)  # ends the outer process if its parent is gone
    libc = ctypes.CDLL(None)
    _isolate(libc)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(AttributeError):  # only Linux has it
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _limit(cpu_s, memory_bytes, file_bytes)
        _run(program, str(file.parent), channel)
    _, status, usage = os.wait4(pid, 0)
    _send(os.write, channel, {"failure": _how_it_ended(status, usage.ru_utime + usage.ru_stime, cpu_s)})


def _isolate(libc: Any) -> None:
    """Move to new namespaces for processes and network, as far as the system has and allows them."""
    with contextlib.suppress(AttributeError):
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWPID | _CLONE_NEWNET)  # without user namespaces only root may do this


def _limit(cpu_s: int, memory_bytes: int, file_bytes: int) -> None:
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for name, most in limits.items():
        _, hard = resource.getrlimit(name)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(name, (most, most))


def _run(program: dict[str, Any], home: str, channel: int) -> NoReturn:
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
    sys.addaudithook(_guard(os.path.realpath(home)))
    try:
        execute(compile(program["solution"], "<solution>", "exec", dont_inherit=True), module.__dict__)
        execute(tests, module.__dict__)
        if program["entry_point"] is not None:
            module.__dict__["check"](module.__dict__[program["entry_point"]])
        join_threads()
        _send(write, channel, {"token": read(channel, 64).decode()})
    except BaseException as error:  # noqa: BLE001 foreign code may raise anything, SystemExit included
        _send(write, channel, {"failure": describe(error)})
    finally:
        exit_now(1)


def _guard(home: str) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that refuses processes, signals, networking, ctypes and writing outside `home`."""
    realpath, join, readlink, fsdecode = os.path.realpath, os.path.join, os.readlink, os.fsdecode

    def check_path(event: str, path: Any, dir_fd: int = -1) -> None:
        if isinstance(path, int):
            return
        base = home if dir_fd < 0 else readlink(f"/proc/self/fd/{dir_fd}")
        place = realpath(join(base, fsdecode(path)) if dir_fd >= 0 else fsdecode(path))
        if place != home and not place.startswith(home + os.sep) and place != os.devnull:
            raise Refused(f"{event} of {place!r:.100} is refused: it is outside the program's own directory")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _REFUSED or event.startswith("ctypes."):
            raise Refused(f"{event} is refused")
        if event in _CHANGES_BY_PATH or (event == "open" and args[2] & _WRITING):
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


def _how_it_ended(status: int, used_s: float, cpu_s: int) -> str:
    if os.WIFEXITED(status):
        return f"it ended with status {os.WEXITSTATUS(status)} before its tests did"
    if used_s >= cpu_s - 0.1:  # the kernel's accounting may lack the last ticks
        return f"over the limit of {cpu_s} s of CPU time"
    return f"it was ended by {signal.Signals(os.WTERMSIG(status)).name}"


def _send(write: Callable[[int, bytes], int], channel: int, report: dict[str, str]) -> None:
    cut = {name: text[:MAX_REASON_CHARS] for name, text in report.items()}
    with contextlib.suppress(OSError):  # the process that asked may be gone
        write(channel, json.dumps(cut).encode() + b"\n")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        int(sys.argv[3]),
        float(sys.argv[4]),
        int(sys.argv[5]),
        int(sys.argv[6]),
    )
