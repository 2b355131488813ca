"""Recognise the format of a file of step labels by the columns of a row.

Invariant: a format is recognised only if no other known format has the same columns. `processbench` and
`prm800k` share column names with other formats and are distinguished by the types of the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forkpoint.formats import names


def recognise_format(row: Mapping[str, Any]) -> str:
    """Return the name of the format of a row. Raises ValueError if no known format has these columns."""
    kinds = {name: type(value) for name, value in row.items()}
    for name, columns in COLUMNS.items():
        if all(kinds.get(column) in types for column, types in columns.items()):
            return name
    raise ValueError(
        f"the columns {', '.join(row) or '(none)'} belong to no known format; name it with --format: "
        f"{', '.join(names())}"
    )


TEXT, LIST, RECORD, WHOLE = (str,), (list,), (dict,), (int,)
COLUMNS: dict[str, dict[str, tuple[type, ...]]] = {
    "forkpoint": {"problem_id": TEXT, "question": TEXT, "steps": LIST, "labels": LIST},
    "trl": {"prompt": TEXT, "completions": LIST, "labels": LIST},
    "rlhflow": {"conversations": LIST},
    "processbench": {"problem": TEXT, "steps": LIST, "label": WHOLE},
    "prm800k": {"question": RECORD, "label": RECORD},
    "math-shepherd": {"input": TEXT, "label": TEXT},
    "openrlhf": {"input": TEXT, "value": LIST},
    "er-prm": {"text": TEXT, "value": LIST},
}
"""Columns, with their types, that every row of a format has."""
