"""`forkpoint grade`: verdicts on a file of answers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from forkpoint.cli.app import app
from forkpoint.cli.console import out_console
from forkpoint.grading.grade import grade_file


@app.command
def grade(file: Path, *, grader: str = "math", out: Path | None = None) -> int:
    """Grade JSON lines with `reference` and `prediction`, and print the counts.

    Parameters
    ----------
    file
        The answers; a line may have its own `grader`.
    grader
        numeric, math, exact, choice, code (unit tests), or module:function for a grader of your own.
    out
        File for the verdicts, as JSON lines.
    """
    counts = grade_file(file, grader, out)
    table = Table(title=str(file), show_header=False)
    for name, value in asdict(counts).items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    out_console.print(table)
    return 0
