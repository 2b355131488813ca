r"""The normal form of a mathematical answer, and comparisons that need no computer algebra.

Invariant: `decide` returns True or False only if no algebra is needed, else None. A percent, degree or
currency sign is a unit that the question implies, so it is dropped (`50\%` is 50 and never 0.5). Any words
behind a number are its unit (`12 cups`, `$20 per book`). A unit that only one side writes is dropped too;
answers with different units are different. Words, number bases and the kind of brackets are compared as
written: `(1,2)` is not `\{1,2\}`.
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
        (r"[€£](?=\s?[\d.])", ""),
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
    r"(?P<value>.*[\w})!.])\s?\\(?:text|mathrm|mbox)\s?\{\s*(?P<unit>[A-Za-z./ ]+?)\s*\}" + _POWER
)
_PLAIN_UNIT = re.compile(
    r"(?P<value>.*[\d})])\s?(?P<unit>(?:(?:sq|square|cubic)\.?\s)?[A-Za-z](?:\.?[A-Za-z])+)\.?" + _POWER
)
_WORD_UNIT = re.compile(
    r"(?P<value>(?:[^A-Za-z\\]|\\[A-Za-z]+|\\[^A-Za-z])*(?:[\d)}]|\\pi))\s"
    r"(?P<unit>[A-Za-z][A-Za-z.'’/-]*(?:\s[A-Za-z][A-Za-z.'’/-]*){0,11})" + _POWER
)
_TEMPERATURE = re.compile(
    r"(?:°|\^\s?\{?\s?\\circ\s?\}?|\\degree)\s?(?:\\(?:text|mathrm)\s?\{\s?)?(?P<scale>[FC])\s?\}?(?=[\s.$]*\Z)"
)
_REASON = re.compile(
    r"(?<=[\w)}$])(?:,?\s(?:since|because)\b.*|\s\([^()=]*=[^()]*\)|\s?\((?:since|because)\b[^()]*\))\.?\s*\Z",
    re.DOTALL,
)
"""What gives a reason behind an answer, as in `5 (x=2)`."""
_NO_UNIT = frozenset(
    [
        "and", "or", "not", "no", "if", "is", "are", "to", "by", "plus", "minus", "times", "over",
        "mod", "modulo", "base", "below", "negative", "remainder", "dozen", "hundred", "thousand",
        "million", "billion", "trillion", "half",
    ]
)  # fmt: skip
"""Words that change the value of the number before them."""
_NOUN_ENDS = re.compile(r"\s(?:per|each|every|of|in|for|a|an|the|total|left|more|from|at|that|on|worth)\s.*")
"""What follows the noun of a unit; it is not compared (`dollars per book`, `cups of flour`)."""
_SHORT_NOUNS = frozenset(
    [
        "bag", "bar", "bed", "bee", "big", "box", "boy", "bus", "can", "car", "cat", "cow", "cub",
        "cup", "day", "dog", "egg", "ewe", "fan", "gas", "hat", "hen", "jar", "job", "kid", "leg",
        "lot", "man", "men", "mat", "mug", "new", "old", "one", "out", "pan", "pen", "per", "pet",
        "pie", "pig", "pot", "red", "row", "set", "tin", "tip", "ton", "top", "toy", "van", "way",
        "win",
    ]
)  # fmt: skip
"""Words of three letters behind a number; others may be products of symbols (`2 abc`)."""
_DOUBLE_POWER = re.compile(r"\^\s?(?:-?\w+|\{[^{}]*\})\s?\^")
_CHOICE = re.compile(
    r"\s?(?:\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{\s?)?\((?P<letter>[A-J])\)\s?\}?"
    r"(?:[\s~$:]|\\[ ,;:!]|\\q?quad)*(?P<value>.*)",
    re.DOTALL,
)
"""A choice with its letter in round brackets, and perhaps its value: `\\textbf{(B)}\\ 12`."""
_LETTERS = re.compile(r"(?=[A-Za-z]\s*[A-Za-z])[A-Za-z]+(?:\s+[A-Za-z]+)*")
"""At least two letters, without commands: a word or a sequence rather than a product of symbols."""
_FAMILIAR = frozenset(("yes", "no", "true", "false", "none"))
_SEPARATOR = re.compile(r"[{}()\[\]]|(?P<separator>[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))")
_MANY = re.compile(
    r"\\(?:pm|mp|[lc]?dots|begin|cup|cap|in|mid|[{}]|setminus|neq?|[lg]eq?)(?![A-Za-z])|\.\.\.|[|<>∈]"
)
"""What may stand for any number of items."""
_PROSE = re.compile(r"(?:[A-Za-z]{2,}[,.]?\s+){2}[A-Za-z]{2}")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_BASE = re.compile(r"(?<=\d)_\{?(\w+)\}?")
_UNITS = {
    name: names.split()[0]
    for names in [
        "mm millimeter millimetre", "cm centimeter centimetre", "m meter metre",
        "km kilometer kilometre kmh kph", "in inch inche", "ft foot feet", "yd yard", "mi mile mph",
        "mg milligram", "g gram", "kg kilogram",
        "lb pound", "oz ounce", "ml milliliter", "l liter litre", "second sec", "minute min", "hour hr h",
        "day", "week", "month", "year yr", "cent", "dollar", "degree", "radian rad", "am", "pm",
    ]
    for name in names.split()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MathAnswer:
    """An answer in normal form."""

    text: str
    """LaTeX for a parser, without typography and unit."""
    unit: str | None
    """The noun of the unit in the singular, with its power (`cm^2`); None if no unit is written."""
    is_words: bool
    """Whether the answer is words, which are compared letter by letter, rather than an expression."""
    whole: str
    """The answer with its unit and without blanks, as a string to compare."""

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
    text = _REASON.sub("", answer.translate(_SYMBOLS))
    temperature = _TEMPERATURE.search(text)
    if temperature:
        text = text[: temperature.start()]
    currency = _currency(text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.strip().removesuffix(".").strip()
    wrapped = _TEXT.fullmatch(text)
    if wrapped:
        text = wrapped[1].strip().removesuffix(".")
    is_words = bool(_WORDS.fullmatch(text) or (wrapped and not re.search(r"\d", text)))
    whole = re.sub(r"\s+", "", _TEXT.sub(r"\1", text))
    text, unit = _split_unit(text)
    text = _TEXT.sub(r" \1 ", text).strip()
    if temperature:
        unit = f"degree {temperature['scale']}".lower()
    return MathAnswer(text, unit or currency, is_words, whole)


def _currency(text: str) -> str | None:
    """Return the unit of a currency sign; a pair of dollar signs encloses mathematics."""
    if "\\$" in text or (text.count("$") % 2 and re.match(r"\s?[-+]?\$\s?[-+]?[\d.]", text)):
        return "dollar"
    return "euro" if "€" in text else _UNITS["pound"] if "£" in text else None


def split_choice(answer: str) -> tuple[str | None, str]:
    """Return the letter of a choice and its value, such as ("B", "12") for `\\textbf{(B)}\\ 12`.

    Without a letter in brackets, the whole answer is the value; a letter alone has an empty value.
    """
    match = _CHOICE.fullmatch(answer.strip("$ "))
    if match is None or re.match(r"\\(?:cup|cap|times|cdot|in)\b|[-+*/^_=(]", match["value"]):
        alone = re.fullmatch(r"[A-J]", _TEXT.sub(r"\1", answer).strip("$ ."))
        return (alone[0], "") if alone else (None, answer)
    return match["letter"], match["value"].strip()


def decide(reference: MathAnswer, prediction: MathAnswer) -> bool | None:
    """Return whether two answers are equal, or None if deciding that needs algebra."""
    if _differ(reference.unit, prediction.unit):
        return False
    if reference.whole == prediction.whole:
        return True
    if reference.key == prediction.key:
        return True
    numbers = parse_number(reference.text), parse_number(prediction.text)
    if numbers[0] and numbers[1]:
        return same_number(numbers[0], numbers[1])
    if reference.is_words or prediction.is_words:
        return reference.key.casefold() == prediction.key.casefold()
    if _LETTERS.fullmatch(reference.text) and _LETTERS.fullmatch(prediction.text):
        return _same_word(reference.text, prediction.text)
    if _BASE.findall(reference.text) != _BASE.findall(prediction.text):
        return False
    brackets = _brackets(reference.text), _brackets(prediction.text)
    if brackets[0] and brackets[1] and brackets[0] != brackets[1]:
        return False
    return _decide_lists(reference.text, prediction.text)


def _same_word(one: str, other: str) -> bool:
    """Compare letters in their order: `HHT` is not `THH`. Only the first letter's case does not count."""
    letters = [re.sub(r"\s+", "", word) for word in (one, other)]
    if letters[0][1:] == letters[1][1:] and len(letters[0]) > 1:
        return letters[0].casefold() == letters[1].casefold()
    return letters[0] == letters[1] or (
        letters[0].casefold() == letters[1].casefold() and letters[0].casefold() in _FAMILIAR
    )


def _decide_lists(reference: str, prediction: str) -> bool | None:
    """Compare lists of numbers and lists of words, and any lists of different lengths; None for the others.

    Items count as often as they are written: `2,3` is not `2,2,3`. Sets are left to the parser.
    """
    if any(_MANY.search(text) or _PROSE.search(text) for text in (reference, prediction)):
        return None
    items = _items(reference), _items(prediction)
    if len(items[0]) != len(items[1]):
        items = _items(_THOUSANDS.sub("", reference)), _items(_THOUSANDS.sub("", prediction))
    if len(items[0]) != len(items[1]):
        return None if not items[0] or not items[1] else False
    if len(items[0]) < 2:
        return None
    keys = [[_item_key(item) for item in side] for side in items]
    brackets = _brackets(reference), _brackets(prediction)
    if not any(brackets):
        keys = [sorted(side) for side in keys]
    if keys[0] == keys[1]:
        return True if brackets[0] == brackets[1] else None
    is_plain = all(_LETTERS.fullmatch(item) for item in items[0] + items[1])
    return False if is_plain or set(keys[0]) == set(keys[1]) else None


def _item_key(item: str) -> str:
    number = parse_number(item)
    return str(number.value) if number else re.sub(r"\s+", "", item)


def _items(text: str) -> list[str]:
    """Return the items of a list: what stands between the commas, `and` and `or` outside brackets."""
    inner = re.fullmatch(r"\s*[(\[](.*)[)\]]\s*", text, re.DOTALL)
    text = inner[1] if inner and _brackets(text) else text
    items, level, start = [], 0, 0
    for token in _SEPARATOR.finditer(text):
        level += (token.group() in "{([") - (token.group() in "})]")
        if level == 0 and token["separator"]:
            items.append(text[start : token.start()])
            start = token.end()
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


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
    """Return the value and the noun of the unit; None if there is no unit, or no noun in it (`per book`)."""
    for pattern, needs_known_unit in ((_TEXT_UNIT, False), (_PLAIN_UNIT, True), (_WORD_UNIT, False)):
        match = pattern.fullmatch(text)
        if match is None:
            continue
        noun, is_known = _noun(match["unit"], match["power"] or "")
        if is_known or not (needs_known_unit or _changes_value(match)):
            return match["value"].strip(), noun or None
    return text, None


def _changes_value(match: re.Match[str]) -> bool:
    """Return whether the words behind a number may be part of the value rather than its unit."""
    words = match["unit"].casefold().split()
    is_symbols = match.re is _WORD_UNIT and len(words[0]) < 4 and words[0] not in _SHORT_NOUNS
    return is_symbols or not _NO_UNIT.isdisjoint(words)


def _noun(words: str, power: str) -> tuple[str, bool]:
    """Return the noun of a unit in the singular, with its power, and whether the unit is a known one."""
    words = re.sub(r"(?<=\b[A-Za-z])\.(?=[A-Za-z]\b)", "", words.casefold()).replace("/", " per ")
    words = " ".join(_NOUN_ENDS.sub("", f" {words} ").replace(".", "").split())
    if "fahrenheit" in words or "celsius" in words:
        return f"degree {'f' if 'fahrenheit' in words else 'c'}", True
    dimension = re.match(r"(?:square|sq|cubic)\s?(?=\w)", words)
    name = words[dimension.end() :] if dimension else words
    known = _UNITS.get(name) or _UNITS.get(name.removesuffix("s")) or _UNITS.get(name.removesuffix("es"))
    exponent = re.sub(r"\D", "", power) or ({"s": "2", "c": "3"}[words[0]] if dimension else "")
    noun = known or re.sub(r"(?<=[^s])s\Z", "", name)
    return (f"{noun}^{exponent}" if noun and exponent else noun), known is not None


def _differ(one: str | None, other: str | None) -> bool:
    """Return whether two units are different; `red apple` and `apple` are not."""
    if not one or not other:
        return False
    words = set(one.split()), set(other.split())
    return not (words[0] <= words[1] or words[1] <= words[0])


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
