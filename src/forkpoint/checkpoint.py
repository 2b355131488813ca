"""Read a model checkpoint: its fingerprint, its tokenizer, and the device that it goes to.

Invariant: importing this file loads neither torch nor transformers. No code of a checkpoint is executed:
every load goes through `load_pretrained`, which refuses a checkpoint that needs some.
The fingerprint of the same files is the same wherever they lie. Only a sample of a large weight file is read,
so a fingerprint tells models apart; it is no proof against tampering.
A checkpoint that says its tokenizer is nothing but its `tokenizer.json` is tokenized by that file.
`AutoTokenizer` does so for most models only: for some model types, qwen2 among them, it replaces the
pre-tokenizer of the file with that of the type, and a model with its own vocabulary then reads text in pieces
that it never saw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Device = Literal["auto", "cpu", "cuda"]
"""Where a model runs; `auto` is the first CUDA device if there is one, else the CPU."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""The type of a model's weights; `auto` is bfloat16 on a GPU and float32 elsewhere."""
WEIGHT_BYTES = 1 << 24
NUM_PARTS = 256
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
"""The files of a checkpoint that are JSON objects; those of a tokenizer can be many megabytes."""
UNPACKED_GGUF = "unpacked_gguf.json"
"""The file of a directory that was unpacked from a GGUF file; it holds the digest of that file."""
TOKENIZERS_AS_SAVED = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""The classes that `tokenizer_config.json` names if `tokenizer.json` alone defines the tokenizer."""

ANSWER_MARK = "ANSWER-OF-NO-TEMPLATE"
"""An answer that no chat template contains by itself."""


def device_named(name: str) -> torch.device:
    """The torch device called `name`; `auto` is the first CUDA device if there is one, else the CPU."""
    import torch

    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def load_tokenizer(path_or_id: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a directory, or of a model on the hub; OSError if there is none."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    _check_json(path_or_id, TOKENIZER_FILES)
    is_as_saved = get_tokenizer_config(path_or_id).get("tokenizer_class") in TOKENIZERS_AS_SAVED
    loader = PreTrainedTokenizerFast if is_as_saved else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = load_pretrained(loader, path_or_id)
    return tokenizer


def turn_end(tokenizer: Any) -> int | None:
    """The special token that the chat template puts right after an answer; None if there is none."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    messages = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": ANSWER_MARK}]
    _, answer, tail = tokenizer.apply_chat_template(messages, tokenize=False).rpartition(ANSWER_MARK)
    ids = tokenizer.encode(tail.lstrip(), add_special_tokens=False) if answer else []
    return (
        ids[0] if ids and ids[0] in tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder) else None
    )


def load_pretrained(loader: Any, path_or_id: str | Path, **options: Any) -> Any:
    """The result of `loader.from_pretrained(path_or_id, **options)`; `loader` is a class of transformers.

    ValueError if a file of the checkpoint is damaged, or if the checkpoint needs code of its own: without an
    explicit answer, transformers asks on standard input whether to execute it. OSError if there is no such
    model.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    _check_json(path_or_id, MODEL_FILES)
    try:
        return loader.from_pretrained(path_or_id, trust_remote_code=False, **options)
    except SafetensorError as error:
        for path in sorted(Path(path_or_id).glob("*.safetensors")):
            weight_names(path)  # raises if this is the file
        raise ValueError(f"a weight file of {path_or_id} is damaged: {error}") from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{path_or_id} needs Python code of its own (auto_map in its configuration), and forkpoint "
            "executes no code of a checkpoint; take one whose architecture is part of transformers"
        ) from None
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ValueError(
            f"the weights of {path_or_id} have other shapes than its config.json says; copy both again"
        ) from error
    except (StrictDataclassError, UnpicklingError, EOFError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the files of {path_or_id} cannot be read ({type(error).__name__}: {reason:.200})"
        ) from error


def _check_json(path_or_id: str | Path, names: Sequence[str]) -> None:
    for name in names:
        if (path := Path(path_or_id) / name).is_file():
            read_json_object(path)


def weight_names(path: Path) -> set[str]:
    """The names of the weights in a safetensors file; ValueError names a file that is damaged.

    Only the header is read, which says how long the file must be.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or not complete: {error}; copy it again") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError names the file if it holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must be a JSON object")
    return content


def fingerprint(directory: Path, *settings: str) -> str:
    """Eight hexadecimal digits from a model's files and from settings that change what it does.

    Configuration and tokenizer files count whole; of each weight file its name, its size and up to 16 MiB,
    evenly spread. A model that was unpacked from a GGUF file counts by the digest of that file, so that other
    versions of transformers, which write the same model otherwise, give the same fingerprint.
    """
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=4)
    if (directory / UNPACKED_GGUF).is_file():
        digest.update((directory / UNPACKED_GGUF).read_bytes())
        return digest.hexdigest()
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
