r"""The judge that compares two LaTeX texts with math-verify.

Invariant: the case of symbols counts (`R/r` is not 1), and numbers are equal only if they are close relative
to their size (`10^{-20}` is not `10^{-21}`). math-verify folds the case and compares to a fixed number of
decimals, without a setting for either, so those functions are replaced here, in the process that calls this.
This file limits neither time nor memory; the parent kills a process that overruns (see `pool.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

EXACT_TOLERANCE = 1e-12
"""Relative difference of equal numbers that are written exactly; what is left is the noise of evaluation."""
FLOAT_TOLERANCE = 1e-6
"""Relative difference of equal numbers if one is a decimal, which may be rounded."""
NUM_DIGITS = 30
"""Decimal digits to which numbers are evaluated before they are compared."""
ZERO = 1e-100
"""Smaller differences are what the evaluation of an exact zero leaves."""


def load_math_judge() -> Callable[[str, str], bool]:
    """Load the judge; it takes the reference and the prediction.

    The import and the first parse are slow, so they are done here, before the time limit of any answer
    starts.
    """
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # math-verify logs every expression that it cannot parse
    _keep_case()
    _compare_numbers_by_size()

    def parsed(text: str) -> list[Any]:
        # no time-outs of its own: they need SIGALRM and cannot interrupt a long call into C
        found: list[Any] = parse(
            f"${text}$", [LatexExtractionConfig()], parsing_timeout=None, raise_on_error=True
        )
        if all(isinstance(candidate, str) for candidate in found):
            raise ValueError(f"{text[:100]!r} is not an expression that math-verify can parse")
        return found

    def judge(reference: str, prediction: str) -> bool:
        return bool(verify(parsed(reference), parsed(prediction), timeout_seconds=None, raise_on_error=True))

    judge(r"\frac{1}{2}", r"\sqrt{x^2+1}")
    return judge


def _keep_case() -> None:
    """Make math-verify tell `r` from `R` and `\\omega` from `\\Omega`, and read `\\gamma` as a symbol."""
    from latex2sympy2_extended import latex2sympy2, symbols
    from math_verify import grader, parser

    for name in ("gamma", "Gamma"):  # both are Euler's constant there
        symbols.sympy_singleton_map.pop(name, None)
    config = latex2sympy2.ConversionConfig(lowercase_symbols=False)
    parser.latex2sympy = partial(latex2sympy2.latex2sympy, conversion_config=config)
    grader.sympy_compare_symbols = _same_symbols


def _same_symbols(gold: Any, given: Any) -> bool:
    """Compare expressions of which one is a symbol; a symbol of several letters equals their product."""
    return _spelling(gold) == _spelling(given)


def _spelling(expression: Any) -> str:
    from sympy import E, Mul, Symbol

    if isinstance(expression, Mul) and all(arg == E or isinstance(arg, Symbol) for arg in expression.args):
        return "".join(_spelling(arg) for arg in expression.args)
    return "e" if expression == E else str(expression)


def _compare_numbers_by_size() -> None:
    """Make math-verify compare numbers relative to their size, also inside lists and matrices."""
    from math_verify import grader

    is_close = grader.sympy_numeric_eq

    def is_close_for_its_size(gold: Any, given: Any, float_rounding: int, numeric_precision: int) -> bool:
        if not is_close(gold, given, float_rounding, numeric_precision):
            return False
        return not _differ_in_size(gold, given)

    grader.sympy_numeric_eq = is_close_for_its_size


def _differ_in_size(gold: Any, given: Any) -> bool:
    """Return whether two expressions differ by more than noise; False if they have no numerical value.

    Symbols stand for arbitrary numbers, the same on both sides.
    """
    from sympy import Expr, Float

    if not isinstance(gold, Expr) or not isinstance(given, Expr):
        return False
    has_float = gold.has(Float) or given.has(Float)
    symbols = sorted(gold.free_symbols | given.free_symbols, key=str)
    place = {symbol: 1 + 1 / (3 + idx) for idx, symbol in enumerate(symbols)}
    try:
        left, right = (
            complex(expression.doit().subs(place).evalf(NUM_DIGITS)) for expression in (gold, given)
        )
    except (TypeError, ValueError, OverflowError, AttributeError):
        return False
    tolerance = FLOAT_TOLERANCE if has_float else EXACT_TOLERANCE
    return abs(left - right) > max(ZERO, tolerance * max(abs(left), abs(right)))
