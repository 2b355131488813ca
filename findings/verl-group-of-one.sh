#!/usr/bin/env bash
# verl 0.9.1: for a group of one response, rloo and rloo_vectorized disagree, and grpo gives the raw reward as
# the advantage.
#
# Behaviour:  a lone response of reward 1 gets advantage 1 from grpo, grpo_vectorized, rloo and opo, and 0
#             from rloo_vectorized. In groups of two, rloo and rloo_vectorized agree.
# Expected:   the vectorised estimator gives what the other does; a response without companions has no
#             baseline, so 0.
# Matters:    groups of one arise when duplicates, pruned branches or unfinished rollouts are dropped, and
#             when every node of a tree is its own group. A lone response of reward 1 is then pushed as hard
#             as the only right one of a group, and a lone reward of -1 as hard the other way, whatever the
#             policy does elsewhere.
# Seen:       grpo 1.0, grpo_vectorized 1.0, rloo 1.0, opo 1.0, rloo_vectorized 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install torch==2.13.0
install numpy==2.4.6 packaging==26.4 ray==2.60.0 tensordict==0.15.3 omegaconf==2.4.0 \
  transformers==5.23.0 codetiming==1.4.0 orjson==3.13.0
install --no-deps verl==0.9.1
"$work/venv/bin/python" - <<'PY'
import numpy as np
import torch
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

rewards = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
group = np.array(["pair", "pair", "alone"], dtype=object)
seen = {}
for name in ("grpo", "grpo_vectorized", "rloo", "opo", "rloo_vectorized"):
    advantages, _ = get_adv_estimator_fn(name)(
        token_level_rewards=rewards.clone(), response_mask=torch.ones(3, 2), index=group
    )
    seen[name] = [round(float(row[0]), 3) for row in advantages]
    print(name, seen[name], flush=True)
assert seen["rloo"][:2] == seen["rloo_vectorized"][:2] == [1.0, -1.0]
assert [seen[n][2] for n in seen] == [1.0, 1.0, 1.0, 1.0, 0.0]
PY
