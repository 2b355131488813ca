"""`forkpoint score`: step scores for a file of solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from forkpoint.checkpoint import Device
from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import out_console, quiet_libraries
from forkpoint.prms.config import FamilyConfig
from forkpoint.prms.score_file import read_placed_solutions, score_rows, write_lines
from forkpoint.select import Aggregate


@app.command
def score(
    prm: str,
    file: Path,
    *,
    out: Path,
    aggregate: Aggregate | None = None,
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    device: Device = "auto",
) -> int:
    """Score the steps of solutions: JSON lines with `question` and `steps` (or `solution`, cut at line ends).

    Each line is written with its `step_scores` and `score`. Nothing is written unless every line can be
    scored.

    Parameters
    ----------
    prm
        A directory made by `forkpoint train`, a public PRM (a directory or a hub id), or the address of a
        `forkpoint serve`.
    file
        The solutions.
    out
        File for the scored lines.
    aggregate
        How step scores become one score: last, min, prod or mean; by default, the aggregate that the PRM was
        saved with.
    """
    quiet_libraries()
    scorer = family.load(prm, device)
    placed = read_placed_solutions(file)
    rows = score_rows(
        [row for _, row in placed],
        scorer,
        aggregate or scorer.format.aggregate,
        scorer.format.segmentation,
        [place for place, _ in placed],
    )
    write_lines(out, rows)
    out_console.print(
        f"scored {len(rows):,} solutions, {sum(len(row['step_scores']) for row in rows):,} steps: {out}",
        highlight=False,
    )
    return 0
