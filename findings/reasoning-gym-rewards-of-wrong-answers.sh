#!/usr/bin/env bash
# reasoning-gym 0.1.25: score_answer gives wrong answers 1.0 in two families, up to 0.9 in many, and 0.01 for
# nonsense in two.
#
# Behaviour:  coin_flip: "0" scores 1.0 for 0.234375, because the shorter number is a prefix of the longer.
#             gsm_symbolic: "-20" scores 1.0 for 20. gcd, lcm, chain_sum, leg_counting and others that keep
#             the default: a wrong answer that contains the right digits scores the ratio of lengths, so
#             "1214" scores 0.75 for 214, more than "The answer is 214" (0.18). power_function: any wrong text
#             scores 0.01, and in fraction_simplification even None does.
# Expected:   1 for the right answer, 0 for a wrong one, or partial credit that is below 1 and falls with the
#             error.
# Matters:    "any rollout correct" (a hard label) as reward > 0 is true for every rollout of the last two
#             families, reward == 1 accepts wrong answers in the first two, and a mean of rewards (a soft
#             label) is not a rate of correctness.
# Seen:       the numbers above
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install reasoning-gym==0.1.25
"$work/venv/bin/python" - <<'PY'
import reasoning_gym


def score(family: str, answer):
    task = reasoning_gym.create_dataset(family, size=1, seed=3)
    value = task.score_answer(answer, task[0])
    print(family, task[0]["answer"], "|", answer, "->", value)
    return round(value, 2)


assert score("coin_flip", "0") == 1.0 and score("coin_flip", "0.234375") == 1.0
assert score("gsm_symbolic", "-20") == 1.0 and score("gsm_symbolic", "20") == 1.0
assert (
    score("chain_sum", "1214") == 0.75
    and score("chain_sum", "-214") == 0.75
    and score("chain_sum", "The answer is 214") == 0.18
)
assert score("power_function", "no idea") == 0.01 and score("fraction_simplification", None) == 0.01
PY
