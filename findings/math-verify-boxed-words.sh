#!/usr/bin/env bash
# math-verify 0.9.0: a word in a box is a product of its letters, so letters in any order and case are the
# same answer.
#
# Behaviour:  \boxed{listen} = \boxed{silent}, \boxed{HHT} = \boxed{THH}, \boxed{BCA} = \boxed{ABC},
#             \boxed{no} = \boxed{on}. \boxed{\text{east}} and \boxed{\text{seat}} differ, because \text is
#             compared as a string; but \boxed{dog} and \boxed{god} differ too, because "do" happens to be
#             read as one symbol.
# Expected:   words and letter sequences compared as strings, with or without \text.
# Matters:    sequences of coin flips, orders of finish and "which of A, B, C" orderings are graded right in
#             any order, so every rollout of such a problem counts as correct, and all its steps are labelled
#             good.
# Seen:       all the equalities above
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
"$work/venv/bin/python" - <<'PY'
from math_verify import parse, verify


def same(gold: str, answer: str) -> bool:
    verdict = verify(parse(rf"\boxed{{{gold}}}"), parse(rf"\boxed{{{answer}}}"))
    print(gold, answer, verdict)
    return verdict


assert all(
    same(*pair) for pair in (("listen", "silent"), ("HHT", "THH"), ("BCA", "ABC"), ("no", "on"), ("AB", "ba"))
)
assert not same(r"\text{east}", r"\text{seat}")
assert not same("dog", "god")
PY
