"""The outer process of a sandbox: it prepares, starts the program's process, and watches over it.

It is called with the descriptor of a socket, the length of the task that waits in it as JSON (`launch` writes
it), and the id of the process that asked. It reports over the socket, as does the program's process.
Invariant: when the process that asked is gone, for whatever reason, this process kills the program, removes
the program's directory if it has one, and ends, all within a fraction of a second. No foreign code runs here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import stat
import time
from typing import Any

from forkpoint.grading.sandbox import mounts, program

GRACE_S = 1.0
"""How much longer than allowed a program runs if the process that asked does not end it."""
FIRST_LOOK_S, LONGEST_PAUSE_S = 0.001, 0.02
BLOCK_BYTES = 4096
"""Every file and directory counts as whole blocks, and as at least one."""


def main(channel: int, num_bytes: int, parent_pid: int) -> None:
    """Run one task. `parent_pid` is 0 if the process that asked is in another process namespace."""
    task = json.loads(_read(channel, num_bytes))
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if task["level"] == "namespaces":
            mounts.enter_namespaces(libc)
    except OSError as error:
        program.send(os.write, channel, {"broken": str(error)})
        return
    is_watched, watches = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(watches)
        program.main(task, libc, channel, is_watched)
    os.close(is_watched)
    program.send(os.write, channel, {"failure": _watch(task, pid, channel, parent_pid)})


def _read(channel: int, num_bytes: int) -> bytes:
    """Read exactly this much: a token for the program's process follows."""
    received = bytearray()
    while len(received) < num_bytes:
        piece = os.read(channel, num_bytes - len(received))
        if not piece:
            raise SystemExit("the process that asked is gone")
        received += piece
    return bytes(received)


def _watch(task: dict[str, Any], pid: int, channel: int, parent_pid: int) -> str:
    """Wait until the program's process ends, or end it; return why it ended."""
    limits, pause_s = task["limits"], FIRST_LOOK_S
    deadline = time.monotonic() + limits["wall_s"] + GRACE_S
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return _how_it_ended(status, usage.ru_utime + usage.ru_stime, limits["cpu_s"])
        is_orphan = os.getppid() != parent_pid if parent_pid else _is_closed(channel)
        reason = over_limit(task, pid)
        if reason or is_orphan or time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            if is_orphan and task["home"]:
                _remove(task["home"])
            return reason or "over the time limit"
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _is_closed(channel: int) -> bool:
    poll = select.poll()
    poll.register(channel, 0)
    return bool(poll.poll(0))


def over_limit(task: dict[str, Any], pid: int) -> str:
    """Return which limit of threads or disk space the program exceeds, or an empty string."""
    limits = task["limits"]
    with contextlib.suppress(OSError):  # only Linux has it
        if os.stat(f"/proc/{pid}/task").st_nlink - 2 > limits["num_threads"]:  # noqa: PTH116
            return f"over the limit of {limits['num_threads']} threads"
    if task["home"]:
        try:
            used = disk_usage(task["home"], limits["disk_bytes"])
        except OSError as error:
            return f"its directory cannot be read: {error.strerror}"
        if used <= limits["disk_bytes"]:
            used += _removed_files(pid)
        if used > limits["disk_bytes"]:
            return f"over the limit of {limits['disk_bytes']} bytes of disk space"
    return ""


def disk_usage(directory: str, enough: int) -> int:
    """Return the bytes of all files below `directory` in whole blocks; stops counting above `enough`."""
    used, pending = 0, [directory]
    while pending and used <= enough:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # gone in the meantime
                        size = entry.stat(follow_symlinks=False).st_size
                        used += BLOCK_BYTES * max(1, -(-size // BLOCK_BYTES))
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                    if used > enough:
                        break
        except (FileNotFoundError, NotADirectoryError):
            continue
    return used


def _removed_files(pid: int) -> int:
    """Return the bytes of the files that the process has open though they have been removed."""
    used = 0
    with contextlib.suppress(OSError):  # only Linux lists them
        for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            with contextlib.suppress(OSError):
                found = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116
                if stat.S_ISREG(found.st_mode) and found.st_nlink == 0:
                    used += found.st_size
    return used


def _remove(directory: str) -> None:
    from forkpoint.grading.sandbox.directories import remove  # only orphans wait for its imports

    remove(directory)


def _how_it_ended(status: int, used_s: float, cpu_s: int) -> str:
    if os.WIFEXITED(status):
        return f"it ended with status {os.WEXITSTATUS(status)} before its tests did"
    # the kernel counts ticks for the limit and exact times for the usage, which differ on a busy machine
    if os.WTERMSIG(status) == signal.SIGXCPU or used_s >= cpu_s - 0.1:
        return f"over the limit of {cpu_s} s of CPU time"
    return f"it was ended by {signal.Signals(os.WTERMSIG(status)).name}"
