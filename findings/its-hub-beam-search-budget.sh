#!/usr/bin/env bash
# its-hub 1.2.0: BeamSearch starts from budget / beam_width samples, so a wider beam searches less; beam_width
# = budget is one path.
#
# Behaviour:  with budget 8 the calls of a level are 1 for beam_width 8, 2, 4, 8 for beam_width 4 and 8 for
#             beam_width 1. With beam_width 8 no choice is ever made. The result holds every finalist budget /
#             beam_width times over.
# Expected:   8 candidates at every level, of which beam_width are kept; distinct finalists.
# Matters:    a comparison of beam widths at "equal budget" compares different amounts of sampling, and a vote
#             or a pass@k over result.responses counts copies.
# Seen:       level sizes {8: [1, 1, 1], 4: [2, 4, 8], 2: [4, 8, 8], 1: [8, 8, 8]}; 8 responses of which 1, 4,
#             2, 1 are distinct
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install its-hub==1.2.0
"$work/venv/bin/python" - <<'PY'
import random

from its_hub.api import AbstractLanguageModel, AbstractProcessRewardModel
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.lms.step_generation import StepGeneration


class Model(AbstractLanguageModel):
    async def agenerate(self, messages, stop=None, **options):
        self.level_sizes.append(len(messages))
        return [{"role": "assistant", "content": f"step {random.random()}"} for _ in messages]


class Scorer(AbstractProcessRewardModel):
    def score(self, prompt, steps):
        return [random.random() for _ in steps]

    async def ascore(self, prompt, steps):
        return self.score(prompt, steps)


sizes, results = {}, {}
for width in (8, 4, 2, 1):
    model = Model()
    model.level_sizes = []
    search = BeamSearch(StepGeneration(max_steps=2, step_token="\n\n"), Scorer(), beam_width=width)
    result = search.infer(model, "2 + 2?", budget=8, return_response_only=False)
    sizes[width] = model.level_sizes
    results[width] = (len(result.responses), len({response["content"] for response in result.responses}))
print(sizes, results)
assert sizes == {8: [1, 1, 1], 4: [2, 4, 8], 2: [4, 8, 8], 1: [8, 8, 8]}
assert results == {8: (1, 1), 4: (8, 4), 2: (8, 2), 1: (8, 1)}
PY
