#!/usr/bin/env bash
# transformers 5.23.0, model with sliding-window layers (Gemma 3 kind): a cache rebuilt from its own keys and
# values is silently shorter, and DynamicCache(config) cannot be rolled back past the window, while
# DynamicCache() can.
#
# Behaviour:  after 12 tokens with a window of 8, the windowed layer keeps 7 keys. DynamicCache([(keys,
#             values), ...], config=...) made of the same tensors reports 7 tokens instead of 12, because it
#             reads the first layer's keys: the next token gets position 7 and other logits. crop(-2) on a
#             cache made with the config raises RuntimeError; on DynamicCache(), which keeps all keys, it
#             works and the logits are exact.
# Expected:   the same length and logits from the same tensors (copy.deepcopy does give them); the cache that
#             knows the model to be the one that can do more.
# Matters:    prefixes of a tree are stored and forked this way (keys and values taken out, saved, stacked,
#             put back). On full-attention models both recipes work, on windowed ones the fork continues from
#             a wrong place without an error.
# Seen:       12 against 7 tokens; difference of the next logits 0.2 rebuilt, 2e-06 kept, 2e-06 after crop on
#             DynamicCache()
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install torch==2.13.0
install transformers==5.23.0
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import copy

import torch
from transformers import DynamicCache, Gemma3ForCausalLM, Gemma3TextConfig

torch.manual_seed(0)
torch.set_grad_enabled(False)
config = Gemma3TextConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    sliding_window=8,
    layer_types=["sliding_attention", "full_attention"],
    initializer_range=0.5,
)
model = Gemma3ForCausalLM(config).eval()
ids = torch.randint(3, 60, (1, 14))
wanted = model(ids[:, :13]).logits[:, -1:]


def filled(cache, num_tokens):
    model(ids[:, :num_tokens], past_key_values=cache)
    return cache


def gap(cache):
    return float((model(ids[:, 12:13], past_key_values=cache).logits - wanted).abs().max())


kept = filled(DynamicCache(config=config), 12)
rebuilt = DynamicCache([(layer.keys, layer.values) for layer in kept.layers], config=config)
print(kept.get_seq_length(), rebuilt.get_seq_length())
assert (kept.get_seq_length(), rebuilt.get_seq_length()) == (12, 7)
gaps = {"rebuilt": gap(rebuilt), "deepcopy": gap(copy.deepcopy(kept)), "kept": gap(kept)}
plain = filled(DynamicCache(), 14)
plain.crop(-2)
gaps["plain, cropped"] = gap(plain)
print(gaps)
assert gaps.pop("rebuilt") > 0.01 and max(gaps.values()) < 1e-4
try:
    filled(DynamicCache(config=config), 14).crop(-2)
except RuntimeError as error:
    print(error)
else:
    raise SystemExit("a cache made with the config can be rolled back now")
PY
