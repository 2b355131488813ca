"""Load a checkpoint's tokenizer as it was saved.

Invariant: a checkpoint that says its tokenizer is nothing but its `tokenizer.json` is tokenized by that file.
`AutoTokenizer` keeps to that for most models only: for some model types, qwen2 among them, it puts the type's own
pre-tokenizer in place of the file's, and a model with a vocabulary of its own then reads text in pieces it never saw.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

AS_SAVED = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""What `tokenizer_config.json` calls a tokenizer that is defined by `tokenizer.json` alone."""


def load_tokenizer(path_or_id: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a directory, or of a model on the hub; OSError where there is none."""
    is_as_saved = get_tokenizer_config(path_or_id).get("tokenizer_class") in AS_SAVED
    tokenizer: PreTrainedTokenizerBase = (PreTrainedTokenizerFast if is_as_saved else AutoTokenizer).from_pretrained(path_or_id)
    return tokenizer
