"""The grader `code`: run the program in a prediction against the tests in the reference.

Tests are Python source (asserts), or a JSON object with the key `tests` (source, or a list of asserts) and
optionally `prompt` (source that is put before the program) and `entry_point` (the tests then define
`check(candidate)`, as in HumanEval). The program is the last fenced block of Python in a text, or the whole
text if it has no fence.
Invariant: every program gets a ruling within its time limit, whatever it does, and leaves no process and no
file behind. Programs do not run in this process: each one runs in a sandbox of its own (see `sandbox`). A
program that sets out to deceive can succeed.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from forkpoint.grading.sandbox.choose import level_in_force
from forkpoint.grading.sandbox.launch import Level, Limits, Program, run

NUM_PROGRAMS = 4
"""How many programs run at the same time."""
MAX_PROGRAM_CHARS = 200_000
OUTCOMES: dict[str, Literal["correct", "wrong", "ungradable"]] = {
    "passed": "correct",
    "failed": "wrong",
    "not run": "ungradable",
}

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
    whole seconds; wall-clock time is limited to `launch.WALL_FACTOR` times as much. Raises ValueError if the
    level of protection that the environment demands does not hold.
    """
    level = level_in_force()
    distinct = list(dict.fromkeys(pairs))
    threads = ThreadPoolExecutor(NUM_PROGRAMS, thread_name_prefix="code")
    try:
        rulings = dict(
            zip(
                distinct,
                threads.map(lambda pair: run_code(pair[0], pair[1], timeout_s, level), distinct),
                strict=True,
            )
        )
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return [rulings[pair] for pair in pairs]


def run_code(reference: str, program: str | None, timeout_s: float, level: Level | None = None) -> CodeRuling:
    """Run one program against its tests, at the level of protection that is in force if none is given."""
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
    prompt = tests.prompt if not tests.prompt or tests.prompt.endswith("\n") else f"{tests.prompt}\n"
    whole = Program(prompt + program, tests.source, tests.entry_point)
    try:
        report = run(whole, Limits.of_time(timeout_s), level or level_in_force())
    except OSError as error:  # out of processes, memory or disk: not the program's fault
        return CodeRuling("ungradable", f"it could not be run: {error}")
    return CodeRuling(OUTCOMES[report.end], report.reason)
