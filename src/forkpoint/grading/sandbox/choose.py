"""Choose the level of protection for programs: the strongest that holds on this system, found by trying.

Invariant: a level is in force only if a program that loads the standard library has run at it in this process
before. The environment variable FORKPOINT_SANDBOX demands a level; if it does not hold, no program runs.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import cast

from forkpoint.checks import check_choice
from forkpoint.grading.sandbox import seccomp
from forkpoint.grading.sandbox.directories import sweep
from forkpoint.grading.sandbox.launch import LEVELS, Level, Limits, Program, run

SETTING = "FORKPOINT_SANDBOX"
PROBE_LIMITS = Limits(cpu_s=10, wall_s=30.0)
PROBE = Program(
    """
names = "asyncio bz2 ctypes decimal hashlib lzma multiprocessing sqlite3 ssl threading tempfile zlib zoneinfo"
for name in names.split():
    try:
        __import__(name)
    except ModuleNotFoundError:  # this Python was built without it
        pass
with open("file", "w") as file:
    file.write("content")
""",
    "assert open('file').read() == 'content'",
)
PROTECTION: dict[Level, str] = {
    "namespaces": "a private file system and namespaces without network, and a filter of system calls",
    "bubblewrap": "bubblewrap's private file system without network, and a filter of system calls",
    "landlock": "Landlock confines changes of files, a filter of system calls refuses processes and sockets",
    "seccomp": "processes and sockets are refused by a filter of system calls; changes of files outside are "
    "refused by an audit hook only",
    "audit": "an audit hook only: it stops ordinary code, but not code that goes around Python's functions",
}
"""What protects at each level, besides the limits."""

_lock = threading.Lock()
_failures: dict[tuple[Level, str], str] = {}
"""Why a level does not hold with a Python (its path); an empty string if it does."""


def level_in_force() -> Level:
    """Return the level at which programs run.

    Raises ValueError if the level that FORKPOINT_SANDBOX demands does not hold, or no level does.
    """
    demanded = os.environ.get(SETTING)
    if demanded:
        check_choice(SETTING, demanded, LEVELS)
        failure = why_not(cast("Level", demanded))
        if failure:
            raise ValueError(f"{SETTING} demands the level {demanded}, which does not hold here: {failure}")
        return cast("Level", demanded)
    return next((level for level in LEVELS if not why_not(level)), "audit")


def why_not(level: Level) -> str:
    """Return why a level does not hold on this system, or an empty string if it does."""
    key = level, sys.executable
    with _lock:
        if not _failures:
            sweep()
        if key not in _failures:
            _failures[key] = _try(level)
        return _failures[key]


def _try(level: Level) -> str:
    if level != "audit" and not seccomp.is_supported():
        return "there is no filter of system calls for this system"
    try:
        return run(PROBE, PROBE_LIMITS, level).reason
    except OSError as error:
        return str(error)
