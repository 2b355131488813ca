"""Tiny random checkpoints for tests: a few thousand parameters, a character tokenizer, distributions that are not flat."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SPECIAL_TOKENS = ("<pad>", "<eos>", "<unk>", "<user>", "<assistant>")
CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " \n"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character, and a few special ones; `<eos>` is 1."""
    vocab = {token: idx for idx, token in enumerate((*SPECIAL_TOKENS, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
    )


def make_model(architecture: str = "qwen2", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random `qwen2` (grouped heads), `llama` or `gpt2` with hidden size 32 and 2 layers; `changes` go to its configuration."""
    torch.manual_seed(seed)
    num_tokens = len(SPECIAL_TOKENS) + len(CHARACTERS)
    shared: dict[str, Any] = {
        "vocab_size": num_tokens,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "initializer_range": 0.6,
    }
    if architecture == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **(shared | changes)))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 256}
    shared |= sizes | {"num_attention_heads": 4, "num_key_value_heads": 2 if architecture == "qwen2" else 4} | changes
    if architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shared))
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shared))
    raise ValueError(f"architecture {architecture!r} is unknown; choose from qwen2, llama, gpt2")


def make_checkpoint(path: Path, architecture: str = "qwen2", seed: int = 0, **changes: Any) -> Path:
    """Save a random model and the character tokenizer to `path`, which is returned."""
    make_model(architecture, seed, **changes).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path
