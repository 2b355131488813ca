"""Which format a file of step labels is in, by the columns of a row.

Invariant: a row is taken for a format only where no other known one has these columns; `processbench` and `prm800k` share
names with others and are told by what the columns hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forkpoint.formats import names


def recognise_format(row: Mapping[str, Any]) -> str:
    """The name of the format of a row. ValueError where its columns do not tell."""
    kinds = {name: type(value) for name, value in row.items()}
    for name, columns in COLUMNS.items():
        if all(kinds.get(column) in types for column, types in columns.items()):
            return name
    raise ValueError(
        f"the columns {', '.join(row) or '(none)'} tell no format; name it with --format: {', '.join(names())}"
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
"""What a row of each format has at least."""
