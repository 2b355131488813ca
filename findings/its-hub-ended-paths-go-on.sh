#!/usr/bin/env bash
# its-hub 1.2.0: a path ends at stop_token or after max_steps + 1 steps; the model's own end (finish_reason
# "stop") is not read.
#
# Behaviour:  StepGeneration(max_steps=5, step_token="\n\n") asks a model that ended its solution in the first
#             step for five more steps, and joins all six into the response.
# Expected:   a step that the model ended itself (finish_reason "stop", no step token) ends the path; five
#             steps at most.
# Matters:    chat servers strip the end token from the text, so stop_token cannot name it. Solutions come
#             back with a tail that the policy would not have written, the PRM scores that tail, and tokens
#             are counted for it.
# Seen:       steps_used [6]; "The answer is 4." six times
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install its-hub==1.2.0
"$work/venv/bin/python" - <<'PY'
from its_hub.api import AbstractLanguageModel, AbstractProcessRewardModel
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.lms.step_generation import StepGeneration


class Finished(AbstractLanguageModel):
    async def agenerate(self, messages, stop=None, **options):
        return [
            {"role": "assistant", "content": "The answer is 4.", "finish_reason": "stop"} for _ in messages
        ]


class Scorer(AbstractProcessRewardModel):
    def score(self, prompt, steps):
        return [0.5 for _ in steps]

    async def ascore(self, prompt, steps):
        return self.score(prompt, steps)


search = BeamSearch(StepGeneration(max_steps=5, step_token="\n\n"), Scorer(), beam_width=1)
result = search.infer(Finished(), "2 + 2?", budget=1, return_response_only=False)
print(result.steps_used, result.responses)
assert result.steps_used == [6]
assert result.responses[0]["content"] == "\n\n".join(["The answer is 4."] * 6)
PY
