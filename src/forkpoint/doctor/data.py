"""Examine a file of step labels: can every row be read, can a PRM learn from it, does it hold test questions?

Invariant: a row that cannot be read is a finding that names it; the checks after it are made on the rows that can. Solutions are held
in memory. Whether the labels are right is not looked at.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forkpoint.doctor.data_format import recognise_format
from forkpoint.doctor.finding import Finding, ok, problem, warning
from forkpoint.doctor.overlap import TestSet, find_overlaps, known_test_sets, read_test_set
from forkpoint.errors import LayoutError
from forkpoint.formats import FORMATS, names, parse_options
from forkpoint.formats.containers import read_rows
from forkpoint.formats.labels_file import LABELS
from forkpoint.records import LabelledSolution

HARD_ONLY = tuple(name for name in names("write") if not FORMATS[name].has_soft_labels)
"""Formats that hold right or wrong, and nothing between."""
ENOUGH = 20
"""Solutions of several steps from which the order of labels is judged."""


@dataclass(slots=True)
class DataFile:
    """What was read of a file: each solution with its place, and why the other rows are not there."""

    format: str
    solutions: list[tuple[str, LabelledSolution]] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)
    is_torn: bool = False
    """Whether the file could not be read to its end."""


def examine_data(
    source: str,
    format_name: str | None = None,
    assignments: Sequence[str] = (),
    *,
    prm: str | None = None,
    family: str | None = None,
    against: Sequence[str] = (),
    known_data: Path | None = None,
) -> list[Finding]:
    """The findings on a file, a label run or `hub:OWNER/NAME?split=train`, in a format that is named or told by the columns.

    `assignments` are options of the format, KEY=VALUE each. `prm` (of a `family`) says what is too long. Test questions are those of
    the files `against` (see `overlap.read_test_set`) and of the directory `known_data`. ValueError where the format is not told,
    FileNotFoundError where there is no file.
    """
    data = read_data(source, format_name, assignments)
    findings = [_rows(data)]
    if data.solutions:
        findings += [_steps(data), _labels(data), _order(data), _duplicates(data), _soft(data)]
        if prm is not None:
            findings.append(_length(data, prm, family))
        test_sets = [
            *map(read_test_set, against),
            *(known_test_sets(known_data, Path(source)) if known_data else ()),
        ]
        findings.append(check_overlap(data, test_sets))
    return findings


def read_data(source: str, format_name: str | None = None, assignments: Sequence[str] = ()) -> DataFile:
    """The solutions of a file and the reasons for which rows are none."""
    path = str(Path(source) / LABELS) if Path(source).is_dir() else source
    rows = read_rows(path)
    if format_name is None:
        try:
            first = next(rows)
        except StopIteration:
            raise ValueError(f"{source} has no rows") from None
        format_name = recognise_format(first[1])
        rows = itertools.chain([first], rows)
    options = parse_options(format_name, "read", assignments)
    known = FORMATS[format_name]
    codec = known.codec(**{**known.preset, **options})
    data = DataFile(format_name)
    try:
        for where, row in rows:
            try:
                data.solutions.append((where, codec.from_row(row)))
            except ValueError as error:
                data.bad_rows.append(f"{where}: {error}")
    except ValueError as error:  # of the file, not of a row: it cannot be read on
        data.bad_rows.append(str(error))
        data.is_torn = True
    return data


def _rows(data: DataFile) -> Finding:
    num_rows = len(data.solutions) + len(data.bad_rows)
    if data.is_torn:
        text = f"reading stops after {num_rows} rows, {len(data.bad_rows)} of which cannot be read: correct the last one named"
        return problem("rows", text, data.bad_rows)
    if data.bad_rows:
        return problem(
            "rows",
            f"{len(data.bad_rows)} of {num_rows} rows are no rows of {data.format}: correct them or leave them out",
            data.bad_rows,
        )
    if not data.solutions:
        return problem("rows", "there are no rows: name the file that has them")
    num_steps = sum(len(solution.steps) for _, solution in data.solutions)
    return ok("rows", f"{num_rows:,} rows of {data.format} with {num_steps:,} steps, and a label for each")


def _steps(data: DataFile) -> Finding:
    silent = [where for where, solution in data.solutions if not solution.question.strip()]
    empty = [
        f"{where}, step {number}"
        for where, solution in data.solutions
        for number, step in enumerate(solution.steps, start=1)
        if not step.strip()
    ]
    if silent:
        return warning(
            "steps",
            f"{len(silent)} solutions have no question: a PRM would be trained without one (option first_step?)",
            silent,
        )
    if empty:
        return warning(
            "steps",
            f"{len(empty)} steps hold no text, and are labelled: join each to the step before it",
            empty,
        )
    return ok("steps", "every question and every step has text")


def _labels(data: DataFile) -> Finding:
    values = Counter(label.value for _, solution in data.solutions for label in solution.labels)
    mean = sum(value * count for value, count in values.items()) / values.total()
    if len(values) == 1:
        return problem(
            "labels",
            f"all {values.total():,} labels are {mean:g}, so there is nothing to learn: label right and wrong solutions",
        )
    text = f"{values.total():,} labels of {len(values):,} values from {min(values):g} to {max(values):g}, {mean:.3f} on average"
    return ok("labels", text)


def _order(data: DataFile) -> Finding:
    """Two signs of good and bad in each other's place: right solutions that end lower than wrong ones; hard labels that rise."""
    solutions = [solution for _, solution in data.solutions]
    ends = {
        is_correct: [solution.labels[-1].value for solution in solutions if solution.is_correct == is_correct]
        for is_correct in (True, False)
    }
    if all(ends.values()):
        right, wrong = (sum(ends[is_correct]) / len(ends[is_correct]) for is_correct in (True, False))
        if right < wrong:
            text = f"the last label of right solutions is {right:.3f} on average and that of wrong ones {wrong:.3f}"
            return problem("order", f"{text}: good and bad are in each other's place, so write 1 - label")
    several = [solution for solution in solutions if len(solution.steps) > 1]
    if len(several) >= ENOUGH and _is_hard(several):
        first, last = (
            sum(solution.labels[idx].value for solution in several) / len(several) for idx in (0, -1)
        )
        if first < last:
            text = f"{first:.0%} of first steps are right and {last:.0%} of last ones, though errors come later rather than earlier"
            return warning("order", f"{text}: look whether good and bad are in each other's place")
    return ok("order", "nothing says that good and bad are in each other's place")


def _duplicates(data: DataFile) -> Finding:
    places: defaultdict[tuple[str, tuple[str, ...]], list[tuple[str, tuple[float, ...]]]] = defaultdict(list)
    for where, solution in data.solutions:
        places[solution.question, solution.steps].append(
            (where, tuple(label.value for label in solution.labels))
        )
    repeated = [found for found in places.values() if len(found) > 1]
    if repeated:
        num_more = sum(len(found) - 1 for found in repeated)
        num_differing = sum(len({values for _, values in found}) > 1 for found in repeated)
        text = f"{num_more} of {len(data.solutions)} solutions stand there again, {num_differing} of {len(repeated)} with other labels"
        details = [" = ".join(where for where, _ in found) for found in repeated]
        return warning("duplicates", f"{text}: leave them out unless they are to count more", details)
    return ok(
        "duplicates",
        f"no solution stands there twice; there are {len({solution.question for _, solution in data.solutions}):,} questions",
    )


def _soft(data: DataFile) -> Finding:
    if _is_hard([solution for _, solution in data.solutions]):
        return ok("soft labels", "labels are 0 or 1, which every format holds")
    if data.format == "trl":
        return problem(
            "soft labels",
            "labels between 0 and 1 stand in TRL's format, whose trainer makes int(0.9) = 0 of them: write booleans",
        )
    return ok(
        "soft labels",
        f"there are labels between 0 and 1, so {', '.join(HARD_ONLY)} take them only with a threshold",
    )


def _is_hard(solutions: Sequence[LabelledSolution]) -> bool:
    return all(label.value in (0.0, 1.0) for solution in solutions for label in solution.labels)


def _length(data: DataFile, prm: str, family: str | None) -> Finding:
    from forkpoint.doctor.reader import reader_of

    try:
        reader = reader_of(prm, family)
    except LayoutError as error:
        return problem("length", f"{prm} reads no solution: {error}")
    refused, num_long = [], 0
    for where, solution in data.solutions:
        try:
            reader.encoder.encode(solution.question, solution.steps)
        except LayoutError as error:
            refused.append(f"{where}: {error}")
            num_long += f" {reader.max_length}" in str(error)
    if refused:
        share = len(refused) / len(data.solutions)
        text = f"{len(refused)} of {len(data.solutions)} solutions ({share:.1%}) do not fit the PRM, {num_long} for their length"
        return warning(
            "length",
            f"{text}: they would be left out, so raise max_length ({reader.max_length}) or leave them out",
            refused,
        )
    return ok(
        "length", f"all {len(data.solutions)} solutions fit the PRM, which reads {reader.max_length} tokens"
    )


def check_overlap(data: DataFile, test_sets: Sequence[TestSet]) -> Finding:
    """Which test questions stand in the data (the rule is in `overlap`)."""
    if not test_sets:
        return warning(
            "overlap",
            "not looked for, since no test set was named: give --against FILE, or set FORKPOINT_DATA",
        )
    found = find_overlaps(_questions(data), test_sets)
    sizes = ", ".join(
        f"{sum(item.test_set == test_set.name for item in found)} of {len(test_set.questions)} of {test_set.name}"
        for test_set in test_sets
    )
    if found:
        num_exact = sum(item.match == "exactly" for item in found)
        details = [
            f"{item.where} stands {item.match} in {item.row} ({item.share:.0%} of its 8-word sequences)"
            for item in found
        ]
        text = (
            f"{num_exact} test questions stand in the data exactly, {len(found) - num_exact} nearly ({sizes})"
        )
        return problem("overlap", f"{text}: leave them out, or do not test on them", details)
    return ok("overlap", f"no test question stands in the data ({sizes})")


def _questions(data: DataFile) -> Iterator[tuple[str, str]]:
    """Where a question stands, and the question; where it was left in the first step, that step."""
    for where, solution in data.solutions:
        yield where, solution.question if solution.question.strip() else solution.steps[0]
