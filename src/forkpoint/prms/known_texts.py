"""The tokens of short texts that recur, such as the question and the first steps of a tree.

Invariant: what is remembered takes a bounded memory, however many texts are read: the texts that were not
read for the longest time are forgotten first.
Importing this file does not load torch or transformers.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

MAX_KNOWN_LENGTH = 1 << 12
"""Characters of the longest text that is remembered. Questions and steps recur; a text that is refused for
its length must not stay in memory."""
MAX_KNOWN_BYTES = 64 << 20
"""Memory of the texts and tokens that are remembered."""
TOKEN_BYTES = sys.getsizeof(1 << 20)
"""Memory of a token id, beside its place in a tuple."""
ENTRY_BYTES = 200
"""Memory of an entry of the dictionary, about."""


class KnownTexts:
    """Reads texts with `tokenize`, and remembers the tokens of short ones; safe to use in several threads."""

    def __init__(self, tokenize: Callable[[str], tuple[int, ...]]) -> None:
        self._tokenize = tokenize
        self._known: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._lock = Lock()
        self.num_bytes = 0
        """Memory of all that is remembered, about."""

    def tokens(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text."""
        if len(text) > MAX_KNOWN_LENGTH:
            return self._tokenize(text)
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
                return known
        ids = self._tokenize(text)
        with self._lock:
            if text not in self._known:
                self._known[text] = ids
                self.num_bytes += _num_bytes(text, ids)
            while self.num_bytes > MAX_KNOWN_BYTES:
                self.num_bytes -= _num_bytes(*self._known.popitem(last=False))
        return ids


def _num_bytes(text: str, ids: tuple[int, ...]) -> int:
    return ENTRY_BYTES + sys.getsizeof(text) + sys.getsizeof(ids) + TOKEN_BYTES * len(ids)
