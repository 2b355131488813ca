"""Read and write step labels in the formats of other projects.

A codec turns a row into a labelled solution and back; a container (.jsonl, .json, .parquet, a hub) holds
rows. The two are chosen independently: every codec works with every container. Invariant: nothing is skipped,
rounded or guessed unless the caller asks for it. What a format cannot hold is refused, with the row and the
reason. Importing this package loads neither torch nor datasets nor pyarrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forkpoint.formats.codec import RowReader, RowWriter
from forkpoint.formats.containers import read_rows, write_rows
from forkpoint.formats.labels_file import LABELS
from forkpoint.formats.math_shepherd import MathShepherd
from forkpoint.formats.mr_ben import MrBen
from forkpoint.formats.mr_math import FIRST_ERROR, MRMath
from forkpoint.formats.openrlhf import OpenRLHF
from forkpoint.formats.options import Direction, check_options, parse_assignments
from forkpoint.formats.ours import Ours
from forkpoint.formats.prm800k import PRM800K
from forkpoint.formats.processbench import ProcessBench
from forkpoint.formats.rlhflow import RLHFlow
from forkpoint.formats.trl import TRL
from forkpoint.records import LabelledSolution
from forkpoint.row_files import PlacedRow, Row


@dataclass(frozen=True, slots=True)
class Format:
    """A codec under a name, and what is known of the rows that it reads and writes."""

    codec: type[RowReader]
    columns: Mapping[str, type]
    """Columns that every row has, and the type of their cells (`object`: any). No other format has all of
    them."""
    preset: Mapping[str, object] = field(default_factory=dict)
    """Values of the codec's options that go with the name."""
    has_soft_labels: bool = False
    """Whether rows can hold labels between 0 and 1."""

    @property
    def can_write(self) -> bool:
        return hasattr(self.codec, "to_row")


FORMATS: dict[str, Format] = {
    "forkpoint": Format(
        Ours, {"problem_id": str, "question": str, "steps": list, "labels": list}, has_soft_labels=True
    ),
    "math-shepherd": Format(MathShepherd, {"input": str, "label": str}),
    "openrlhf": Format(OpenRLHF, {"input": str, "value": list}, has_soft_labels=True),
    "er-prm": Format(OpenRLHF, {"text": str, "value": list}, {"input_key": "text"}, has_soft_labels=True),
    "rlhflow": Format(RLHFlow, {"conversations": list}),
    "trl": Format(TRL, {"prompt": str, "completions": list, "labels": list}),
    "prm800k": Format(PRM800K, {"question": dict, "label": dict}),
    "processbench": Format(ProcessBench, {"problem": str, "steps": list, "label": int}),
    "mr-ben": Format(MrBen, {"Model_Solution_Steps": list, "Model_Solution_First_Error_Step": str}),
    "mr-math": Format(MRMath, {"model_output_step_format": list, FIRST_ERROR: object}),
}
"""Every format under its name; the order is that of messages."""


def names(direction: Direction = "read") -> list[str]:
    """The names of the formats that can be read, or of those that can be written."""
    return [name for name, known in FORMATS.items() if direction == "read" or known.can_write]


def recognise(row: Row) -> str | None:
    """The name of the format whose columns and types of cells a row has; None if it is in no known format."""
    for name, known in FORMATS.items():
        if all(
            column in row and (kind is object or type(row[column]) is kind)
            for column, kind in known.columns.items()
        ):
            return name
    return None


def read(
    source: str | Path, name: str, *, on_bad_row: Callable[[str], None] | None = None, **options: object
) -> Iterator[LabelledSolution]:
    """The solutions of `source`, in order.

    `source` is a file, a run directory (format `forkpoint`) or `hub:OWNER/NAME?split=train`; `options` are
    the fields of the format's codec. An unknown format or option, a wrong value and a missing file raise at
    once. A row that does not fit raises ValueError with its place and the reason; if `on_bad_row` is given,
    the row is left out instead and `on_bad_row` is called with that sentence. A file whose rest cannot be
    read (torn JSON) always raises.
    """
    reader = _codec(name, "read", options)
    if isinstance(reader, Ours) and Path(source).is_dir():
        source = Path(source) / LABELS
    return _solutions(reader, read_rows(source), name, on_bad_row)


def write(path: str | Path, name: str, solutions: Iterable[LabelledSolution], **options: object) -> int:
    """Write `solutions` to `path` in the format `name` and return how many there are.

    The file appears, or replaces an older one, when the last solution is written. Raises ValueError on an
    unknown format, option or suffix, and on the first solution that the format cannot hold: the message names
    its number (from 0) and its problem, and whatever was at `path` stays as it was.
    """
    writer = _codec(name, "write", options)
    assert isinstance(writer, RowWriter), f"{name} counts as a format that can be written"
    return write_rows(Path(path), _rows(writer, solutions, name), writer.columns)


def parse_options(name: str, direction: Direction, assignments: Sequence[str]) -> dict[str, Any]:
    r"""The options for `read` or `write` from texts such as `threshold=0.5`, as a command line has them.

    In strings, `\n` and `\t` stand for a line end and a tab. Raises ValueError on an option that the format
    does not have, or whose value has the wrong type.
    """
    options = parse_assignments(_format(name, direction).codec, assignments)
    _codec(name, direction, options)
    return options


def _format(name: str, direction: Direction) -> Format:
    if name not in FORMATS:
        raise ValueError(f"format {name!r} is unknown; choose from {', '.join(names(direction))}")
    if name not in names(direction):
        raise ValueError(
            f"format {name!r} can be read, not written; choose from {', '.join(names(direction))}"
        )
    return FORMATS[name]


def _codec(name: str, direction: Direction, options: Mapping[str, object]) -> RowReader:
    known = _format(name, direction)
    check_options(known.codec, name, direction, options)
    return known.codec(**{**known.preset, **options})


def _solutions(
    reader: RowReader, rows: Iterable[PlacedRow], name: str, on_bad_row: Callable[[str], None] | None
) -> Iterator[LabelledSolution]:
    for place, row in rows:
        try:
            solution = reader.from_row(row)
        except ValueError as error:
            message = f"{place} is not a row of {name}: {error}"
            if on_bad_row is None:
                raise ValueError(message) from None
            on_bad_row(message)
        else:
            yield solution


def _rows(writer: RowWriter, solutions: Iterable[LabelledSolution], name: str) -> Iterator[dict[str, Any]]:
    for idx, solution in enumerate(solutions):
        try:
            _check(solution)
            row = writer.to_row(solution)
        except ValueError as error:
            raise ValueError(
                f"solution {idx} (problem {solution.problem_id}) cannot be written as {name}: {error}"
            ) from None
        yield row


def _check(solution: LabelledSolution) -> None:
    if not solution.steps or len(solution.steps) != len(solution.labels):
        raise ValueError(
            f"it has {len(solution.steps)} steps and {len(solution.labels)} labels; "
            "it needs steps and one label for each"
        )
    for idx, label in enumerate(solution.labels):
        if not 0 <= label.value <= 1:
            raise ValueError(f"the label of step {idx + 1} is {label.value}; labels must be from 0 to 1")
