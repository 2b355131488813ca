"""`forkpoint grade`: verdicts on a file of answers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from forkpoint.cli.app import app
from forkpoint.cli.console import err_console, out_console
from forkpoint.grading.file import grade_file
from forkpoint.grading.response import Reasoning


@app.command
def grade(file: Path, *, grader: str = "math", out: Path | None = None, reasoning: Reasoning = "drop") -> int:
    """Grade JSON lines with `reference` and `prediction`, and print the counts.

    Parameters
    ----------
    file
        The answers; a line may have its own `grader`.
    grader
        numeric, math, exact, choice, code (unit tests), or module:function for a grader of your own.
    out
        File for the verdicts, as JSON lines.
    reasoning
        Whether text between reasoning tags such as `<think>` is dropped before answers are looked for, or
        read like the rest.
    """
    counts = grade_file(file, grader, out, reasoning=reasoning)
    table = Table(title=str(file), show_header=False)
    for name in ("num_correct", "num_wrong", "num_ungradable"):
        table.add_row(name, f"{getattr(counts, name):,}")
    table.add_row("unreadable", str(tuple(asdict(line) for line in counts.unreadable)))
    out_console.print(table)
    err_console.print(counts.unread.message(), highlight=False, markup=False, soft_wrap=True)
    return 0
