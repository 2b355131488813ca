"""One fork server for all tests that start processes: it imports once what is slow to import.

A process is as separate as one that a shell starts: it has its own memory, signals, standard streams and
exit status. Only the import of libraries is shared. The server starts with its first process and ends with
the tests.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LOADED = ["torch", "transformers.trainer", "accelerate", "peft", "datasets", "rich", "cyclopts"]
"""No `forkpoint.console`, which reads the environment of its process when it is imported."""
JOBS = [
    "forkpoint.training.prm_trainer",
    "forkpoint.training.sft",
    "forkpoint.policies.local",
    "test_kills",
    "test_distributed_training",
]
"""What processes of tests run."""


def fork_server() -> ForkServerContext:
    """The context whose processes are forked from the server of these tests."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LOADED, *JOBS])
    return context


def start(target: Callable[..., Any], *args: Any) -> BaseProcess:
    """Start `target(*args)` in a process of its own."""
    process = fork_server().Process(target=target, args=args)
    process.start()
    return process


def forkpoint(
    *arguments: object,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 240,
) -> subprocess.CompletedProcess[str]:
    """Run a command line of forkpoint and return its exit status and what it wrote.

    `environment` adds to that of this process.
    """
    command = [*map(str, arguments)]
    with tempfile.TemporaryDirectory() as directory:
        outputs = [Path(directory) / name for name in ("stdout", "stderr")]
        process = start(_run, command, cwd, {**os.environ, "COLUMNS": "160", **(environment or {})}, *outputs)
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout_s)
        return subprocess.CompletedProcess(
            command, process.exitcode, *(path.read_text(encoding="utf-8") for path in outputs)
        )


def _run(
    command: list[str], cwd: Path | None, environment: dict[str, str], stdout: Path, stderr: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
    for path, stream in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = ["forkpoint", *command]
    from forkpoint.cli import main

    main()
