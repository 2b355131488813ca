"""The lock that keeps a run directory to one writer.

Invariant: the lock is the kernel's (flock) and ends with the process that holds it, however it ends. The text
of the file only names that process, and stays as the record of the time spent so far.
This file does not keep readers out, and has no effect on a file system without flock. A forked child of the
writer shares the lock: as long as such a child lives, the run stays locked.
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
    """The right to write to a run, with a clock that continues from the time of the writers before."""

    def __init__(self, path: Path) -> None:
        """Take the lock. RunLocked, naming the holder, if another process or object has it."""
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
        """Seconds that writers have held the run: this one until now, earlier ones until their last note."""
        return self._seconds_before + time.monotonic() - self._opened_s

    def note_seconds(self, seconds: float) -> None:
        """Keep `seconds` for the next writer, in case this one is killed.

        RunError if the disk refuses the write.
        """
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
        """Release the lock; closing twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> dict[str, Any]:
        """Return the record of the last holder; empty if it was stopped before or while it wrote it."""
        first_line = os.pread(self._fd, LOCK_BYTES, 0).partition(b"\n")[0]
        try:
            holder = json.loads(first_line)
        except ValueError:
            return {}
        return holder if isinstance(holder, dict) else {}


def utc_now() -> str:
    """Return the current time as ISO 8601 with its offset, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _locked(directory: Path, holder: dict[str, Any]) -> str:
    """Return the message of RunLocked."""
    who = "a process that has only just started"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('started')}"
    return f"{directory} is being written by {who}; wait for it, stop it, or use another directory"
