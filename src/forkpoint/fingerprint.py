"""A short hash of what a model directory holds, cheap enough to take at every start.

Invariant: the same files give the same hash wherever they lie. Of large weight files a sample is read, so a hash tells
models apart; it is no proof against tampering.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

WEIGHT_BYTES = 1 << 24
NUM_PARTS = 256


def fingerprint(directory: Path, *settings: str) -> str:
    """Eight hexadecimal digits from a model's files and from settings that change what it does.

    Configuration and tokenizer files count whole; of each weight file its name, its size and up to 16 MiB, evenly spread.
    """
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=4)
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".jinja", ".txt", ".model"):
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            _add_weights(digest, path)
    return digest.hexdigest()


def _add_weights(digest: hashlib.blake2b, path: Path) -> None:
    size = path.stat().st_size
    digest.update(f"{path.name} {size}".encode())
    num_parts = 1 if size <= WEIGHT_BYTES else NUM_PARTS
    length = WEIGHT_BYTES // num_parts
    with path.open("rb") as file:
        for part_idx in range(num_parts):
            file.seek((size - length) * part_idx // max(1, num_parts - 1) if num_parts > 1 else 0)
            digest.update(file.read(length))
