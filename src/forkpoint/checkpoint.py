"""Read a model checkpoint: its fingerprint, its tokenizer, and the device that it goes to.

Invariant: importing this file loads neither torch nor transformers.
The fingerprint of the same files is the same wherever they lie. Only a sample of a large weight file is read,
so a fingerprint tells models apart; it is no proof against tampering.
A checkpoint that says its tokenizer is nothing but its `tokenizer.json` is tokenized by that file.
`AutoTokenizer` does so for most models only: for some model types, qwen2 among them, it replaces the
pre-tokenizer of the file with that of the type, and a model with its own vocabulary then reads text in pieces
that it never saw.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Device = Literal["auto", "cpu", "cuda"]
"""Where a model runs; `auto` is the first CUDA device if there is one, else the CPU."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""The type of a model's weights; `auto` is bfloat16 on a GPU and float32 elsewhere."""
WEIGHT_BYTES = 1 << 24
NUM_PARTS = 256
TOKENIZERS_AS_SAVED = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""The classes that `tokenizer_config.json` names if `tokenizer.json` alone defines the tokenizer."""


def device_named(name: str) -> torch.device:
    """The torch device called `name`; `auto` is the first CUDA device if there is one, else the CPU."""
    import torch

    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def load_tokenizer(path_or_id: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a directory, or of a model on the hub; OSError if there is none."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    is_as_saved = get_tokenizer_config(path_or_id).get("tokenizer_class") in TOKENIZERS_AS_SAVED
    loader = PreTrainedTokenizerFast if is_as_saved else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = loader.from_pretrained(path_or_id)
    return tokenizer


def fingerprint(directory: Path, *settings: str) -> str:
    """Eight hexadecimal digits from a model's files and from settings that change what it does.

    Configuration and tokenizer files count whole; of each weight file its name, its size and up to 16 MiB,
    evenly spread.
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
