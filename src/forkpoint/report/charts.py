"""Lay out accuracy curves as SVG coordinates; `chart.html.j2` draws them.

Invariant: every row that has an x value is drawn, even if its line is hidden at first. Both charts share the
y axis, the colours (selection rule), and the dashes and marker shapes (sampler). Lines with the same x value
are a few pixels apart so that their intervals can be distinguished. Colours come from the style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forkpoint.report.results import ResultRow
from forkpoint.report.words import count, interval, percent

_SELECTS = ("best", "policy-weighted", "majority", "weighted", "oracle")
_DASHES = ("", "7 4", "2 3", "10 3 2 3")
_MAX_SHOWN = 6
"""If there are more lines than this, weighted votes are hidden at first."""
_LABEL_GAP = 15.0


@dataclass(frozen=True, slots=True)
class Series:
    """The data and the look of one line; lines that differ only in the aggregate share a key and a look."""

    key: str
    sampler_name: str
    select: str
    aggregate: str | None
    colour: str
    dash: str
    shape: int
    rows: tuple[ResultRow, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """The size of a drawing and the margins around its plot, in SVG units."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One measured point with its interval."""

    x: float
    y: float
    y_low: float
    y_high: float
    path: str
    tip: str


@dataclass(frozen=True, slots=True)
class DrawnLine:
    series: Series
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class EndLabel:
    """The name of a line beside its last point, and the leader between the two."""

    series: Series
    aggregate: str
    """The aggregate whose view the label belongs to."""
    x: float
    y: float
    from_x: float
    from_y: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    x_title: str
    frame: Frame
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[DrawnLine, ...]
    labels: tuple[EndLabel, ...]
    greedy_y: float | None
    num_missing: int
    """Rows without an x value."""


@dataclass(frozen=True, slots=True)
class LegendCell:
    series: Series
    is_shown: bool
    sample: str
    """The path of the marker in a box of 34 x 14."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Both charts, each as a wide and a narrow drawing, with the legend they share."""

    selects: tuple[str, ...]
    legend: tuple[tuple[str, tuple[LegendCell | None, ...]], ...]
    """One line for each sampler, with one cell for each selection rule."""
    aggregates: tuple[str, ...]
    hidden: frozenset[str]
    """Keys of the lines that are hidden at first."""
    by_n: tuple[Chart, Chart]
    by_tokens: tuple[Chart, Chart]


@dataclass(frozen=True, slots=True)
class _Axis:
    """The x axis of a chart: which number of a row it shows, and where that is placed."""

    title: str
    x_title: str
    x_of: Callable[[ResultRow], float | None]
    place: Callable[[float], float]
    ticks: tuple[Tick, ...]


_WIDE = Frame(width=580, height=400, left=46, right=150, top=34, bottom=52)
_WIDE_PLAIN = Frame(width=580, height=400, left=46, right=18, top=34, bottom=52)
_NARROW = Frame(width=358, height=330, left=38, right=10, top=32, bottom=50)


def curves(rows: Sequence[ResultRow], greedy: float | None) -> Curves | None:
    """Return the charts of all rows except greedy ones, which become a reference line.

    None if nothing is left to draw.
    """
    lines = series_of(rows)
    if not lines:
        return None
    aggregates = tuple(dict.fromkeys(line.aggregate for line in lines if line.aggregate is not None)) or ("",)
    aggregates = tuple(sorted(aggregates, key=lambda name: name != "min"))
    selects = tuple(sorted(dict.fromkeys(line.select for line in lines), key=_select_order))
    samplers = tuple(dict.fromkeys(line.sampler_name for line in lines))
    by_key = {line.key: line for line in lines}
    hidden = frozenset(
        key for key, line in by_key.items() if len(by_key) > _MAX_SHOWN and line.select == "weighted"
    )
    cells = {
        key: LegendCell(line, key not in hidden, marker(line.shape, 17, 7, 4.2))
        for key, line in by_key.items()
    }
    legend = tuple(
        (sampler, tuple(cells.get(_key(sampler, select)) for select in selects)) for sampler in samplers
    )
    return Curves(
        selects,
        legend,
        aggregates,
        hidden,
        by_n=(
            _chart(lines, greedy, aggregates, _WIDE, _n_axis(lines, _WIDE)),
            _chart(lines, greedy, (), _NARROW, _n_axis(lines, _NARROW)),
        ),
        by_tokens=(
            _chart(lines, greedy, (), _WIDE_PLAIN, _token_axis(lines, _WIDE_PLAIN)),
            _chart(lines, greedy, (), _NARROW, _token_axis(lines, _NARROW)),
        ),
    )


def series_of(rows: Sequence[ResultRow]) -> tuple[Series, ...]:
    """Group rows into lines in drawing order: the oracle first, best-of-n last and therefore on top."""
    samplers = list(dict.fromkeys(row.sampler_name for row in rows if row.select != "greedy"))
    grouped: dict[tuple[str, str, str | None], list[ResultRow]] = {}
    for row in rows:
        if row.select != "greedy":
            grouped.setdefault((row.sampler_name, row.select, row.aggregate), []).append(row)
    lines = [
        Series(
            key=_key(sampler, select),
            sampler_name=sampler,
            select=select,
            aggregate=aggregate,
            colour=select if select in _SELECTS else "other",
            dash=_DASHES[samplers.index(sampler) % len(_DASHES)],
            shape=samplers.index(sampler),
            rows=tuple(sorted(members, key=lambda row: row.n)),
        )
        for (sampler, select, aggregate), members in grouped.items()
    ]
    return tuple(sorted(lines, key=lambda line: -_select_order(line.select)))


def marker(shape: int, x: float, y: float, r: float) -> str:
    """Return the path of a marker around a point: circle, diamond, square or triangle."""
    corners = (
        [],
        [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    )[shape % 4]
    if not corners:
        return f"M{x - r:.1f} {y:.1f}a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z"
    return "M" + "L".join(f"{x + r * dx:.1f} {y + r * dy:.1f}" for dx, dy in corners) + "z"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions close to the wanted ones and at least `gap` apart, inside [low, high] if they fit."""
    order = sorted(range(len(wanted)), key=lambda idx: wanted[idx])
    placed = [0.0] * len(wanted)
    floor = low
    for idx in order:
        placed[idx] = max(wanted[idx], floor)
        floor = placed[idx] + gap
    ceiling = high
    for idx in reversed(order):
        placed[idx] = min(placed[idx], ceiling)
        ceiling = placed[idx] - gap
    return placed


def nice_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return at least two round values with a common step that cover [low, high]."""
    span = (high - low) or 1.0
    exponent = math.floor(math.log10(span / most))
    step = next(step for factor in (1, 2, 5, 10, 20) if span / (step := factor * 10.0**exponent) <= most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [idx * step for idx in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values inside [low, high] for a log axis: 1-2-5 decades, finer if fewer than 3 fit."""
    for factors in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), tuple(idx / 10 for idx in range(10, 100))):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [
            factor * 10.0**decade
            for decade in decades
            for factor in factors
            if low <= factor * 10.0**decade <= high
        ]
        if len(ticks) >= 3:
            return ticks
    return [low, high] if high > low else [low]


def _n_axis(lines: Sequence[Series], frame: Frame) -> _Axis:
    ns = sorted({row.n for line in lines for row in line.rows})
    place = _log_place(ns[0], ns[-1], frame)
    ticks = _apart([Tick(place(n), str(n)) for n in ns], 24)
    return _Axis(
        "Accuracy by number of solutions",
        "n, solutions per problem (log scale)",
        lambda row: float(row.n),
        place,
        ticks,
    )


def _token_axis(lines: Sequence[Series], frame: Frame) -> _Axis:
    known = [row.tokens for line in lines for row in line.rows if row.tokens] or [1.0]
    place = _log_place(min(known), max(known), frame)
    ticks = _apart([Tick(place(value), f"{value:,g}") for value in log_ticks(min(known), max(known))], 34)
    return _Axis(
        "Accuracy by sampled tokens",
        "sampled tokens per problem (log scale)",
        lambda row: row.tokens or None,
        place,
        ticks,
    )


def _apart(ticks: Sequence[Tick], gap: float) -> tuple[Tick, ...]:
    """Return the ticks without those that would overlap the one before."""
    kept: list[Tick] = []
    for tick in ticks:
        if not kept or tick.at - kept[-1].at > gap:
            kept.append(tick)
    return tuple(kept)


def _log_place(low: float, high: float, frame: Frame) -> Callable[[float], float]:
    pad = 22.0
    left, width = frame.left + pad, frame.width - frame.left - frame.right - 2 * pad
    span = math.log(high / low)
    return lambda value: left + width * (math.log(value / low) / span if span else 0.5)


def _chart(
    lines: Sequence[Series], greedy: float | None, aggregates: Sequence[str], frame: Frame, axis: _Axis
) -> Chart:
    """Return a drawing; lines are labelled at their ends, in one view for each aggregate."""
    every = [row for line in lines for row in line.rows]
    bounds = [value for row in every for value in (row.accuracy, row.ci_low, row.ci_high)] + (
        [] if greedy is None else [greedy]
    )
    ticks = nice_ticks(100 * max(0.0, min(bounds)), 100 * min(1.0, max(bounds)))
    low, high = ticks[0], ticks[-1]
    plot_height = frame.height - frame.top - frame.bottom

    def place_y(fraction: float) -> float:
        return frame.top + plot_height * (high - 100 * fraction) / (high - low)

    shifts = _shifts(lines, 5.0 if frame.width > 400 else 3.6)
    drawn = tuple(_line(line, axis, place_y, shifts[line.key]) for line in lines)
    return Chart(
        title=axis.title,
        x_title=axis.x_title,
        frame=frame,
        x_ticks=axis.ticks,
        y_ticks=tuple(Tick(place_y(value / 100), f"{value:g}") for value in ticks),
        lines=drawn,
        labels=tuple(label for aggregate in aggregates for label in _end_labels(drawn, aggregate, frame)),
        greedy_y=None if greedy is None else place_y(greedy),
        num_missing=sum(axis.x_of(row) is None for row in every),
    )


def _shifts(lines: Sequence[Series], step: float) -> dict[str, float]:
    """Return how far each line is shifted sideways, in SVG units; symmetric around zero."""
    keys = list(dict.fromkeys(line.key for line in lines))
    step = min(step, 40 / len(keys))
    return {key: step * (idx - (len(keys) - 1) / 2) for idx, key in enumerate(keys)}


def _line(line: Series, axis: _Axis, place_y: Callable[[float], float], shift: float) -> DrawnLine:
    marks = []
    for row in line.rows:
        value = axis.x_of(row)
        if value is None:
            continue
        x, y = axis.place(value) + shift, place_y(row.accuracy)
        marks.append(
            Mark(x, y, place_y(row.ci_low), place_y(row.ci_high), marker(line.shape, x, y, 3.6), _tip(row))
        )
    path = "M" + "L".join(f"{mark.x:.1f} {mark.y:.1f}" for mark in marks) if marks else ""
    return DrawnLine(line, path, tuple(marks))


def _end_labels(lines: Sequence[DrawnLine], aggregate: str, frame: Frame) -> list[EndLabel]:
    shown = [line for line in lines if line.marks and line.series.aggregate in (None, aggregate)]
    heights = spread([line.marks[-1].y for line in shown], _LABEL_GAP, frame.top, frame.height - frame.bottom)
    x = frame.width - frame.right + 8
    names = [
        f"{line.series.sampler_name} {line.series.select}".replace("T\u00a0=\u00a0", "") for line in shown
    ]
    return [
        EndLabel(line.series, aggregate, x, y, line.marks[-1].x + 6, line.marks[-1].y, name)
        for line, y, name in zip(shown, heights, names, strict=True)
    ]


def _tip(row: ResultRow) -> str:
    tokens = "" if row.tokens is None else f"{count(row.tokens)} sampled tokens per problem\n"
    return (
        f"{row.sampler_name} \u00b7 {row.select_name}\n{percent(row.accuracy)} "
        f"{interval(row.ci_low, row.ci_high)}\n"
        f"{tokens}{row.num_problems:,} problems"
    )


def _key(sampler_name: str, select: str) -> str:
    return f"{sampler_name}/{select}"


def _select_order(select: str) -> int:
    return _SELECTS.index(select) if select in _SELECTS else len(_SELECTS)
