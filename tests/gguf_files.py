"""Tiny GGUF files for tests, written with the package gguf from random Llama models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode

from checkpoints import CHATML

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (("Ġ", "Ġ"), ("Ċ", "Ċ"), ("a", "b"))
BYTES: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
VOCABULARY = [*CONTROL, *BYTES.values(), *map("".join, MERGES)]
BLOCKS = {"token_embd": "model.embed_tokens", "output": "lm_head", "output_norm": "model.norm"}
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def make_llama(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A random Llama model over `VOCABULARY`, with tied embeddings."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    }
    return LlamaForCausalLM(LlamaConfig(**(settings | changes)))


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    quantisation: str = "F32",
    metadata: dict[str, Any] | None = None,
    arrays: dict[str, np.ndarray[Any, Any]] | None = None,
    left_out: tuple[str, ...] = (),
    architecture: str = "llama",
) -> Path:
    """Write the model as llama.cpp does; `metadata` is added or, if None, taken away."""
    import gguf

    kind = gguf.GGMLQuantizationType[quantisation]
    writer = gguf.GGUFWriter(path, architecture)
    entries = _metadata(model, architecture) | (metadata or {})
    for key, value in entries.items():
        if value is not None:
            _add(writer, key, value)
    tensors = {name: tensor for name, tensor in _tensors(model).items() if name not in left_out}
    for name, tensor in (tensors | (arrays or {})).items():
        if tensor.ndim == 2 and quantisation != "F32":
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _metadata(model: LlamaForCausalLM, architecture: str) -> dict[str, Any]:
    config: Any = model.config
    sizes = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "rope.dimension_count": config.hidden_size // config.num_attention_heads,
        "vocab_size": config.vocab_size,
    }
    return {
        "general.name": "Tiny Llama",
        **{f"{architecture}.{key}": value for key, value in sizes.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": VOCABULARY,
        "tokenizer.ggml.token_type": [3] * len(CONTROL) + [1] * (len(VOCABULARY) - len(CONTROL)),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in MERGES],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _tensors(model: LlamaForCausalLM) -> dict[str, np.ndarray[Any, Any]]:
    config: Any = model.config
    state = model.state_dict()
    tensors = {}
    for name, ours in BLOCKS.items():
        if not (name == "output" and config.tie_word_embeddings):
            tensors[f"{name}.weight"] = state[f"{ours}.weight"].numpy()
    for layer in range(config.num_hidden_layers):
        for name, ours in PARTS.items():
            weight = state[f"model.layers.{layer}.{ours}.weight"].numpy()
            if name in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if name == "attn_q" else config.num_key_value_heads
                weight = _interleaved(weight, heads)
            tensors[f"blk.{layer}.{name}.weight"] = weight
    return tensors


def _interleaved(weight: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """The rows of a query or key projection in the order of llama.cpp, which rotates neighbours."""
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
