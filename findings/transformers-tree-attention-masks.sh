#!/usr/bin/env bash
# transformers 5.23.0: a boolean 4D tree mask is exact with sdpa and no mask at all with eager; on Gemma 3 it
# switches the window off.
#
# Behaviour:  a mask (1, 1, T, T) of booleans that hides one branch from its sibling gives the separate
#             branches' logits with attn_implementation="sdpa". With "eager" it is added to the scores as 0
#             and 1, so every token sees every other, later ones included. A float mask of 0 and 1 does that
#             with both. On a model with sliding-window layers, the one 4D mask is used in all layers as it
#             is: a plain causal mask gives other logits than no mask.
# Expected:   one meaning of a boolean mask, or an error; a window that stays.
# Matters:    packed trees (one forward for all branches) are trained and scored with such masks. Asking for
#             attention weights means choosing eager, and the scores then leak from sibling branches. Use an
#             additive mask (0 and the smallest float), and a dict {"full_attention": ...,
#             "sliding_attention": ...} for models with windows.
# Seen:       sdpa boolean 1e-05, eager boolean > 1, 0/1 floats > 1 with both, additive 1e-05 with both; Gemma
#             3 one mask > 1, dict 1e-05
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install torch==2.13.0
install transformers==5.23.0
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PY'
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
torch.set_grad_enabled(False)
size = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)
ids = torch.randint(3, 60, (1, 12))
prefix, first, second = ids[:, :6], ids[:, 6:9], ids[:, 9:]
positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8]])
tree = torch.tril(torch.ones(12, 12, dtype=torch.bool))
tree[9:, 6:9] = False


def additive(mask):
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)[None, None]


gap = {}
model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, initializer_range=0.5, **size)).eval()
for attention in ("sdpa", "eager"):
    model.set_attn_implementation(attention)
    wanted = torch.cat(
        [model(torch.cat([prefix, first], 1)).logits, model(torch.cat([prefix, second], 1)).logits[:, 6:]], 1
    )
    for kind, mask in (
        ("bool", tree[None, None]),
        ("0/1", tree[None, None].float()),
        ("additive", additive(tree)),
    ):
        got = model(ids, position_ids=positions, attention_mask=mask).logits
        gap[attention, kind] = float((got - wanted).abs().max())
kinds = ["sliding_attention", "sliding_attention", "full_attention"]
gemma = Gemma3ForCausalLM(
    Gemma3TextConfig(num_hidden_layers=3, layer_types=kinds, sliding_window=4, initializer_range=0.5, **size)
).eval()
causal = torch.tril(torch.ones(12, 12, dtype=torch.bool))
window = causal & ~torch.tril(torch.ones(12, 12, dtype=torch.bool), diagonal=-4)
for kind, mask in (
    ("one mask", causal[None, None]),
    ("dict", {"full_attention": additive(causal), "sliding_attention": additive(window)}),
):
    gap["gemma", kind] = float((gemma(ids, attention_mask=mask).logits - gemma(ids).logits).abs().max())
print(gap)
for case in (("sdpa", "bool"), ("sdpa", "additive"), ("eager", "additive"), ("gemma", "dict")):
    assert gap[case] < 1e-3, case
for case in (("eager", "bool"), ("sdpa", "0/1"), ("eager", "0/1"), ("gemma", "one mask")):
    assert gap[case] > 0.1, case
PY
