"""docs/reference/formats.md: its example prints what it says; every format and option has a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from forkpoint.formats import FORMATS
from forkpoint.formats.options import Direction, options_of

DOCUMENT = (Path(__file__).parents[1] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")


def rows_of(title: str) -> dict[str, list[str]]:
    """The rows of the first table under a title, by each name in the first cell."""
    lines = DOCUMENT.split(title)[1].split("\n## ")[0].splitlines()
    tables = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")
    ]
    return {name.strip("` "): cells for cells in tables for name in cells[0].split(",")}


def test_the_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = (
        "\n".join(line[4:] for line in part.splitlines() if line.startswith("    "))
        for part in DOCUMENT.split("\nprints\n")[:2]
    )
    found: dict[str, Path] = {}
    exec(compile(code, "formats.md", "exec"), found)
    assert capsys.readouterr().out.strip() == printed.splitlines()[0]
    assert json.loads((found["folder"] / "er.json").read_text())[0]["value"] == [1.0, 0.0]
    assert (found["folder"] / "bench.parquet").is_file()


def test_every_format_has_a_row() -> None:
    assert rows_of("A format is what a row looks like").keys() == FORMATS.keys()


def test_every_option_has_a_row_that_says_which_formats_and_directions_it_is_for() -> None:
    table = rows_of("## Options")
    for direction, column in zip(get_args(Direction), (2, 3), strict=True):
        usable = {name for name, known in FORMATS.items() if direction == "read" or known.can_write}
        wanted = {(key, name) for name in usable for key in options_of(FORMATS[name].codec, direction)}
        told: set[tuple[str, str]] = set()
        for key, cells in table.items():
            named = {name for name in FORMATS if f"`{name}`" in cells[1]}
            if cells[1].startswith("all but"):
                named = set(FORMATS) - named
            told |= {(key, name) for name in named & usable if cells[column]}
        assert told == wanted
