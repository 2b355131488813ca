"""Tiny random checkpoints for tests, with a character tokenizer and uneven distributions."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForTokenClassification,
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
    """Return a tokenizer with one token per printable ASCII character and a few special ones.

    `<eos>` is 1.
    """
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
    """Return a random `qwen2` (grouped heads), `llama` or `gpt2` with hidden size 32 and 2 layers.

    `changes` are applied to its configuration.
    """
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
        return GPT2LMHeadModel(
            GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **(shared | changes))
        )
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "max_position_embeddings": 256,
    }
    shared |= (
        sizes
        | {"num_attention_heads": 4, "num_key_value_heads": 2 if architecture == "qwen2" else 4}
        | changes
    )
    if architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shared))
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shared))
    raise ValueError(f"architecture {architecture!r} is unknown; choose from qwen2, llama, gpt2")


def make_checkpoint(path: Path, architecture: str = "qwen2", seed: int = 0, **changes: Any) -> Path:
    """Save a random model and the character tokenizer to `path`, and return the path."""
    make_model(architecture, seed, **changes).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GPT_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>")
LLAMA_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)


def make_sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer like Mistral's: `▁` for spaces and before a text, bytes for other characters."""
    merges = [("▁", "к"), ("▁к", "и"), ("▁", "+"), ("▁", "-")]
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "к",
        "и",
        *CHARACTERS.strip(),
    ]
    vocab = {piece: idx for idx, piece in enumerate(pieces + ["".join(pair) for pair in merges])}
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def make_byte_tokenizer(special: tuple[str, ...], template: str | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer like those of Llama 3 and Qwen: bytes, with a few merges.

    The merges are ` ки`, the same and a Z, ` +`, ` -`, empty lines, and a full stop before them.
    """
    merges = [
        ("Ð", "º"),
        ("Ð", "¸"),
        ("Ġ", "Ðº"),
        ("ĠÐº", "Ð¸"),
        ("Ġ", "+"),
        ("Ġ", "-"),
        ("Ċ", "Ċ"),
        (".", "ĊĊ"),
    ]
    merges.append(("ĠÐºÐ¸", "Z"))
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({piece: idx for idx, piece in enumerate(pieces)}, merges))
    split = pre_tokenizers.Split(Regex(GPT_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        list(special)
    )  # as in the originals, not all of them have a name such as eos_token
    bos = "<|begin_of_text|>" if "<|begin_of_text|>" in special else None
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token=bos, eos_token=special[1]
    )
    if bos is not None:
        fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
            f"{bos} $A", special_tokens=[(bos, fast.convert_tokens_to_ids(bos))]
        )
    fast.chat_template = template
    return fast


def make_public_prm(path: Path, family: str, seed: int = 0, **changes: Any) -> Path:
    """Save a random checkpoint in the published layout of `family`: architecture, weights and special tokens.

    `changes` are applied to the configuration of the model.
    """
    if family in ("math-shepherd", "trl"):
        architecture, tokenizer = "llama", make_sentencepiece_tokenizer()
    elif family in ("er-prm", "rlhflow"):
        architecture, tokenizer = "llama", make_byte_tokenizer(LLAMA_SPECIAL, LLAMA_3)
    else:
        architecture, tokenizer = "qwen2", make_byte_tokenizer(QWEN_SPECIAL, CHATML)
    if family == "skywork":
        tokenizer.bos_token = "<|endoftext|>"
    sizes = {"vocab_size": len(tokenizer), "eos_token_id": 0, "max_position_embeddings": 1024}
    model = make_model(architecture, seed, **sizes, **changes)
    tokenizer.save_pretrained(path)
    if family in ("trl", "pure"):
        head = AutoModelForTokenClassification.from_config(model.config)  # type: ignore[no-untyped-call]
        head.save_pretrained(path)
        return path
    model.save_pretrained(path)
    if family in ("qwen", "skywork"):
        _replace_head(path, family, model.config.hidden_size)
    return path


def _replace_head(path: Path, family: str, size: int) -> None:
    """Add the head of Qwen's and Skywork's PRMs, and what their config.json adds to that of Qwen2."""
    heads = {
        "qwen": {"score.0": (size, size), "score.2": (2, size)},
        "skywork": {"v_head.summary": (1, size)},
    }
    weights = load_file(path / "model.safetensors")
    for name, shape in heads[family].items():
        weights |= {f"{name}.weight": torch.randn(shape) / 4, f"{name}.bias": torch.randn(shape[0])}
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    said = {
        "qwen": {
            "architectures": ["Qwen2ForProcessRewardModel"],
            "auto_map": {
                "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
                "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
            },
        },
        "skywork": {"architectures": ["Qwen2ForPrmModel"]},
    }
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | said[family]))
