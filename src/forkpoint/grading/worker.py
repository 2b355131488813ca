"""The process in which answers are judged that might hang: `python -m forkpoint.grading.worker GRADER`.

One JSON object a line on standard input, `{"reference", "prediction", "timeout_s"}`, is answered by one a line on standard
output, `{"is_correct"}` or `{"failure"}`; the first line says whether the grader could be loaded: `{"failure": null}` if so.
Invariant: whatever a grader prints goes to standard error, so it cannot break the protocol.
This file does not time answers; the parent kills a process that overruns (see `pool.py`). As a safety net for a parent
that was itself killed, the kernel ends this process some seconds after an answer's time is over.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

Judge = Callable[[str, str], object]
ORPHAN_GRACE_S = 2.0


def load_judge(grader: str) -> Judge:
    """The function that judges for `grader`: `math`, or the user's `module:function`."""
    if grader == "math":
        return load_math_judge()
    module_name, _, function_name = grader.partition(":")
    judge = getattr(importlib.import_module(module_name), function_name)
    if not callable(judge):
        raise TypeError(f"{grader} is not a function")
    found: Judge = judge
    return found


def load_math_judge() -> Judge:
    """math-verify on two LaTeX texts; the import and the first parse are slow, so they come before any answer's time runs."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it logs every expression that it cannot parse

    def parsed(text: str) -> list[Any]:
        # without its own time-outs: they need SIGALRM, and do not end a long call into C
        found: list[Any] = parse(
            f"${text}$", [LatexExtractionConfig()], parsing_timeout=None, raise_on_error=True
        )
        if all(isinstance(candidate, str) for candidate in found):
            raise ValueError(f"{text[:100]!r} is not an expression that math-verify can parse")
        return found

    def judge(reference: str, prediction: str) -> bool:
        return bool(verify(parsed(reference), parsed(prediction), timeout_seconds=None, raise_on_error=True))

    judge(r"\frac{1}{2}", r"\sqrt{x^2+1}")
    return judge


def serve(judge: Judge, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""
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
    except Exception as error:  # noqa: BLE001 any failure of foreign code is this answer's failure, not the batch's
        return {"failure": f"{type(error).__name__}: {error}"[:500]}


def _write(replies: BinaryIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


def _end_orphan_after(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def main(grader: str) -> None:
    """Load the grader, then serve on the standard streams, which the grader itself does not get."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as replies:
        with Path(os.devnull).open("rb") as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
        try:
            judge = load_judge(grader)
        except Exception as error:  # noqa: BLE001 foreign code; the parent reports it to the user
            _write(replies, {"failure": f"{type(error).__name__}: {error}"[:500]})
            return
        _write(replies, {"failure": None})
        serve(judge, requests, replies)


if __name__ == "__main__":
    main(sys.argv[1])
