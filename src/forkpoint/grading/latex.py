r"""The normal form of a mathematical answer, and comparisons that need no computer algebra.

Invariant: `decide` returns True or False only if no algebra is needed, else None. A percent, degree or
currency sign is a unit that the question implies, so it is dropped (`50\%` is 50 and never 0.5). A unit that
only one side writes is dropped too; answers with different units are different. Words, number bases and the
kind of brackets are compared as written: `(1,2)` is not `\{1,2\}`.
This file does not parse expressions; `worker.py` uses math-verify for that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from forkpoint.grading.numerals import parse_number, same_number

MAX_DEPTH = 30
"""Brackets nested more deeply are refused, because parsers recurse on them."""

_SYMBOLS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
     "≤": r"\le ", "≥": r"\ge ", "±": r"\pm ", "∪": r"\cup ", "∈": r"\in ", "²": "^2", "³": "^3",
     "\u00a0": " ", "\u2009": " ", "\u202f": " "}
)  # fmt: skip
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r",\\!\s?", ","),
        (r"(\\\\)|\\[!,;: ]|~", r"\1"),  # spacing, but not the line break of a matrix
        (r"\\(?:left|right|bigl?|bigr|Bigl?|Bigr|displaystyle|quad|qquad|limits)(?![A-Za-z])\.?", ""),
        (r"(?<!\\)\\[()\[\]]|\\?\$|\\?%|\^\s?\{?\s?\\circ\s?\}?|\\degree|°", ""),
        (r"\{,\}", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s?(\d)\s?(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s?(\d)\s?\{", r"\\frac{\1}{"),
        (r"(\\frac\{[^{}]*\})\s?(\d)", r"\1{\2}"),
        (r"√\s?(?:\(([^()]*)\)|(\d+|\w))", r"\\sqrt{\1\2}"),
        (r"\\sqrt\s?(\d)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])sqrt\s?\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])(pi|sin|cos|tan|log|ln)(?![A-Za-z])", r"\\\1 "),
        (r"\\(?:bf|it|rm)(?![A-Za-z])", ""),
        (r"\s?\*\*\s?", "^"),
    ]
]
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s?\{([^{}]*)\}")
_WORDS = re.compile(r"(?=.*[A-Za-z]{4})[A-Za-z][A-Za-z ,'-]*")
_POWER = r"\s?(?P<power>\^\s?\{?\d\}?)?"
_TEXT_UNIT = re.compile(
    r"(?P<value>.*[\w})!.])\s?\\(?:text|mathrm|mbox)\s?\{(?!\s*(?:or|and)\b)\s*(?P<unit>[A-Za-z./ ]+?)\s*\}"
    + _POWER
)
_PLAIN_UNIT = re.compile(
    r"(?P<value>.*[\d})])\s?(?P<unit>(?:(?:sq|square|cubic)\.?\s)?[A-Za-z](?:\.?[A-Za-z])+)\.?" + _POWER
)
_DOUBLE_POWER = re.compile(r"\^\s?(?:-?\w+|\{[^{}]*\})\s?\^")
_BASE = re.compile(r"(?<=\d)_\{?(\w+)\}?")
_UNITS = {
    name: names.split()[0]
    for names in [
        "mm millimeter millimetre", "cm centimeter centimetre", "m meter metre", "km kilometer kilometre",
        "in inch inche", "ft foot feet", "yd yard", "mi mile", "mg milligram", "g gram", "kg kilogram",
        "lb pound", "oz ounce", "ml milliliter", "l liter litre", "second sec", "minute min", "hour hr h",
        "day", "week", "month", "year yr", "mph", "cent", "dollar", "degree", "radian rad", "am", "pm",
    ]
    for name in names.split()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MathAnswer:
    """An answer in normal form."""

    text: str
    """LaTeX for a parser, without typography and unit."""
    unit: str | None
    """The unit in the singular, with its power (`cm^2`); None if no known unit is written."""
    is_words: bool
    """Whether the answer is words, which are compared letter by letter, rather than an expression."""

    @property
    def key(self) -> str:
        """A key that is the same for equal numbers or strings.

        Units, blanks and the case of words do not count.
        """
        number = parse_number(self.text)
        if number:
            return str(number.value)
        key = re.sub(r"\s+", "", self.text)
        choice = re.fullmatch(r"\(([A-Za-z])\)", key)
        if choice or not self.is_words or len(key) == 1:
            return choice[1] if choice else key
        return key.casefold().rstrip(".")


def math_answer(answer: str) -> MathAnswer:
    """Return the normal form of an answer, given as it is written but without its box."""
    text = answer.translate(_SYMBOLS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip().removesuffix(".").strip()
    wrapped = _TEXT.fullmatch(text)
    if wrapped:
        text = wrapped[1].strip().removesuffix(".")
    is_words = bool(_WORDS.fullmatch(text) or (wrapped and not re.search(r"\d", text)))
    text, unit = _split_unit(text)
    text = _TEXT.sub(r" \1 ", text).strip()
    return MathAnswer(text, unit or ("dollar" if "\\$" in answer else None), is_words)


def decide(reference: MathAnswer, prediction: MathAnswer) -> bool | None:
    """Return whether two answers are equal, or None if deciding that needs algebra."""
    if reference.unit and prediction.unit and reference.unit != prediction.unit:
        return False
    if reference.key == prediction.key:
        return True
    numbers = parse_number(reference.text), parse_number(prediction.text)
    if numbers[0] and numbers[1]:
        return same_number(numbers[0], numbers[1])
    if reference.is_words or prediction.is_words:
        return reference.key.casefold() == prediction.key.casefold()
    if _BASE.findall(reference.text) != _BASE.findall(prediction.text):
        return False
    brackets = _brackets(reference.text), _brackets(prediction.text)
    return False if brackets[0] and brackets[1] and brackets[0] != brackets[1] else None


def syntax_trouble(text: str) -> str | None:
    """Return why a parser should not be given the text, or None if it may be. Escaped braces do not count."""
    level = num_braces = 0
    for token in re.findall(r"\\.|[{}()\[\]]", text):
        level = max(0, level + (token in ("{", "(", "[")) - (token in ("}", ")", "]")))
        num_braces += (token == "{") - (token == "}")
        if num_braces < 0:
            break
        if level > MAX_DEPTH:
            return f"its brackets nest deeper than {MAX_DEPTH}"
    if num_braces != 0:
        return "its braces are not balanced"
    return "it has a power of a power without braces" if _DOUBLE_POWER.search(text) else None


def _split_unit(text: str) -> tuple[str, str | None]:
    match = _TEXT_UNIT.fullmatch(text) or _PLAIN_UNIT.fullmatch(text)
    if match is None:
        return text, None
    words = re.sub(r"[\s.]", "", match["unit"].casefold())
    name = re.sub(r"^(?:square|sq|cubic)", "", words)
    unit = _UNITS.get(name) or _UNITS.get(name.removesuffix("s")) or _UNITS.get(name.removesuffix("es"))
    if unit is None and "\\" not in match.group()[match.end("value") :]:
        return text, None
    power = re.sub(r"\D", "", match["power"] or "") or {"s": "2", "c": "3"}.get(
        words[0] if words != name else "", ""
    )
    return match["value"].strip(), f"{unit}^{power}" if unit and power else unit


def _brackets(text: str) -> str:
    """Return the brackets around a whole list, set, tuple or interval, such as `(]`.

    Empty if there are none.
    """
    inner = re.fullmatch(r"(\\\{|[(\[])(.*)(\\\}|[)\]])", re.sub(r"\s+", "", text), re.DOTALL)
    if inner is None or not _has_top_comma(inner[2]):
        return ""
    return (inner[1] + inner[3]).replace("\\", "")


def _has_top_comma(text: str) -> bool:
    """Return whether `text` is a list: it has a comma outside brackets and closes only brackets it opened."""
    level, has_comma = 0, False
    for token in re.findall(r"[{}()\[\],]", text):
        level += (token in "{([") - (token in "})]")
        if level < 0:
            return False
        has_comma = has_comma or (token == "," and level == 0)
    return has_comma
