"""The sentence at the top of the page that states the result, and the tiles below it.

Invariant: the comparison in the headline is that of the default search, or else chosen by its place in the
file, never by its outcome. Its standing follows from the interval alone: a gain is claimed only if the whole
95 % interval lies above zero.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forkpoint.report.results import Comparison, ResultRow, Results
from forkpoint.report.words import interval, percent, points, points_interval

Standing = Literal["better", "open", "worse", "none"]
"""How the first side of a comparison stands against the second; `none` if there is no comparison."""

_SIDE = re.compile(
    r"(?P<sampler>[\w-]+)(?:,? \(?T\s?=\s?(?P<temperature>\d+(?:\.\d+)?)\)?)?,? "
    r"(?P<select>(?:policy-)?[a-z]+)(?:(?:-of-| vote of )(?P<n>\d+))?(?: \((?P<aggregate>\w+)\))?"
)
DEFAULT_SEARCH, DEFAULT_SAMPLER, DEFAULT_SELECT = "tree-vote", "edu", "policy-weighted"
"""The default of `forkpoint search`, and the rows that measure it."""
_ROUNDING = 2e-3
"""How far a comparison's difference may be from the difference between the two rows taken as its sides."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One accuracy in large print."""

    title: str
    accuracy: float
    low: float | None
    high: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The top of the page."""

    sentence: str
    standing: Standing
    conclusion: str
    source: str
    """Which comparison the sentence is about, and why that one."""
    tiles: tuple[Tile, ...]


def headline(results: Results) -> Headline:
    """Return the headline of a run.

    It is about the default search against a majority vote of as many samples, and a single greedy solution.
    If the default search was not measured, it is about the first comparison of best-of-n with a majority
    vote, else the first comparison, else two of the rows.
    """
    default = _default_pair(results.rows)
    if default is not None:
        return _from_default(results, *default)
    comparison = _chosen(results.comparisons)
    if comparison is not None:
        return _from_comparison(results, comparison)
    pair = _usual_pair(results.rows)
    if pair is not None:
        return _from_rows(results, *pair)
    conclusion = (
        "results.json holds no rows."
        if not results.rows
        else "There is no best-of-n row with a majority row for the same sampler and n."
    )
    return Headline("Nothing to compare yet.", "none", conclusion, "", _tiles(results, None))


def standing_of(comparison: Comparison) -> Standing:
    """Return what the interval of a difference allows one to conclude."""
    if comparison.ci_low > 0:
        return "better"
    return "worse" if comparison.ci_high < 0 else "open"


def sides(rows: Sequence[ResultRow], comparison: Comparison) -> tuple[ResultRow, ResultRow] | None:
    """Return the two rows that a comparison's name refers to.

    None if name and numbers do not fit exactly one pair.
    """
    names = comparison.name.split(" minus ")
    if len(names) != 2:
        return None
    lefts, rights = (_rows_named(rows, name) for name in names)
    pairs = [
        (left, right)
        for left in lefts
        for right in rights
        if left.num_problems == right.num_problems
        and abs(left.accuracy - right.accuracy - comparison.difference) < _ROUNDING
    ]
    if len(pairs) > 1:
        pairs = [(left, right) for left, right in pairs if left.temperature == right.temperature]
    return pairs[0] if len(pairs) == 1 else None


def is_default(row: ResultRow) -> bool:
    """Whether a row measures the default search."""
    return (row.sampler, row.select) == (DEFAULT_SAMPLER, DEFAULT_SELECT)


def _default_pair(rows: Sequence[ResultRow]) -> tuple[ResultRow, ResultRow] | None:
    """Return the row of the default search at the largest n, and that of a majority of as many samples."""
    found = [row for row in rows if is_default(row)]
    largest = max((row.n for row in found), default=0)
    rivals = [row for row in found if row.n == largest]
    majority = next(
        (row for row in rows if (row.sampler, row.select, row.n) == ("ht", "majority", largest)), None
    )
    if not rivals or majority is None:
        return None
    return next((row for row in rivals if row.aggregate == "min"), rivals[0]), majority


def _from_default(results: Results, left: ResultRow, right: ResultRow) -> Headline:
    paired = [
        (comparison, *pair)
        for comparison in results.comparisons
        if (pair := sides(results.rows, comparison)) is not None and is_default(pair[0])
    ]
    told = next((found for found in paired if found[2].select == "majority"), None)
    if told is None:
        found, note = _from_rows(results, left, right), " No paired comparison of the two was written."
        difference = points(left.accuracy - right.accuracy) + " points"
    else:
        comparison, left, right = told
        found, note = _from_comparison(results, comparison), ""
        difference = _difference(comparison)
    sentence = (
        f"The default search, {DEFAULT_SEARCH} of {left.n} leaves, solves {_measured(left)} of the problems "
        f"and {right.select_name} of {right.sampler_name} samples solves {_measured(right)}, "
        f"a difference of {difference}."
    )
    greedy = next((item for item, _, rival in paired if rival.select == "greedy"), None)
    beside = "" if greedy is None else f" Against a single greedy solution it is {_difference(greedy)}."
    source = (
        f"{DEFAULT_SEARCH}, a vote among the leaves of an EDU tree weighted by policy and PRM, is the "
        f"default of forkpoint search; the page leads with it whatever its outcome.{note}"
    )
    return replace(found, sentence=sentence, conclusion=found.conclusion + beside, source=source)


def _difference(comparison: Comparison) -> str:
    interval_text = points_interval(comparison.ci_low, comparison.ci_high)
    return f"{points(comparison.difference)} points {interval_text}"


def _chosen(comparisons: Sequence[Comparison]) -> Comparison | None:
    for comparison in comparisons:
        names = comparison.name.split(" minus ")
        if len(names) == 2 and "best-of-" in names[0] and "majority-of-" in names[1]:
            return comparison
    return comparisons[0] if comparisons else None


def _rows_named(rows: Sequence[ResultRow], name: str) -> list[ResultRow]:
    match = _SIDE.fullmatch(name.strip())
    if match is None:
        return []
    wanted = match.groupdict()
    return [
        row
        for row in rows
        if row.sampler.lower() == wanted["sampler"].lower()
        and row.select == wanted["select"]
        and (wanted["temperature"] is None or row.temperature == float(wanted["temperature"]))
        and (wanted["n"] is None or row.n == int(wanted["n"]))
        and row.aggregate == wanted["aggregate"]
    ]


def _from_comparison(results: Results, comparison: Comparison) -> Headline:
    standing = standing_of(comparison)
    pair = sides(results.rows, comparison)
    difference = f"a difference of {_difference(comparison)}"
    sentence = f"{comparison.name}: {difference}." if pair is None else f"{_against(*pair)}, {difference}."
    problems = "" if comparison.num_problems is None else f" on {comparison.num_problems:,} problems"
    left, right = ("the first", "the second") if pair is None else _named_apart(*pair)
    conclusion = {
        "better": f"The whole 95 % interval of the difference is above zero: {left} beats {right}{problems}.",
        "open": "The 95 % interval of the difference includes zero: "
        f"this run{problems} does not show whether {left} is better or worse than {right}.",
        "worse": "The whole 95 % interval of the difference is below zero: "
        f"{left} does worse than {right}{problems}.",
        "none": "",
    }[standing]
    source = (
        f"This is the comparison \u201c{comparison.name}\u201d, "
        "chosen by its place in results.json and not by its outcome."
    )
    return Headline(sentence, standing, conclusion, source, _tiles(results, pair))


def _from_rows(results: Results, left: ResultRow, right: ResultRow) -> Headline:
    sentence = f"{_against(left, right)}, a difference of {points(left.accuracy - right.accuracy)} points."
    left_name, right_name = _named_apart(left, right)
    if left.ci_low > right.ci_high:
        standing: Standing = "better"
        conclusion = f"The two 95 % intervals do not overlap: {left_name} beats {right_name}."
    elif left.ci_high < right.ci_low:
        standing, conclusion = (
            "worse",
            f"The two 95 % intervals do not overlap: {left_name} does worse than {right_name}.",
        )
    else:
        standing, conclusion = (
            "open",
            "The two 95 % intervals overlap: these numbers alone do not show which is better.",
        )
    source = (
        "These are rows of the first sampler at its largest n, "
        "because results.json holds no paired comparison."
    )
    return Headline(sentence, standing, conclusion, source, _tiles(results, (left, right)))


def _against(left: ResultRow, right: ResultRow) -> str:
    said_left, said_right = _said(left), _said(right)
    if left.sampler_name != right.sampler_name:
        said_left, said_right = f"{left.sampler_name} {said_left}", f"{right.sampler_name} {said_right}"
    else:
        said_left = said_left[0].upper() + said_left[1:]
    return f"{said_left} solves {_measured(left)} of the problems and {said_right} solves {_measured(right)}"


def _named_apart(left: ResultRow, right: ResultRow) -> tuple[str, str]:
    if left.sampler_name == right.sampler_name:
        return left.select_name, right.select_name
    return f"{left.sampler_name} {left.select_name}", f"{right.sampler_name} {right.select_name}"


def _said(row: ResultRow) -> str:
    by_score = row.select in ("best", "weighted")
    return f"{row.select}-of-{row.n} with the trained PRM" if by_score else row.select_name


def _measured(row: ResultRow) -> str:
    return f"{percent(row.accuracy)} {interval(row.ci_low, row.ci_high)}"


def _usual_pair(rows: Sequence[ResultRow]) -> tuple[ResultRow, ResultRow] | None:
    majorities = {(row.sampler_name, row.n): row for row in rows if row.select == "majority"}
    bests = [row for row in rows if row.select == "best" and (row.sampler_name, row.n) in majorities]
    if not bests:
        return None
    first = bests[0].sampler_name
    largest = max(row.n for row in bests if row.sampler_name == first)
    rivals = [row for row in bests if row.sampler_name == first and row.n == largest]
    left = next((row for row in rivals if row.aggregate == "min"), rivals[0])
    return left, majorities[first, largest]


def _tiles(results: Results, pair: tuple[ResultRow, ResultRow] | None) -> tuple[Tile, ...]:
    tiles = []
    if results.greedy is not None:
        tiles.append(Tile("greedy", *results.greedy, "one solution, no sampling"))
    if pair is None:
        return tuple(tiles)
    left, right = pair
    rows = [right, left, *_ceilings(results.rows, left)]
    notes = {
        "majority": "most frequent answer",
        "best": "highest PRM score",
        "weighted": "PRM-weighted vote",
        "policy-weighted": f"{DEFAULT_SEARCH}, the default search",
        "oracle": "any solution is right: the upper bound",
    }
    for row in rows:
        note = f"{row.sampler_name} \u00b7 {notes[row.select]}" if row.select in notes else row.sampler_name
        tiles.append(Tile(row.select_name, row.accuracy, row.ci_low, row.ci_high, note))
    return tuple(tiles)


def _ceilings(rows: Sequence[ResultRow], like: ResultRow) -> list[ResultRow]:
    return [
        row
        for row in rows
        if row.select == "oracle" and row.sampler_name == like.sampler_name and row.n == like.n
    ][:1]
