"""Rows in .jsonl, .json and .parquet files, and in data sets of a hub (through `datasets`).

Invariant: rows are read and written one at a time (Parquet: one batch at a time; a .json array is read
whole). A file that is being written takes its place when it is complete, or leaves no trace. What cannot be
read is an error that names the file and the line (from 1) or row (from 0).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from forkpoint.row_files import PlacedRow, Row, checked_row, hub_rows, jsonl_rows

BATCH_ROWS = 1000
"""Rows of a Parquet file that are in memory at once; also the size of its row groups."""
HUB = "hub:"
HUB_KEYS = ("split", "config")
SUFFIXES = (".jsonl", ".json", ".parquet")


def read_rows(source: str | Path) -> Iterator[PlacedRow]:
    """The rows of a file, or of `hub:OWNER/NAME?split=train&config=NAME`.

    NAME may also be a directory that `datasets` can load.

    Raises FileNotFoundError or ValueError at once if the source cannot be used, and ValueError when it comes
    to a row that cannot be read.
    """
    if str(source).startswith(HUB):
        return _hub_rows(str(source).removeprefix(HUB))
    path = Path(source)
    readers = {".jsonl": _jsonl_rows, ".json": _json_rows, ".parquet": _parquet_rows}
    suffix = _suffix(path, f" or {HUB}OWNER/NAME?split=train")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return readers[suffix](path)


def write_rows(path: Path, rows: Iterable[Row], columns: Mapping[str, Any]) -> int:
    """Write all rows and return how many there are.

    The file appears, or replaces an older one, when it is complete.
    `columns` gives the types of the columns (see `codec.Columns`), which Parquet needs before the first row.
    If getting a row raises, whatever was at `path` stays as it was.
    """
    writers = {".jsonl": _write_jsonl, ".json": _write_json, ".parquet": _write_parquet}
    suffix = _suffix(path)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no directory {path.absolute().parent}")
    with _replacing(path) as partial:
        return writers[suffix](partial, rows, columns)


def _suffix(path: Path, or_else: str = "") -> str:
    if path.suffix not in SUFFIXES:
        raise ValueError(
            f"the suffix of a file says how rows are kept: {', '.join(SUFFIXES)}{or_else}; "
            f"{str(path)!r} was given"
        )
    return path.suffix


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _jsonl_rows(path: Path) -> Iterator[PlacedRow]:
    return jsonl_rows(path, "a row")


def _json_rows(path: Path) -> Iterator[PlacedRow]:
    """The rows of one array, of an object whose values are arrays (Mr-Ben), or of lines (MR-MATH)."""
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        if _begins_with_an_object_per_line(path):
            yield from _jsonl_rows(path)
            return
        raise ValueError(f"{path} is not JSON: {error}; one object per line is .jsonl") from None
    if isinstance(rows, dict) and rows and all(isinstance(group, list) for group in rows.values()):
        rows = list(itertools.chain.from_iterable(rows.values()))
    if not isinstance(rows, list):
        raise ValueError(
            f"{path} holds a {type(rows).__name__}; a .json file of rows is one array, or an object of arrays"
        )
    for idx, row in enumerate(rows):
        place = f"{path}, row {idx}"
        yield place, checked_row(place, row, "a row")


def _begins_with_an_object_per_line(path: Path) -> bool:
    with path.open("rb") as file:
        lines = [line for line in itertools.islice(file, 2) if line.strip()]
    try:
        return len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def _parquet_rows(path: Path) -> Iterator[PlacedRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not Parquet: {error}") from None
    with file:
        rows = itertools.chain.from_iterable(batch.to_pylist() for batch in file.iter_batches(BATCH_ROWS))
        for idx, row in enumerate(rows):
            yield f"{path}, row {idx}", row


def _hub_rows(name_and_query: str) -> Iterator[PlacedRow]:
    name, _, query = name_and_query.partition("?")
    keys = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    for key in keys:
        if key not in HUB_KEYS:
            raise ValueError(f"key {key!r} is unknown for {HUB}; choose from {', '.join(HUB_KEYS)}")
    return hub_rows(name, keys.get("split", "train"), keys.get("config"))


def _json(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def _write_jsonl(partial: Path, rows: Iterable[Row], columns: Mapping[str, Any]) -> int:
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(_json(row) + "\n")
            count += 1
    return count


def _write_json(partial: Path, rows: Iterable[Row], columns: Mapping[str, Any]) -> int:
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        file.write("[")
        for row in rows:
            file.write(("," if count else "") + "\n" + _json(row))
            count += 1
        file.write("\n]\n")
    return count


def _write_parquet(partial: Path, rows: Iterable[Row], columns: Mapping[str, Any]) -> int:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, _arrow_type(kind)) for name, kind in columns.items()])
    remaining, count = iter(rows), 0
    with pyarrow.parquet.ParquetWriter(partial, schema) as writer:
        while batch := list(itertools.islice(remaining, BATCH_ROWS)):
            for row in batch:
                assert row.keys() == columns.keys(), (
                    f"a row has the columns {', '.join(row)}; {', '.join(columns)} were promised"
                )
            writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _arrow_type(kind: Any) -> Any:
    import pyarrow

    if isinstance(kind, list):
        return pyarrow.list_(_arrow_type(kind[0]))
    if isinstance(kind, dict):
        return pyarrow.struct([(name, _arrow_type(cell_kind)) for name, cell_kind in kind.items()])
    return {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}[
        kind
    ]
