"""Step-labelled data on disk: one labelled solution per line of JSON.

Invariant: reading what was written gives the same records, floats included. A line that cannot be read is an
error that names the line; no line is skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from forkpoint.formats.ours import Ours
from forkpoint.records import LabelledSolution
from forkpoint.row_files import jsonl_rows

LABELS = "labels.jsonl"
"""The name of the file of labels in the directory of a run."""
LABEL_CONFIG = "label_config.json"
"""The name of the file beside it that says how they were derived."""
LABELS_DIGEST, JOURNAL_DIGEST = "labels_digest", "journal_digest"
"""Its keys for hashes of the file of labels and of the journal that they were derived from."""


def write_labelled(path: Path, solutions: Iterable[LabelledSolution]) -> int:
    """Write all solutions and return how many there are.

    The file appears, or replaces an older one, when it is complete.
    """
    partial = path.with_name(path.name + ".partial")
    codec, count = Ours(), 0
    with partial.open("w", encoding="utf-8") as file:
        for solution in solutions:
            file.write(json.dumps(codec.to_row(solution), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    partial.replace(path)
    return count


def read_labelled(path: Path) -> Iterator[LabelledSolution]:
    """The solutions of a file, or of `labels.jsonl` in a run directory.

    ValueError names the first line whose cells are not those of a labelled solution: labels are numbers from
    0 to 1, texts are texts, and `is_correct` is true or false.
    """
    codec = Ours()
    for place, row in jsonl_rows(_file_of(path), "a labelled solution"):
        try:
            yield codec.from_row(row)
        except ValueError as error:
            raise ValueError(f"{place}: not a labelled solution: {error}") from None


def labels_digest(path: Path) -> str:
    """A hash of the file that `read_labelled` reads."""
    with _file_of(path).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _file_of(path: Path) -> Path:
    path = path / LABELS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"there are no labels at {path}; make them with `forkpoint label ... --out DIR`"
        )
    return path
