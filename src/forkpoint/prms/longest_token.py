"""How long a text may be at most to fit into a number of tokens, without tokenising it.

Importing this file does not load torch or transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from forkpoint.errors import TooLongError

MOST_COMPOSED = 4
"""Characters that the normal form NFC makes one of at most: a letter and three marks."""
KEEPS = frozenset({"ByteLevel", "Split", "Digits", "Metaspace"})
"""Ways to cut a text before it is encoded that drop nothing, unless they say so."""
BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))
"""The tokens of an encoding that falls back to bytes."""


def longest_token(tokenizer: Any) -> int | None:
    """Return how many characters of a text one token covers at most; None if that is not known.

    It is known of byte-pair encodings that drop nothing: those of bytes, and those that fall back to bytes,
    if every byte is in their vocabulary. A token of them is at least as long as the text that it stands for.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    content = json.loads(backend.to_str())
    factor = _shrinks(content["normalizer"])
    cuts = _parts(content["pre_tokenizer"])
    drops = any(part["type"] not in KEEPS or part.get("behavior") == "Removed" for part in cuts)
    added, vocabulary = content["added_tokens"], content["model"]["vocab"]
    if (
        factor is None
        or drops
        or content["model"]["type"] != "BPE"
        or not _takes_bytes(content["model"], cuts)
        or any(token["lstrip"] or token["rstrip"] for token in added)
    ):
        return None
    return factor * max(map(len, [*vocabulary, *(token["content"] for token in added)]))


def refuse_long_text(num_characters: int, longest: int | None, max_length: int) -> None:
    """Raise TooLongError if a text of so many characters cannot fit into `max_length` tokens."""
    if longest is not None and num_characters > max_length * longest:
        raise TooLongError(
            f"the solution has {num_characters:,} characters, and no token has more than {longest}, so it "
            f"exceeds max_length {max_length}; a cut would lose steps, so it is refused: leave it out"
        )


def _takes_bytes(model: Mapping[str, Any], cuts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a text that is in no other way part of the vocabulary becomes one token per byte.

    A byte that the vocabulary does not have is dropped, or many of them become one unknown token.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = set(model["vocab"])
    if any(part["type"] == "ByteLevel" for part in cuts):
        return vocabulary.issuperset(ByteLevel.alphabet())
    return bool(model.get("byte_fallback")) and vocabulary.issuperset(BYTE_TOKENS)


def _parts(component: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """A part of a tokenizer, or the parts of a sequence."""
    if component is None:
        return []
    if component["type"] == "Sequence":
        return list(component.get("pretokenizers") or component.get("normalizers") or ())
    return [component]


def _shrinks(normalizer: Mapping[str, Any] | None) -> int | None:
    """By what factor a normalizer makes a text shorter at most; None if that is not known."""
    factor = 1
    for part in _parts(normalizer):
        if part["type"] == "NFC":
            factor *= MOST_COMPOSED
        elif part["type"] == "Replace":
            pattern = part["pattern"].get("String")
            if pattern is None or len(pattern) > len(part["content"]):
                return None
        elif part["type"] != "Prepend":
            return None
    return factor
