"""The grader `code`: right programs pass; all others fail, whatever they try, and leave nothing behind."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forkpoint.grading.code import find_code, read_tests, run_all
from forkpoint.grading.ends import graded
from forkpoint.grading.file import grade_file
from forkpoint.grading.grade import answer_key, check_reference, grade, grade_all
from forkpoint.grading.sandbox import launch
from forkpoint.grading.sandbox.outer import _how_it_ended
from forkpoint.problems import load_problems
from forkpoint.records import Problem

TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
RIGHT = "def add(a, b):\n    return a + b\n"
HUMANEVAL = json.dumps(
    {
        "prompt": 'from math import prod\n\ndef product(numbers):\n    """The product of all."""\n',
        "tests": "def check(candidate):\n    assert candidate([]) == 1\n    assert candidate([2, 3]) == 6\n",
        "entry_point": "product",
    }
)
MBPP = json.dumps({"tests": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]})


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory that contains the directories of programs.

    At the end no file and no process is left there.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["precious"] * (tmp_path / "precious").exists()
    assert processes_in(tmp_path) == []


def processes_in(directory: Path) -> list[str]:
    """Return the processes started in a directory, after giving killed ones some time to end."""
    if not Path("/proc/self/cwd").exists():
        return []
    for _ in range(50):
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                place = str((process / "cwd").readlink())
            except OSError:  # gone in the meantime, or a zombie
                continue
            if place.startswith(str(directory)):
                found.append(process.name)
        if not found:
            break
        time.sleep(0.1)
    return found


@pytest.mark.parametrize(
    ("tests", "text"),
    [
        (TESTS, RIGHT),
        (
            TESTS,
            f"Let me think.\n```python\ndef add(a, b): return a - b\n```\nNo:\n```python\n{RIGHT}```\n"
            "This is right.",
        ),
        (MBPP, f"```py\n{RIGHT}```"),
        (HUMANEVAL, "    return prod(numbers)\n"),
        (
            HUMANEVAL,
            "```python\nfrom math import prod\n\ndef product(numbers):\n    return prod(numbers)\n```",
        ),
        (
            TESTS,
            "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n"
            "    x: int\n" + RIGHT,
        ),
        (TESTS, RIGHT + "if __name__ == '__main__':\n    print(add(*map(int, input().split())))"),
        (TESTS, RIGHT + "import threading\nthreading.Thread(target=print, args=(add(1, 2),)).start()"),
        (
            TESTS,
            RIGHT + "with open('notes', 'w') as file:\n    file.write('x')\n"
            "import os\nos.rename('notes', 'read')\nos.remove('read')",
        ),
        ("import re, random\nassert sorted(random.sample(range(9), 9)) == list(range(9))\n" + TESTS, RIGHT),
    ],
)
def test_a_program_that_passes_its_tests_is_right(tests: str, text: str, traces: Path) -> None:
    verdict = grade(tests, text, "code", timeout_s=10)
    assert (verdict.outcome, verdict.reason) == ("correct", "")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (RIGHT.replace("+", "-"), "assertion failed in 'assert add(1, 2) == 3'"),
        ("def sub(a, b): return a - b", "NameError: name 'add' is not defined in 'assert add(1, 2) == 3'"),
        ("def add(a, b:", "SyntaxError"),
        ("", "no answer"),
        ("x" * 300_000, "characters is over the limit"),
        ("while True: pass", "over the limit of 1 s of CPU time"),
        ("while True: print('PASSED' * 1000)", "over the limit of 1 s of CPU time"),
        ("import time\ntime.sleep(1000)", "over the time limit"),
        (
            f"import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n{RIGHT}",
            "over the time limit",
        ),
        ("import os\nwhile True: os.fork()", "os.fork is refused"),
        ("import subprocess\nsubprocess.run(['sleep', '1000'])", "subprocess.Popen is refused"),
        ("import os\nos._exit(0)", "it ended with status 0 before its tests did"),
        (
            "import os\ndef add(a, b):\n    print('all tests passed')\n    os._exit(0)",
            "it ended with status 0",
        ),
        ("import sys\nsys.exit(0)", "it called exit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        (
            "import os\nos._exit = exit = None\nAssertionError = Exception\n" + RIGHT.replace("+", "-"),
            "assertion failed",
        ),
        (
            "import builtins\nbuiltins.compile = builtins.exec = lambda *args: None",
            "name 'add' is not defined",
        ),
        ("class E(Exception):\n    def __str__(self): raise self\nraise E", "E"),
        ("x = [0] * 10**11", "over the memory limit"),
        ("def add(a, b): return add(a, b)", "RecursionError"),
        ("with open('x', 'w') as file:\n    while True: file.write('x' * 100_000)", "File too large"),
        ("files = [open(str(idx), 'w') for idx in range(1000)]", "Too many open files"),
        ("import shutil\nshutil.rmtree('PRECIOUS')", "outside the program's own directory"),
        ("import os\nos.remove('PRECIOUS/file')", "outside the program's own directory"),
        (
            "import os\nos.symlink('PRECIOUS', 'mine')\nopen('mine/file', 'w')",
            "outside the program's own directory",
        ),
        ("import os\nos.kill(os.getppid(), 9)", "os.kill is refused"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "is refused"),
        ("import ctypes\nctypes.string_at(0)", "is refused"),
        (
            "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'{\"token\": 1}\\n')\n"
            "    except OSError: pass",
            "forged a verdict",
        ),
        (
            "import os\nfor fd in range(3, 60):\n    try: os.write(fd, b'ok' * 9000)\n"
            "    except OSError: pass",
            "to the channel of the sandbox",
        ),
        ("import os\nos.closerange(3, 60)", "it ended with status 1"),
    ],
)
def test_every_other_program_is_wrong_and_leaves_nothing(
    program: str, reason: str, traces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (traces / "precious").mkdir()
    (traces / "precious" / "file").write_text("precious")
    if "sleep" in program:
        monkeypatch.setattr(launch, "WALL_FACTOR", 1)
    verdict = grade(TESTS, program.replace("PRECIOUS", str(traces / "precious")), "code", timeout_s=1)
    assert verdict.outcome == "wrong"
    assert reason in verdict.reason
    assert (traces / "precious" / "file").read_text() == "precious"


def test_a_process_that_raises_no_audit_event_is_not_started(traces: Path) -> None:
    away = (
        "import _posixsubprocess, os\n"  # a session of its own, started without an audit event
        "args = [b'/bin/sh', b'-c', b'while :; do sleep 0.1; done']\n"
        "_posixsubprocess.fork_exec(args, [args[0]], True, (), None, None, -1, -1, -1, -1, -1, -1, "
        "*os.pipe(), "
        "False, True, -1, None, None, None, -1, None, True)\n"
    )
    verdict = grade(TESTS, away + RIGHT, "code", timeout_s=10)
    assert verdict.outcome == "wrong" and "fork_exec is refused" in verdict.reason


def test_a_batch_has_the_verdicts_of_its_programs_alone_whatever_runs_beside_them(traces: Path) -> None:
    programs = [
        RIGHT,
        "while True: pass",
        RIGHT.replace("+", "*"),
        "import os\nos._exit(0)",
        RIGHT + "# again",
    ]
    pairs = [(TESTS, programs[idx % 5]) for idx in range(20)]
    assert [ruling.outcome == "correct" for ruling in run_all(pairs, 1)] == [
        idx % 5 in (0, 4) for idx in range(20)
    ]


def test_the_order_of_a_set_does_not_depend_on_the_run(traces: Path) -> None:
    first = "def first(): return next(iter({'a', 'b', 'c', 'd', 'e', 'f'}))"
    orders = [f"assert first() == {name!r}" for name in "abcdef"]
    once, again = (
        [verdict.outcome for verdict in grade_all([(test, first) for test in orders], "code", 10)]
        for _ in range(2)
    )
    assert once == again and once.count("correct") == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\n```text\noutput\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("So:\n```python\nx = 1", "x = 1"),
        ("  ```python\n    return 1\n  ```", "    return 1\n"),
        (" \n", None),
    ],
)
def test_the_program_is_the_last_block_of_python_or_the_whole_text(text: str, code: str | None) -> None:
    assert find_code(text) == code
    assert answer_key(text, "code") == code


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "empty"),
        ("# nothing", "empty"),
        ("assert (", "not Python"),
        ('{"test": "assert True"}', "need the key tests"),
        ('{"tests": "assert True", "timeout": 3}', "need the key tests, and may have entry_point and prompt"),
        ('{"tests": 3}', "must be Python source or a list of it"),
        ('{"tests": "assert True", "entry_point": "f"}', r"must define check\(candidate\)"),
    ],
)
def test_tests_that_cannot_be_read_are_refused_and_make_programs_ungradable(
    reference: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_reference(reference, "code")
    assert grade(reference, RIGHT, "code").outcome == "ungradable"


def test_a_program_that_cannot_be_run_is_ungradable_not_wrong(
    monkeypatch: pytest.MonkeyPatch, traces: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(traces / "no-python"))
    verdict = grade(TESTS, RIGHT, "code")
    assert verdict.outcome == "ungradable" and "could not be run" in verdict.reason


def test_problem_sets_and_files_of_answers_know_the_grader(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text(
        json.dumps({"question": "Write add(a, b).", "answer": MBPP, "grader": "code"}) + "\n"
    )
    problems = load_problems(f"{tmp_path / 'tasks.jsonl'}?grader=code")
    assert problems == [Problem("tasks/0", "Write add(a, b).", MBPP, "code")]
    ((right, wrong),) = graded(problems, [[RIGHT, RIGHT.replace("+", "-")]])
    assert (right.is_correct, right.answer, wrong.is_correct, wrong.is_gradable) == (True, RIGHT, False, True)
    rows = [{"reference": TESTS, "prediction": text} for text in (RIGHT, "x")]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = grade_file(tmp_path / "answers.jsonl", "code")
    assert (counts.num_correct, counts.num_wrong) == (1, 1)


def test_read_tests_joins_a_list() -> None:
    assert read_tests(MBPP).source == "assert add(1, 2) == 3\nassert add(0, 0) == 0"


def test_the_conversions_of_the_document_make_tests_of_the_public_sets_rows() -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "code.md").read_text()
    code = page.split("The two public sets in that form:")[1].split("The program is")[0]
    names: dict[str, Any] = {}
    exec("\n".join(line[4:] for line in code.splitlines()), names)
    humaneval = json.loads(HUMANEVAL)
    row = {
        "task_id": "HumanEval/0",
        "prompt": humaneval["prompt"],
        "test": humaneval["tests"],
        "entry_point": "product",
    }
    assert grade(names["humaneval"](row)["answer"], "    return prod(numbers)", "code", 10).is_correct
    asserts = ["assert add(1, 2) == three", "assert add(0, 0) == 0"]
    for row in (
        {"task_id": 2, "text": "Write add.", "test_setup_code": "three = 3", "test_list": asserts},
        {"task_id": 2, "prompt": "Write add.", "test_imports": ["three = 3"], "test_list": asserts},
    ):
        assert grade(names["mbpp"](row)["answer"], RIGHT, "code", 10).is_correct
        assert asserts[0] in names["mbpp"](row)["question"]


def test_the_signal_of_the_limit_says_that_it_was_reached_whatever_was_counted() -> None:
    assert _how_it_ended(signal.SIGXCPU, 0.3, 1) == "over the limit of 1 s of CPU time"
    assert _how_it_ended(signal.SIGKILL, 1.9, 1) == "over the limit of 1 s of CPU time"
    assert _how_it_ended(signal.SIGKILL, 0.3, 1) == "it was ended by SIGKILL"
