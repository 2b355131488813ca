"""Which format a file of step labels is in, by the columns of a row.

Invariant: a row is taken for a format only where no other known one has these columns; `processbench` and `prm800k` share
names with others and are told by what the columns hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forkpoint.formats import names, recognise


def recognise_format(row: Mapping[str, Any]) -> str:
    """The name of the format of a row. ValueError where its columns do not tell."""
    name = recognise(row)
    if name is None:
        raise ValueError(
            f"the columns {', '.join(row) or '(none)'} tell no format; name it with --format: {', '.join(names())}"
        )
    return name
