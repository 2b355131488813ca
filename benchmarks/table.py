"""Format the results of all benchmarks as one Markdown table.

    python benchmarks/table.py
    python benchmarks/table.py --write

This prints the results in `benchmarks/results`. With `--write`, the ratios that have a goal are written to
docs/explanations/speed.md between two lines `<!-- benchmarks -->`, and nothing else there is changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forkpoint.runs.durable import replace_file
from record import RESULTS, ROOT, shown

MARKER = "<!-- benchmarks -->\n"
HEADER = ("benchmark", "ratio", "median", "range", "goal", "met", "commit")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", "--readme", type=Path, default=ROOT / "docs" / "explanations" / "speed.md")
    parser.add_argument("--write", action="store_true", help="into the page on speed")
    args = parser.parse_args(argv)
    records = [json.loads(path.read_text()) for path in sorted(args.results.glob("*.json"))]
    if not records:
        raise SystemExit(f"{args.results} holds no results; run a benchmark first")
    if args.write:
        replace_file(
            args.page, [between_markers(args.page.read_text(), table(records, goals_only=True)).encode()]
        )
    else:
        print(table(records), end="")


def table(records: Sequence[Mapping[str, Any]], goals_only: bool = False) -> str:
    """Format one row per ratio (with a goal), and below the table the machine of each benchmark."""
    rows = [HEADER, ("---",) * len(HEADER)]
    for record in records:
        for name, ratio in record["ratios"].items():
            if goals_only and ratio["goal"] is None:
                continue
            goal = "-" if ratio["goal"] is None else f"{ratio['goal_is']} {ratio['goal']:g}"
            met = {None: "-", True: "yes", False: "no"}[ratio["is_met"]]
            span = f"{shown(ratio['min'])} .. {shown(ratio['max'])}"
            rows.append(
                (record["name"], name, shown(ratio["median"]), span, goal, met, short(record["commit"]))
            )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {origin(record)}" for record in records)]) + "\n"


def origin(record: Mapping[str, Any]) -> str:
    """Describe where and when a benchmark ran, and its command."""
    machine, versions = record["machine"], record["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB"
    return (
        f"{record['name']}: {record['date'][:10]}, {where}, torch {versions['torch']}; `{record['command']}`"
    )


def short(commit: str | None) -> str:
    """Format a commit for a table."""
    if commit is None:
        return "-"
    head, dash, dirty = commit.partition("-")
    return head[:7] + dash + dirty


def between_markers(text: str, inner: str) -> str:
    """Replace the text between the two markers. Raises ValueError if there are not exactly two."""
    parts = text.split(MARKER)
    if len(parts) != 3:
        raise ValueError(
            f"two lines {MARKER.strip()} are needed to know where the table goes; {len(parts) - 1} were found"
        )
    return MARKER.join([parts[0], f"\n{inner}\n", parts[2]])


if __name__ == "__main__":
    main()
