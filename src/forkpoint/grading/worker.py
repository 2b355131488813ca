"""The process that judges answers that might hang: `python -m forkpoint.grading.worker GRADER`.

It reads one JSON object per line from standard input, `{"reference", "prediction", "timeout_s"}`, and answers
each with one line on standard output, `{"is_correct"}` or `{"failure"}`. The first line of output says
whether the grader could be loaded: `{"failure": null}` means it was.
Invariant: whatever a grader prints goes to standard error, so it cannot break the protocol.
This file does not time answers; the parent kills a process that overruns (see `pool.py`). In case the parent
itself was killed, an alarm ends this process a few seconds after an answer's time limit.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from forkpoint.grading.algebra import load_math_judge

Judge = Callable[[str, str], object]
ORPHAN_GRACE_S = 2.0


def load_judge(grader: str) -> Judge:
    """Load the judge function of `grader`: `math`, or the user's `module:function`."""
    if grader == "math":
        return load_math_judge()
    module_name, _, function_name = grader.partition(":")
    judge = getattr(importlib.import_module(module_name), function_name)
    if not callable(judge):
        raise TypeError(f"{grader} is not a function")
    found: Judge = judge
    return found


def serve(judge: Judge, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until the input ends."""
    for line in requests:
        request = json.loads(line)
        _end_orphan_after(request["timeout_s"] + ORPHAN_GRACE_S)
        _write(replies, _ruling(judge, request["reference"], request["prediction"]))
        _end_orphan_after(0)


def _ruling(judge: Judge, reference: str, prediction: str) -> dict[str, Any]:
    try:
        is_correct = judge(reference, prediction)
        if is_correct in (True, False):
            return {"is_correct": bool(is_correct)}
        return {"failure": f"the grader returned {is_correct!r:.100}; it has to return True or False"}
    except Exception as error:  # noqa: BLE001 a failure of foreign code concerns this answer only
        return {"failure": f"{type(error).__name__}: {error}"[:500]}


def _write(replies: BinaryIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


def _end_orphan_after(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def main(grader: str) -> None:
    """Load the grader, then serve on the standard streams, which are hidden from the grader itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as replies:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        try:
            judge = load_judge(grader)
        except Exception as error:  # noqa: BLE001 a grader is foreign code; the parent reports it
            _write(replies, {"failure": f"{type(error).__name__}: {error}"[:500]})
            return
        _write(replies, {"failure": None})
        serve(judge, requests, replies)


if __name__ == "__main__":
    main(sys.argv[1])
