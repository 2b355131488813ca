"""Recognise the format of a file of step labels by the columns of a row.

Invariant: a format is recognised only if no other known format has the same columns. `processbench` and
`prm800k` share column names with other formats and are distinguished by the types of the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forkpoint.formats import names, recognise


def recognise_format(row: Mapping[str, Any]) -> str:
    """Return the name of the format of a row. Raises ValueError if no known format has these columns."""
    name = recognise(row)
    if name is None:
        raise ValueError(
            f"the columns {', '.join(row) or '(none)'} belong to no known format; name it with --format: "
            f"{', '.join(names())}"
        )
    return name
