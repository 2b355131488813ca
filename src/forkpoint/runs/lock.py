"""One writer per run directory.

Invariant: the lock is the kernel's (flock) and ends with the process that holds it, however it ends; the file's text only
says who that is, and outlives its writer as the record of the time spent so far.
This file does not keep readers out, and does not hold where the file system has no flock. A forked child of the writer
shares the lock: as long as such a child lives on, the run stays locked.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forkpoint.errors import RunError, RunLocked

LOCK_BYTES = 4096


class RunLock:
    """The right to write to a run, with a clock that goes on where the last writer's stopped."""

    def __init__(self, path: Path) -> None:
        """Take the lock. RunLocked, naming the holder, where another process or object has it."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._read()
            os.close(self._fd)
            raise RunLocked(_locked(path.parent, holder)) from None
        except OSError:
            os.close(self._fd)
            raise
        self._seconds_before = float(self._read().get("seconds", 0.0))
        self._opened_s = time.monotonic()
        self._started = utc_now()
        try:
            self.note_seconds(self._seconds_before)
        except RunError:
            self.close()
            raise

    @property
    def seconds(self) -> float:
        """Time that writers have held the run, from each one's opening to its last `note_seconds`; this one's until now."""
        return self._seconds_before + time.monotonic() - self._opened_s

    def note_seconds(self, seconds: float) -> None:
        """Keep `seconds` for the next writer, should this one be killed. RunError where the disk refuses."""
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": self._started,
            "seconds": round(seconds, 3),
        }
        data = (json.dumps(holder) + "\n").encode()
        try:
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
        except OSError as error:
            raise RunError(
                f"{self.path} could not be written ({error}); make room, then run the same command again"
            ) from error

    def close(self) -> None:
        """Let the next writer in; closing twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> dict[str, Any]:
        """What the last holder wrote; empty where it was stopped before or while writing."""
        first_line = os.pread(self._fd, LOCK_BYTES, 0).partition(b"\n")[0]
        try:
            holder = json.loads(first_line)
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}


def utc_now() -> str:
    """The time as ISO 8601 with its offset, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _locked(directory: Path, holder: dict[str, Any]) -> str:
    """The message of RunLocked."""
    who = "a process that has only just started"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('started')}"
    return f"{directory} is being written by {who}; wait for it, stop it, or use another directory"
