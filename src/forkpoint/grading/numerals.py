r"""Read numbers as people and models write them: `1,234`, `$18`, `5%`, `3 1/2`, `\frac{14}{3}`, `2 million`.

Invariant: a number is read exactly, as a fraction, or not at all, in time linear in the text. An operand of
an expression (`9**9`, `3\sqrt{2}`, `5 or 6`, `4:30`) is not a number, and only fraction bars are evaluated.
Units and percent signs are dropped: `5%` is 5.
This file does not decide which part of a text is the answer (see `answers.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_NUMERAL_CHARS = 100
"""Longer numerals are not read, because Python's conversion is quadratic in the number of digits."""
FLOAT_NOISE = Fraction(1, 10**12)
FLOAT_DIGITS = 15
"""A decimal with at least this many digits may be a printed binary float."""
ROUNDING = Fraction(1, 10**6)

_DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d|,\d)|\d+)(?:\.\d+)?|\.\d+)"
_BRACED = r"(?:\{[ ]?([-+]?\d+)[ ]?\}|(\d))"
_NUMERAL = re.compile(
    # does not start inside a run of digits: that would read it twice, in quadratic time
    r"(?P<sign>[-+]?(?:[$€£][ ]?)?[-+]?)(?<!\d)(?<!\d,)"
    rf"(?:(?P<frac_whole>\d*)[ ]?\\[dtc]?frac[ ]?{_BRACED}[ ]?{_BRACED}"
    r"|(?P<whole>\d+)[ ](?P<over>\d+)/(?P<under>\d+)"
    rf"|(?P<top>{_DECIMAL})[ ]?/[ ]?(?P<bottom>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})(?P<exponent>[eE][-+]?\d{{1,2}})?(?![eE]?\d))"
    r"(?:[ ]?(?P<multiplier>thousand|million|billion|trillion)\b)?",
    re.ASCII,
)
_MULTIPLIERS = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_CONTEXT_CHARS = 16
_OPERAND_BEFORE = re.compile(
    r"(?:[\w.*/^×·÷+{√-]|\w\(|\d:|\d,[ ]|\d[ ]or[ ]|[*/^×·÷+][ ]|[\w)}][ ]-[ ]"
    r"|\\(?:times|cdot|div|pm|sqrt|log|ln|sin|cos|tan)[ ])\Z",
    re.ASCII,
)
_OPERAND_AFTER = re.compile(
    r"[ ]?(?:[*^×·÷+√]|\\[A-Za-z{]|[-–/:,][ ]?[$(]?[\d\\.]|(?:or|and|to|x)[ ][$(]?[-+]?\d)|[_(}{²³⁰-⁹]|\.\d",
    re.ASCII,
)

_SIGN_OF_A_TERM = re.compile(r"[)\]|!'’]\Z|\}[ ]?\Z")
"""Before a sign: the sign adds a term, as in `2\\sqrt{3}+2` and `f(x)-3`."""
_ASIDE = re.compile(r"[ ]?\([^()]*=[^()]*\)")
"""Brackets that hold an equation, as in `5 (x=2)`."""
_CLAUSE = re.compile(
    r"(?<=[\w)}$])(?:,?[ ](?:since|because|where|when|if|given|assuming|as|using)\b"
    r"|(?:,[ ]?|,?[ ](?:for|with|at|from|and)[ ])\$?[A-Za-z](?:_\w{1,3})?[ ]?=)"
)
"""What gives a reason or a condition, as in `5, since a=2`, `5 for x=2` and `5, x=2`."""
_DIGIT = re.compile(r"\d", re.ASCII)
_AMOUNT = r"[-+]?(?:[$€£][ ]?)?\d[\d,./]*"
_WORDS = r"(?:[ ][A-Za-z][A-Za-z'’-]*)"
_SECOND_AMOUNT = re.compile(
    rf"{_WORDS}{{0,3}},?[ ](?:and|or|plus)[ ]{_AMOUNT}"
    rf"|{_WORDS}{{1,2}},?[ ]{_AMOUNT}{_WORDS}{{0,2}}[.]?[ ]?\Z"
)
"""After a number: it is one of several, as in `3 apples and 4 pears` and `5 feet 3 inches`."""
_TWO_AMOUNTS = re.compile(
    rf"\s{{0,9}}{_AMOUNT}(?:{_WORDS}{{0,3}},?[ ](?:and|or|plus)|{_WORDS}{{1,2}},?)[ ]{_AMOUNT}"
    rf"{_WORDS}{{0,3}}[.]?\s{{0,9}}"
)

_TYPOGRAPHY = str.maketrans(
    {"−": "-", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "½": " 1/2", "¼": " 1/4", "¾": " 3/4"}
)
_INVISIBLE = re.compile(r"\\[!,;:]|\^[ ]?\{?[ ]?\\circ[ ]?\}?|\\degree|°|\\%|%")
_WRAPPED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|mbox)[ ]?\{([^{}]*)\}")
_BOLD = re.compile(r"(?<![\w)*])\*{1,2}(?=\S)([^*\n]+)(?<=\S)\*{1,2}(?![\w(*])")


@dataclass(frozen=True, slots=True)
class Number:
    """A number and how it is written, which decides how exact an equal number has to be."""

    value: Fraction
    text: str
    """The number as written, without a unit."""
    is_decimal: bool
    """Whether it is written with a decimal point or an exponent, so that it may be rounded."""


def parse_number(text: str) -> Number | None:
    """Return the number that `text` consists of, or None if it is anything but one number."""
    text = plain(text).strip().removesuffix(".")
    if text.startswith("(") and text.endswith(")") and "," not in text:
        text = text[1:-1]
    match = _NUMERAL.fullmatch(text.strip()) if len(text) <= MAX_NUMERAL_CHARS else None
    return _number(match) if match else None


def first_number(text: str) -> Number | None:
    """Return the number that an announced answer gives: the first one after the last equals sign.

    Equations in brackets and in clauses behind a number (`5 (x=2)`, `5, since a=2`) are not read. None if the
    number is an operand, if there are several (`3 apples and 4 pears`), or if there is none.
    """
    text = _without_reasons(plain(text))
    match = _NUMERAL.search(text.rpartition("=")[2])
    if match is None or _SECOND_AMOUNT.match(match.string, match.end()):
        return None
    return _free_number(match)


def last_number(text: str) -> Number | None:
    """Return the last number in `text`; None if it is an operand, one of two amounts, or there is none."""
    text = plain(text)
    if len(text) <= 2 * MAX_NUMERAL_CHARS and _TWO_AMOUNTS.fullmatch(text):
        return None
    match = None
    for match in _NUMERAL.finditer(_without_last_aside(text)):  # noqa: B007 the loop ends on the last match
        pass
    return _free_number(match) if match else None


def _without_reasons(text: str) -> str:
    """Return `text` without equations in brackets and without clauses, as far as a digit is left.

    Empty if two variables have values (`x=5, y=2`).
    """
    shorter = _ASIDE.sub("", text)
    text = shorter if _DIGIT.search(shorter) else text
    first_digit = _DIGIT.search(text)
    clause = _CLAUSE.search(text, first_digit.end()) if first_digit else None
    if clause is None:
        return text
    return "" if "=" in clause.group() and "=" in text[: clause.start()] else text[: clause.start()]


def _without_last_aside(text: str) -> str:
    """Return `text` without an equation in brackets at its end that follows a number."""
    start = text.rfind("(")
    is_short = 0 < len(text) - start <= MAX_NUMERAL_CHARS  # finding an equation is quadratic in the length
    is_last = start > 0 and is_short and _ASIDE.fullmatch(text[start:].rstrip(" .\n"))
    return text[:start] if is_last and re.search(r"\d[ ]?\Z", text[max(0, start - 2) : start]) else text


def same_number(reference: Number, prediction: Number) -> bool:
    """Return whether two numbers are equal as exact fractions, with two exceptions for decimals.

    A decimal may differ by rounding from a fraction without a finite decimal expansion (by 1e-6 of the
    reference: 0.333333 is 1/3, 0.33 is not). A decimal with 15 digits or more may differ by float noise
    (1e-12: 0.30000000000000004 is 0.3). Whole numbers are compared exactly.
    """
    if reference.value == prediction.value:
        return True
    both = (reference, prediction)
    decimals = [number for number in both if number.is_decimal]
    if not decimals or all(number.value.denominator == 1 for number in both):
        return False
    if any(not number.is_decimal and _is_endless(number.value) for number in both):
        tolerance = ROUNDING
    elif any(sum(map(str.isdigit, number.text)) >= FLOAT_DIGITS for number in decimals):
        tolerance = FLOAT_NOISE
    else:
        return False
    return abs(reference.value - prediction.value) <= tolerance * abs(reference.value)


def plain(text: str) -> str:
    r"""Return `text` without typography that does not change a number.

    This removes `\,`, `{,}`, `\$`, percent and degree signs, `\text{}` and `**`.
    """
    text = text.translate(_TYPOGRAPHY).replace("{,}", ",").replace("\\$", "$")
    text = _WRAPPED.sub(r" \1", _INVISIBLE.sub("", text))
    return _BOLD.sub(r"\1", text)


def _free_number(match: re.Match[str]) -> Number | None:
    """Return the matched number unless the text around it makes it part of an expression."""
    start, end = match.span()
    before, after = (
        match.string[max(0, start - _CONTEXT_CHARS) : start],
        match.string[end : end + _CONTEXT_CHARS],
    )
    if end - start > MAX_NUMERAL_CHARS or _OPERAND_BEFORE.search(before) or _OPERAND_AFTER.match(after):
        return None
    if match["sign"].strip("$€£ ") and _SIGN_OF_A_TERM.search(before):
        return None
    return _number(match)


def _number(match: re.Match[str]) -> Number | None:
    numerator, denominator = match.group(3) or match.group(4), match.group(5) or match.group(6)
    decimal, exponent = match["decimal"] or "", match["exponent"] or ""
    try:
        if numerator:
            value = int(match["frac_whole"] or 0) + Fraction(int(numerator), int(denominator))
        elif match["whole"]:
            value = int(match["whole"]) + Fraction(int(match["over"]), int(match["under"]))
        elif match["top"]:
            value = Fraction(match["top"].replace(",", "")) / Fraction(match["bottom"].replace(",", ""))
        else:
            value = Fraction(decimal.replace(",", "") + exponent)
    except ZeroDivisionError:
        return None
    value *= _MULTIPLIERS.get(match["multiplier"], 1)
    text = match.group().lstrip("$€£ ")
    return Number(
        -value if "-" in match["sign"] else value, text, is_decimal="." in decimal or exponent != ""
    )


def _is_endless(value: Fraction) -> bool:
    """Return whether `value` has no finite decimal expansion: its denominator has a factor prime to 10."""
    return pow(10, value.denominator.bit_length(), value.denominator) != 0
