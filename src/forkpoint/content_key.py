"""The key of an item: a hash of its content.

Invariant: equal content has equal keys on every machine and in every version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"


def canonical_json(obj: Any) -> str:
    """Return the canonical text of `obj`: sorted names, no blanks, ASCII; tuples as lists.

    ValueError for NaN and infinities.
    """
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_key(obj: Any) -> str:
    """Return the key of an item: 16 bytes of BLAKE2b over its canonical JSON, as hex."""
    return hashlib.blake2b(canonical_json(obj).encode(), digest_size=16).hexdigest()
