#!/usr/bin/env bash
# math-verify 0.9.0 misreads values as Python and SymPy print them: 1e-05 is 1, 2*sqrt(3) is 2, 3*pi is 3.
#
# Behaviour:  parse(str(value)) takes the first or last plain number in the text: str(0.00001) -> 1,
#             str(1.2e17) -> 1.2, str(2*sqrt(3)) -> 2, str(3*pi) -> 3, str(3 + 4*I) -> 4, "x**2 + 1" -> 1. In
#             dollar signs it is no better: $1e-05$ is e - 5 and $3*pi$ is 3*i*p, although $2*sqrt(3)$ is
#             right there.
# Expected:   the value, or an empty parse.
# Matters:    gold answers computed by a program (synthetic problems, tables of floats) are turned into text
#             with str(). Every such gold then accepts wrong answers: 2*sqrt(3) and 2*sqrt(5) are "equal". Use
#             sympy.latex(value) in dollar signs.
# Seen:       as above
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv "$work/venv"
install() { "$work/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
install math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0
"$work/venv/bin/python" - <<'PY'
import sympy
from math_verify import parse, verify

x, two_roots, three_pi = sympy.Symbol("x"), 2 * sympy.sqrt(3), 3 * sympy.pi
read = {str(v): parse(str(v))[0] for v in (0.00001, 1.2e17, two_roots, three_pi, 3 + 4 * sympy.I, x**2 + 1)}
print(read)
assert list(read) == ["1e-05", "1.2e+17", "2*sqrt(3)", "3*pi", "3 + 4*I", "x**2 + 1"]
assert [float(v) for v in read.values()] == [1, 1.2, 2, 3, 4, 1]
assert verify(parse("1e-05"), parse("1")) and verify(parse("2*sqrt(3)"), parse("2*sqrt(5)"))
assert float(parse("$1e-05$")[0]) == float(sympy.E) - 5
assert parse("$3*pi$")[0].free_symbols, "pi is read as two letters"
assert parse(f"${sympy.latex(three_pi)}$")[0] == three_pi, "the remedy"
PY
