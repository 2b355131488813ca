#!/usr/bin/env bash
# math-verify 0.9.0: whether a second \boxed replaces the first or is joined to it depends on what stands
# between them.
#
# Behaviour:  two boxes close together become one set, {3, 5}, which equals neither 3 nor 5; with a longer
#             text between them only the last one counts; inside dollar signs they are joined only by ",",
#             "and" or "or".
# Expected:   the last box, or the first, or the set, whichever it is for every text.
# Matters:    a policy that corrects itself ("\boxed{3}. Wait, that is wrong. \boxed{5}") is graded wrong if
#             it does so in few words and right if it takes more, so a reward made of this verdict rewards
#             length. A tree that lets a path go on after its first box meets this in every such path.
# Seen:       a short correction -> {3, 5}; a longer text between -> 5; "$\boxed{3}$ and $\boxed{5}$" -> {3,
#             5}
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
"$work/venv/bin/python" - <<'PY'
from math_verify import parse, verify

gold = parse(r"\boxed{5}")
joined = (
    r"\boxed{3}. Wait, that is wrong. \boxed{5}",
    "\\boxed{3}\n\nWait: I forgot the two that she bought later, so 3 + 2.\n\n\\boxed{5}",
    r"$\boxed{3}$ and $\boxed{5}$",
)
last = (
    r"\boxed{3} is the subtotal. The total is then given by adding the remaining apples: \boxed{5}",
    r"$\boxed{3}$ Total: $\boxed{5}$",
    r"$\boxed{3}$ $\boxed{5}$",
)
for text in joined + last:
    print(repr(text), "->", parse(text)[0], verify(gold, parse(text)))
assert not any(verify(gold, parse(text)) for text in joined)
assert all(verify(gold, parse(text)) for text in last)
PY
