"""Make tables and plots from the results of `recipes/evidence.py`; nothing is typed by hand.

    python recipes/evidence_tables.py          # print the tables
    python recipes/evidence_tables.py --write  # write them and the plots into the pages on the evidence

A table is placed between two marks `<!-- evidence NAME -->`; NAME is SETTING-ARM, or `front` or `parts`
for the tables that compare our search in all settings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cyclopts

from evidence_lab.plots import draw
from evidence_lab.tables import tables

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "explanations" / "evidence"


@dataclass(frozen=True)
class TablesConfig:
    """Where the results are, and whether the pages are written."""

    results: Path = ROOT / "recipes" / "results"
    write: bool = False


def main(config: Annotated[TablesConfig, cyclopts.Parameter(name="*")] = TablesConfig()) -> None:
    """Print the tables, or write tables and plots into the pages."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(config.results.glob("*.json"))}
    found = tables(results)
    if not config.write:
        for name, text in found.items():
            print(f"## {name}\n\n{text}\n")
        return
    for document in sorted(PAGES.glob("*.md")):
        text = document.read_text(encoding="utf-8")
        for name, table in found.items():
            mark = f"<!-- evidence {name} -->"
            before, *rest = text.split(mark)
            if len(rest) == 2:
                text = f"{before}{mark}\n\n{table}\n\n{mark}{rest[1]}"
        document.write_text(text, encoding="utf-8")
    for path in draw(results, PAGES):
        print(path)


if __name__ == "__main__":
    cyclopts.run(main)
