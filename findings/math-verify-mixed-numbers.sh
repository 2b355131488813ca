#!/usr/bin/env bash
# math-verify 0.9.0: a mixed number in plain text has the value of its numerator, and neighbouring numbers in
# LaTeX are added.
#
# Behaviour:  "3 1/2" is read as 1 and "5 3/4" as 3 (the numerators alone); "$3 1/2$" is read as (3 + 1)/2 =
#             2; "$1\,200$", a thousands separator of LaTeX, is read as 1 + 200 = 201. Only "$3\frac{1}{2}$"
#             is read as 7/2.
# Expected:   7/2 for every spelling of three and a half and 1200 for "$1\,200$", or no parse at all.
# Matters:    word problems have such answers. The right answer is graded wrong, so the leaves of a step tree
#             and the labels of every step above them are wrong; and "3 1/2" is accepted if the gold answer is
#             1. No error, no empty parse.
# Seen:       3 1/2 -> 1, 5 3/4 -> 3, $3 1/2$ -> 2, $3\frac{1}{2}$ -> 7/2, $1\,200$ -> 201
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
"$work/venv/bin/python" - <<'PY'
from math_verify import parse, verify
from sympy import Rational

seen = {text: parse(text)[0] for text in ("3 1/2", "5 3/4", "$3 1/2$", r"$3\frac{1}{2}$", r"$1\,200$")}
for text, value in seen.items():
    print(text, "->", value)
assert [seen[t] for t in ("3 1/2", "5 3/4", "$3 1/2$", r"$1\,200$")] == [1, 3, 2, 201]
assert seen[r"$3\frac{1}{2}$"] == Rational(7, 2)
assert not verify(parse("7/2"), parse("So it took 3 1/2 hours.")), "the right answer is refused"
assert verify(parse("1"), parse("3 1/2")), "a wrong answer is accepted"
PY
