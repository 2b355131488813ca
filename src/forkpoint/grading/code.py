"""The grader `code`: run the program in a prediction against the tests in the reference.

Tests are Python source (asserts), or a JSON object with the key `tests` (source, or a list of asserts) and
optionally `prompt` (source that is put before the program) and `entry_point` (the tests then define
`check(candidate)`, as in HumanEval). The program is the last fenced block of Python in a text, or the whole
text if it has no fence.
Invariant: every program gets a ruling within its time limit, whatever it does, and leaves no process and no
file behind. Programs do not run in this process: each one runs in a process and a directory of its own; the
process is killed with its whole group and the directory is removed (see `code_sandbox.py`). A program that
sets out to deceive can succeed.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SANDBOX = Path(__file__).with_name("code_sandbox.py")
NUM_PROGRAMS = 4
"""How many programs run at the same time."""
WALL_FACTOR = 5
"""Wall-clock seconds allowed per second of CPU time: a busy machine does not make a program wrong."""
MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 20
"""Largest size of one file that the program writes."""
MAX_PROGRAM_CHARS = 200_000
END_TIMEOUT_S = 5.0
"""How long to wait until killed processes are gone."""

_FENCE = re.compile(
    r"^[ \t]*```[ \t]*(?P<language>\w*)[^\n]*\n(?P<code>.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL
)
_KEYS = ("tests", "entry_point", "prompt")


@dataclass(frozen=True, slots=True)
class CodeRuling:
    """The result of running one program."""

    outcome: Literal["correct", "wrong", "ungradable"]
    reason: str = ""
    """Why the program is not correct."""


@dataclass(frozen=True, slots=True)
class CodeTests:
    """The tests that a program has to pass."""

    source: str
    entry_point: str | None = None
    """Name of the function that is passed to the tests' `check`; None if running the tests is enough."""
    prompt: str = ""


def find_code(text: str) -> str | None:
    """Return the program in a text, or None if it is blank.

    The program is the last block fenced as Python, else the last fenced block, else the whole text. A fence
    that is not closed holds the rest of the text.
    """
    blocks = [(match["language"].lower(), match["code"]) for match in _FENCE.finditer(text)]
    of_python = [code for language, code in blocks if language in ("python", "python3", "py")]
    code = of_python[-1] if of_python else blocks[-1][1] if blocks else text
    return code if code.strip() else None


def read_tests(reference: str) -> CodeTests:
    """Read the tests in a reference. Raises ValueError if it holds none."""
    given: dict[str, Any] = {"tests": reference}
    if reference.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            given = json.loads(reference)
    unknown = [key for key in given if key not in _KEYS]
    if unknown or "tests" not in given:
        raise ValueError(
            "tests as JSON need the key tests, and may have entry_point and prompt; "
            f"the keys are {', '.join(given)}"
        )
    tests, entry_point, prompt = given["tests"], given.get("entry_point"), given.get("prompt", "")
    source = "\n".join(map(str, tests)) if isinstance(tests, list) else tests
    if not isinstance(source, str) or not isinstance(prompt, str) or not isinstance(entry_point, str | None):
        raise ValueError(
            "tests must be Python source or a list of it, prompt and entry_point must be strings"
        )
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"the tests are not Python: {error}") from None
    if not statements:
        raise ValueError("the tests are empty: no program could fail them")
    if entry_point is not None and not any(
        isinstance(item, ast.FunctionDef) and item.name == "check" for item in statements
    ):
        raise ValueError(f"tests with entry_point {entry_point!r} must define check(candidate)")
    return CodeTests(source, entry_point, prompt)


def run_all(pairs: Sequence[tuple[str, str | None]], timeout_s: float) -> list[CodeRuling]:
    """Return one ruling per (reference, program), in order.

    Equal pairs run once, and `NUM_PROGRAMS` run at the same time. `timeout_s` is CPU time, rounded up to
    whole seconds; wall-clock time is limited to `WALL_FACTOR` times as much.
    """
    distinct = list(dict.fromkeys(pairs))
    threads = ThreadPoolExecutor(NUM_PROGRAMS, thread_name_prefix="code")
    try:
        rulings = dict(
            zip(
                distinct,
                threads.map(lambda pair: run_code(pair[0], pair[1], timeout_s), distinct),
                strict=True,
            )
        )
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return [rulings[pair] for pair in pairs]


def run_code(reference: str, program: str | None, timeout_s: float) -> CodeRuling:
    """Run one program against its tests."""
    try:
        tests = read_tests(reference)
    except ValueError as error:
        return CodeRuling("ungradable", f"the reference cannot be read: {error}")
    if program is None:
        return CodeRuling("wrong", "no answer")
    if len(program) > MAX_PROGRAM_CHARS:
        return CodeRuling(
            "wrong", f"a program of {len(program)} characters is over the limit of {MAX_PROGRAM_CHARS}"
        )
    try:
        with tempfile.TemporaryDirectory(prefix="forkpoint-code-") as directory:
            return _run_in(Path(directory), tests, program, timeout_s)
    except OSError as error:  # out of processes, memory or disk: not the program's fault
        return CodeRuling("ungradable", f"it could not be run: {error}")


def _run_in(directory: Path, tests: CodeTests, program: str, timeout_s: float) -> CodeRuling:
    source = (
        f"{tests.prompt}\n{program}"
        if tests.prompt and not tests.prompt.endswith("\n")
        else tests.prompt + program
    )
    content = {"solution": source, "tests": tests.source, "entry_point": tests.entry_point}
    file = directory / "program.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    cpu_s, wall_s, token = math.ceil(timeout_s), WALL_FACTOR * timeout_s, secrets.token_hex(16)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            limits = [theirs.fileno(), cpu_s, wall_s + 1, MEMORY_BYTES, FILE_BYTES]
            process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-S", "-B", str(SANDBOX), str(file), *map(str, limits)],
                cwd=directory,
                env={
                    "HOME": str(directory),
                    "TMPDIR": str(directory),
                    "PYTHONHASHSEED": "0",
                    "PYTHONUTF8": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            ours.sendall(token.encode())
            line = _line_within(ours, wall_s)
        except TimeoutError:
            return CodeRuling("wrong", f"over the time limit of {wall_s:g} s")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _await_end(ours)
    return _ruling(line, token)


def _line_within(channel: socket.socket, wall_s: float) -> bytes:
    """Return the first line from the channel, or whatever came before it closed. Raises TimeoutError."""
    deadline, received = time.monotonic() + wall_s, b""
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


def _ruling(line: bytes, token: str) -> CodeRuling:
    try:
        report = json.loads(line)
    except ValueError:
        report = None
    if not line:
        return CodeRuling("ungradable", "the sandbox died")
    if not isinstance(report, dict):
        return CodeRuling("wrong", "it wrote to the channel of the sandbox")
    if report.get("token") == token:
        return CodeRuling("correct")
    return CodeRuling("wrong", str(report.get("failure", "it forged a verdict")))
