#!/usr/bin/env bash
# verl 0.9.1: a step reward on a masked token counts for five advantage estimators and vanishes for three
# others.
#
# Behaviour:  token_level_rewards hold 0.9 and 0.1 on a position whose response_mask is 0 (a step tag or a
#             tool's token put into the response). grpo, grpo_vectorized, rloo, rloo_vectorized and gpg sum
#             the row without the mask, so the reward counts; gae, reinforce_plus_plus and remax give
#             advantages of exactly 0 everywhere.
# Expected:   one rule for all, and an error or a warning for a reward that is lost.
# Matters:    the tag is where a PRM scores a step and the token that must not be trained on, so this is the
#             natural place for the reward. Changing adv_estimator from grpo to gae then turns the process
#             reward off without a word. Put the reward on the last unmasked token of the step.
# Seen:       grpo +-0.7071, rloo +-0.8, gpg +-0.4; gae, reinforce_plus_plus, remax all 0
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
from types import SimpleNamespace

import numpy as np
import torch
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

rewards = torch.tensor([[0.0, 0.9, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0]])
mask = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]])
group = np.array(["a", "a"], dtype=object)
extra = {
    "gae": {"values": torch.zeros(2, 4), "gamma": 1.0, "lam": 1.0},
    "remax": {"reward_baselines": torch.zeros(2)},
    "reinforce_plus_plus": {"config": SimpleNamespace(gamma=1.0)},
}
counted, lost = {}, {}
for name in (
    "grpo",
    "grpo_vectorized",
    "rloo",
    "rloo_vectorized",
    "gpg",
    "gae",
    "reinforce_plus_plus",
    "remax",
):
    arguments = {
        "token_level_rewards": rewards.clone(),
        "response_mask": mask,
        **extra.get(name, {"index": group}),
    }
    advantages, _ = get_adv_estimator_fn(name)(**arguments)
    print(name, advantages.tolist(), flush=True)
    (lost if float(advantages.abs().max()) == 0 else counted)[name] = advantages
assert list(counted) == ["grpo", "grpo_vectorized", "rloo", "rloo_vectorized", "gpg"], list(counted)
assert list(lost) == ["gae", "reinforce_plus_plus", "remax"], list(lost)
PY
