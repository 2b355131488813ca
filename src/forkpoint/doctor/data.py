"""Examine a file of step labels: can every row be read, can a PRM learn from it, does it hold test questions?

Invariant: a row that cannot be read is reported by name, and the remaining checks are made on the other rows.
Solutions are held in memory. Whether the labels are right is not checked.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from forkpoint.doctor.data_format import recognise_format
from forkpoint.doctor.finding import Finding, ok, problem, warning
from forkpoint.doctor.label_run import examine_origin
from forkpoint.doctor.overlap import TestSet, find_overlaps, known_test_sets, read_test_set
from forkpoint.errors import LayoutError, TooLongError
from forkpoint.formats import FORMATS, names, parse_options
from forkpoint.formats.containers import read_rows
from forkpoint.formats.labels_file import LABELS
from forkpoint.records import LabelledSolution

HARD_ONLY = tuple(name for name in names("write") if not FORMATS[name].has_soft_labels)
"""Formats whose labels are right or wrong, with nothing in between."""
ENOUGH = 20
"""Fewest solutions of several steps from which the order of labels is judged."""


@dataclass(slots=True)
class DataFile:
    """The contents of a file: each solution with its place, and the reasons why other rows cannot be read."""

    format: str
    solutions: list[tuple[str, LabelledSolution]] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)
    is_torn: bool = False
    """Whether reading stopped before the end of the file."""


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
    """Examine a file, a label run or `hub:OWNER/NAME?split=train`.

    The format is recognised by the columns unless it is named; `assignments` are its options, each KEY=VALUE.
    `prm` (of a `family`) determines which solutions are too long. Test questions come from the files
    `against` (see `overlap.read_test_set`) and from the directory `known_data`. Raises ValueError if the
    format cannot be recognised and FileNotFoundError if there is no such file.
    """
    data = read_data(source, format_name, assignments)
    findings = [_rows(data)]
    origin = examine_origin(Path(source))
    if origin is not None:
        findings.append(origin)
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
    """Read the solutions of a file, and the reasons why other rows cannot be read."""
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
    except ValueError as error:  # an error of the file, not of a row: reading cannot go on
        data.bad_rows.append(str(error))
        data.is_torn = True
    return data


def _rows(data: DataFile) -> Finding:
    num_rows = len(data.solutions) + len(data.bad_rows)
    if data.is_torn:
        text = f"reading stops after {num_rows} rows, of which {len(data.bad_rows)} cannot be read"
        return problem("rows", f"{text}: correct the last one named", data.bad_rows)
    if data.bad_rows:
        return problem(
            "rows",
            f"{len(data.bad_rows)} of {num_rows} rows are not valid {data.format} rows: "
            "correct or remove them",
            data.bad_rows,
        )
    if not data.solutions:
        return problem("rows", "there are no rows: name a file that has some")
    num_steps = sum(len(solution.steps) for _, solution in data.solutions)
    return ok("rows", f"{num_rows:,} {data.format} rows with {num_steps:,} steps, each with a label")


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
            f"{len(silent)} solutions have no question, so a PRM would be trained without it "
            "(option first_step?)",
            silent,
        )
    if empty:
        return warning(
            "steps",
            f"{len(empty)} labelled steps have no text: join each to the step before it",
            empty,
        )
    return ok("steps", "every question and every step has text")


def _labels(data: DataFile) -> Finding:
    values = Counter(label.value for _, solution in data.solutions for label in solution.labels)
    mean = sum(value * count for value, count in values.items()) / values.total()
    if len(values) == 1:
        return problem(
            "labels",
            f"all {values.total():,} labels are {mean:g}, so there is nothing to learn: "
            "label both right and wrong solutions",
        )
    spread = f"{len(values):,} different values from {min(values):g} to {max(values):g}"
    return ok("labels", f"{values.total():,} labels with {spread}, {mean:.3f} on average")


def _order(data: DataFile) -> Finding:
    """Look for two signs that good and bad labels are swapped.

    The signs are right solutions whose last label is lower than that of wrong ones, and hard labels that
    rise.
    """
    solutions = [solution for _, solution in data.solutions]
    ends = {
        is_correct: [solution.labels[-1].value for solution in solutions if solution.is_correct == is_correct]
        for is_correct in (True, False)
    }
    if all(ends.values()):
        right, wrong = (sum(ends[is_correct]) / len(ends[is_correct]) for is_correct in (True, False))
        if right < wrong:
            text = (
                f"the last label of right solutions averages {right:.3f} and that of wrong ones {wrong:.3f}"
            )
            return problem("order", f"{text}: good and bad are swapped, so write 1 - label")
    several = [solution for solution in solutions if len(solution.steps) > 1]
    if len(several) >= ENOUGH and _is_hard(several):
        first, last = (
            sum(solution.labels[idx].value for solution in several) / len(several) for idx in (0, -1)
        )
        if first < last:
            text = (
                f"{first:.0%} of first steps are right and {last:.0%} of last ones, "
                "though errors tend to come late"
            )
            return warning("order", f"{text}: check whether good and bad are swapped")
    return ok("order", "there is no sign that good and bad are swapped")


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
        text = (
            f"{num_more} of {len(data.solutions)} solutions repeat an earlier one; "
            f"{num_differing} of the {len(repeated)} repeated have different labels"
        )
        details = [" = ".join(where for where, _ in found) for found in repeated]
        return warning("duplicates", f"{text}: remove them unless they should count more", details)
    num_questions = len({solution.question for _, solution in data.solutions})
    return ok("duplicates", f"every solution is different; there are {num_questions:,} questions")


def _soft(data: DataFile) -> Finding:
    if _is_hard([solution for _, solution in data.solutions]):
        return ok("soft labels", "all labels are 0 or 1, which every format can hold")
    if data.format == "trl":
        return problem(
            "soft labels",
            "TRL's format holds labels between 0 and 1, which its trainer turns into int(0.9) = 0: "
            "write booleans",
        )
    return ok(
        "soft labels",
        f"some labels are between 0 and 1, which {', '.join(HARD_ONLY)} accept only with a threshold",
    )


def _is_hard(solutions: Sequence[LabelledSolution]) -> bool:
    return all(label.value in (0.0, 1.0) for solution in solutions for label in solution.labels)


def _length(data: DataFile, prm: str, family: str | None) -> Finding:
    from forkpoint.doctor.reader import reader_of

    try:
        reader = reader_of(prm, family)
    except LayoutError as error:
        return problem("length", f"{prm} cannot read solutions: {error}")
    refused, num_long = [], 0
    for where, solution in data.solutions:
        try:
            reader.encoder.encode(solution.question, solution.steps)
        except LayoutError as error:
            refused.append(f"{where}: {error}")
            num_long += isinstance(error, TooLongError)
    if refused:
        share = len(refused) / len(data.solutions)
        text = f"{len(refused)} of {len(data.solutions)} solutions ({share:.1%}) do not fit the PRM"
        return warning(
            "length",
            f"{text}, {num_long} because of their length: they would be left out of training, "
            f"so raise max_length ({reader.max_length}) or remove them",
            refused,
        )
    return ok(
        "length", f"all {len(data.solutions)} solutions fit the PRM, which reads {reader.max_length} tokens"
    )


def check_overlap(data: DataFile, test_sets: Sequence[TestSet]) -> Finding:
    """Report which test questions appear in the data (see `overlap` for the rule)."""
    if not test_sets:
        return warning(
            "overlap",
            "not checked, because no test set was named: give --against FILE, or set FORKPOINT_DATA",
        )
    found = find_overlaps(_questions(data), test_sets)
    sizes = ", ".join(
        f"{sum(item.test_set == test_set.name for item in found)} of {len(test_set.questions)} "
        f"of {test_set.name}"
        for test_set in test_sets
    )
    if found:
        num_exact = sum(item.match == "exactly" for item in found)
        details = [
            f"{item.where} appears {item.match} in {item.row} ({item.share:.0%} of its 8-word sequences)"
            for item in found
        ]
        text = (
            f"{num_exact} test questions appear in the data exactly, "
            f"{len(found) - num_exact} nearly ({sizes})"
        )
        return problem("overlap", f"{text}: remove them from the data, or do not test on them", details)
    return ok("overlap", f"no test question appears in the data ({sizes})")


def _questions(data: DataFile) -> Iterator[tuple[str, str]]:
    """Yield the place and the question of each solution, or its first step if the question was left in it."""
    for where, solution in data.solutions:
        yield where, solution.question if solution.question.strip() else solution.steps[0]
