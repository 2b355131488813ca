"""Arrange the results table and the comparisons for reading.

Invariant: every row of the results is in exactly one cell. The oracle never counts as highest because it
knows the answer, and no cell with n = 1 does because nothing is selected there. A cell is marked as lower
only if its whole interval lies below that of the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from forkpoint.report.headline import Standing, standing_of
from forkpoint.report.results import Comparison, ResultRow
from forkpoint.report.words import count

_SELECTS = ("greedy", "majority", "best", "weighted", "policy-weighted", "oracle")


@dataclass(frozen=True, slots=True)
class ResultCell:
    """A row of the results in its table cell."""

    row: ResultRow
    is_highest: bool
    """Whether no other row with this n has a higher accuracy; always false for an oracle or n = 1."""
    is_lower: bool
    """Whether its whole interval lies below that of the highest row with this n."""


@dataclass(frozen=True, slots=True)
class TableLine:
    """One selection rule, for all n."""

    title: str
    cells: tuple[tuple[ResultCell, ...], ...]
    """One tuple per n; it has more than one entry if the results repeat a setting."""


@dataclass(frozen=True, slots=True)
class SamplerGroup:
    """All table lines of one sampler."""

    title: str
    tokens: tuple[str, ...]
    """Sampled tokens per problem as text, one for each n."""
    lines: tuple[TableLine, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Groups of lines with common columns."""

    ns: tuple[int, ...]
    groups: tuple[SamplerGroup, ...]


@dataclass(frozen=True, slots=True)
class Whisker:
    """A comparison as a mark on an axis from 0 to 100; a difference of zero is at `Forest.zero`."""

    comparison: Comparison
    standing: Standing
    low: float
    mid: float
    high: float


@dataclass(frozen=True, slots=True)
class Forest:
    """All comparisons on one axis."""

    zero: float
    whiskers: tuple[Whisker, ...]


def table(rows: Sequence[ResultRow]) -> Table:
    """Arrange rows as a table: samplers as groups, selection rules as lines, n as columns."""
    ns = tuple(sorted({row.n for row in rows}))
    rivals = {n: [row for row in rows if row.n == n and n > 1 and row.select != "oracle"] for n in ns}
    highest = {n: max(rivals[n], key=lambda row: row.accuracy, default=None) for n in ns}
    titles = list(dict.fromkeys(_group_title(row) for row in rows))
    titles.sort(key=lambda title: title != "Greedy decoding")
    groups = []
    for title in titles:
        members = [row for row in rows if _group_title(row) == title]
        lines = list(dict.fromkeys((row.select, row.aggregate) for row in members))
        lines.sort(key=lambda line: _SELECTS.index(line[0]) if line[0] in _SELECTS else len(_SELECTS))
        groups.append(
            SamplerGroup(
                title=title,
                tokens=tuple(_tokens(members, n) for n in ns),
                lines=tuple(
                    TableLine(
                        title=select if aggregate is None else f"{select} ({aggregate})",
                        cells=tuple(
                            tuple(
                                _result_cell(row, highest[n])
                                for row in members
                                if (row.select, row.aggregate, row.n) == (select, aggregate, n)
                            )
                            for n in ns
                        ),
                    )
                    for select, aggregate in lines
                ),
            )
        )
    return Table(ns, tuple(groups))


def forest(comparisons: Sequence[Comparison]) -> Forest | None:
    """Place comparisons on a common axis that always contains zero; None if there are no comparisons."""
    if not comparisons:
        return None
    low = min(0.0, *(comparison.ci_low for comparison in comparisons))
    high = max(0.0, *(comparison.ci_high for comparison in comparisons))
    pad = 0.05 * (high - low) or 0.01
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    whiskers = tuple(
        Whisker(
            comparison,
            standing_of(comparison),
            place(comparison.ci_low),
            place(comparison.difference),
            place(comparison.ci_high),
        )
        for comparison in comparisons
    )
    return Forest(place(0.0), whiskers)


def _group_title(row: ResultRow) -> str:
    if row.select == "greedy":
        return "Greedy decoding"
    return row.sampler_name


def _result_cell(row: ResultRow, highest: ResultRow | None) -> ResultCell:
    if highest is None or row.select == "oracle":
        return ResultCell(row, is_highest=False, is_lower=False)
    return ResultCell(row, is_highest=row.accuracy == highest.accuracy, is_lower=row.ci_high < highest.ci_low)


def _tokens(members: Sequence[ResultRow], n: int) -> str:
    return " / ".join(
        dict.fromkeys(count(row.tokens) for row in members if row.n == n and row.tokens is not None)
    )
