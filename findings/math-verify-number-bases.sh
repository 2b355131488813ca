#!/usr/bin/env bash
# math-verify 0.9.0 drops the base of a number: 1010_2, 1010_3 and 1010 are one answer, and 120_5 is not 35.
#
# Behaviour:  the subscript of a number is ignored, whatever it is; the subscript of a letter is kept.
# Expected:   120_5 = 35, or at least 120_5 different from 120_7.
# Matters:    MATH has base-conversion problems whose gold answers look like 2516_8. A step that converts into
#             the wrong base passes if the digits agree, and the same number written in base 10 fails.
# Seen:       2516_8 = 2516, 120_5 = 120_7, 1010_2 = 1010_3; 120_5 differs from 35, a_5 from a_7
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
    verdict = verify(parse(f"${gold}$"), parse(f"${answer}$"))
    print(gold, answer, verdict)
    return verdict


assert same("2516_8", "2516") and same("120_5", "120_7") and same("1010_2", "1010_3")
assert not same("120_5", "35") and not same("35", "120_5") and not same("2516_8", "1358")
assert not same("a_5", "a_7")
PY
