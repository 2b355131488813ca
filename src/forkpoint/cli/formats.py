"""`forkpoint convert`: step-labelled data from one format to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from forkpoint import formats
from forkpoint.cli.app import app
from forkpoint.cli.console import err_console, out_console


@app.command
def convert(
    source: str,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    out: Path,
    to: str,
    read: tuple[str, ...] = (),
    write: tuple[str, ...] = (),
    skip_bad_rows: bool = False,
) -> int:
    """Convert step-labelled data from one format to another; see docs/reference/formats.md.

    Parameters
    ----------
    source
        A file (.jsonl, .json, .parquet), a run directory of `forkpoint label`, or hub:OWNER/NAME?split=train.
    from_
        Format of the source: forkpoint, math-shepherd, openrlhf, er-prm, rlhflow, trl, prm800k, processbench,
        mr-ben, mr-math.
    out
        The file to write; its suffix is .jsonl, .json or .parquet.
    to
        The format to write.
    read
        Options for reading, KEY=VALUE each.
    write
        Options for writing, KEY=VALUE each, such as threshold=0.5 if soft labels become booleans.
    skip_bad_rows
        Skip rows that cannot be read, and print the reason; by default, the first such row ends the command.
    """
    num_bad = 0

    def on_bad_row(reason: str) -> None:
        nonlocal num_bad
        num_bad += 1
        err_console.print(reason, highlight=False, markup=False, soft_wrap=True)

    rows = formats.read(
        source,
        from_,
        on_bad_row=on_bad_row if skip_bad_rows else None,
        **formats.parse_options(from_, "read", read),
    )
    num_written = formats.write(out, to, rows, **formats.parse_options(to, "write", write))
    out_console.print(
        f"{num_written:,} solutions written, {num_bad:,} rows left out: {out}",
        highlight=False,
        soft_wrap=True,
    )
    return 0
