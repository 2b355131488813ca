#!/usr/bin/env bash
# its-hub 1.2.0: responses without an answer vote, and together they win; equal responses get score 1.0 from
# no reward model.
#
# Behaviour:  create_regex_projection_function gives (None,) for a text without a match, and SelfConsistency
#             counts it as an answer: four unfinished texts beat two boxed 4s. AdaptiveSelfConsistency stops
#             after the first two texts if both lack an answer. BestOfN gives [1.0, ...] without calling its
#             reward model if all texts are equal.
# Expected:   texts without an answer do not vote; scores come from the reward model, 0.1 here.
# Matters:    with a token limit, cut-off solutions are common on hard problems, so the vote returns one of
#             them; and logged scores mix model outputs with an invented 1.0 on easy problems.
# Seen:       Counter({(None,): 4, ('4',): 2, ...}); 2 samples of 8 used; [1.0, 1.0] with 0 calls
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install its-hub==1.2.0
"$work/venv/bin/python" - <<'PY'
from its_hub.api import AbstractLanguageModel, AbstractOutcomeRewardModel
from its_hub.core.algorithms.adaptive_self_consistency import AdaptiveSelfConsistency
from its_hub.core.algorithms.bon import BestOfN
from its_hub.core.algorithms.self_consistency import SelfConsistency, create_regex_projection_function

texts = ["cut off", "cut", r"\boxed{4}", r"\boxed{4}", r"\boxed{5}", "no idea", "x", r"\boxed{6}"]


class Model(AbstractLanguageModel):
    def __init__(self, texts):
        self.texts = iter(texts)

    async def agenerate(self, messages, stop=None, **options):
        return [await self.agenerate_single(m) for m in messages]

    async def agenerate_single(self, messages, stop=None, **options):
        return {"role": "assistant", "content": next(self.texts)}


class Reward(AbstractOutcomeRewardModel):
    calls = 0

    def score(self, messages, **options):
        self.calls += 1
        return [0.1] * len(messages)

    async def ascore(self, messages, orchestrator=None, **options):
        return self.score(messages)


boxed = create_regex_projection_function(r"\\boxed\{([^}]*)\}")
vote = SelfConsistency(boxed).infer(Model(texts), "2 + 2?", budget=8, return_response_only=False)
early = AdaptiveSelfConsistency(consistency_space_projection_func=boxed)
early = early.infer(Model(texts), "2 + 2?", budget=8, return_response_only=False)
reward = Reward()
best = BestOfN(reward).infer(Model([r"\boxed{5}"] * 2), "2 + 2?", budget=2, return_response_only=False)
print(vote.response_counts, vote.the_one, len(early.responses), best.scores, reward.calls)
assert vote.response_counts[(None,)] == 4 and "boxed" not in vote.the_one["content"]
assert len(early.responses) == 2 and early.response_counts == {(None,): 2}
assert best.scores == [1.0, 1.0] and reward.calls == 0
PY
