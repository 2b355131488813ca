#!/usr/bin/env bash
# transformers 5.23.0: with use_cache=False and no attention mask, any jump in position_ids starts a new
# sequence; with the default use_cache=True, the same call does not.
#
# Behaviour:  position_ids that go back (0..8, then 6..8 for a second branch) or leave one out (..5, 7..) are
#             taken for packed sequences: tokens behind the jump do not see those before it. This holds for
#             batches too, and for sdpa and eager. An attention mask of ones, or a cache, turns the detection
#             off.
# Expected:   the same logits with and without a cache; positions that only say where a token stands.
# Matters:    branches of a tree placed behind each other lose their prefix, and a solution from which a token
#             was dropped (a step tag, say, with the positions kept) loses everything before it, in exactly
#             the calls that score or train (no cache), while a check by hand with the defaults shows other
#             numbers. Pass an explicit mask.
# Seen:       behind either jump, use_cache=False equals the tail alone to 1e-05; use_cache=True and a mask of
#             ones differ by > 1
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
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
torch.set_grad_enabled(False)
config = LlamaConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    initializer_range=0.5,
)
model = LlamaForCausalLM(config).eval()
ids = torch.randint(3, 60, (2, 12))
rows = {
    "back": (9, [0, 1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8]),
    "gap": (6, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]),
}
for attention in ("sdpa", "eager"):
    model.set_attn_implementation(attention)
    for name, (jump, row) in rows.items():
        positions = torch.tensor([row, row])
        alone = model(ids[:, jump:], position_ids=positions[:, jump:]).logits
        for use_cache, mask in ((False, None), (True, None), (False, torch.ones_like(ids))):
            logits = model(ids, position_ids=positions, attention_mask=mask, use_cache=use_cache).logits
            gap = float((logits[:, jump:] - alone).abs().max())
            print(attention, name, "use_cache", use_cache, "mask", mask is not None, gap)
            assert (gap < 1e-3) == (use_cache is False and mask is None)
PY
