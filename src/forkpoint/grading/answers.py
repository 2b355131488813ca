r"""Find the answer in a solution text: `\boxed{...}`, `#### N`, `The answer is N`, `Answer: N`, `A: N`.

Invariant: the answer is returned exactly as it is written in the text, and finding it takes time linear in
the text. References are read by the same rules. This file does not judge answers (see `grade.py`).
"""

from __future__ import annotations

import re

from forkpoint.grading.numerals import first_number, last_number

MAX_TEXT_CHARS = 200_000
"""Only the last characters of a longer text are read."""
MAX_ANSWER_CHARS = 1_000
"""Longer answers are refused."""
MAX_BARE_CHARS = 200
"""Without a marker, a text of several words up to this length is itself the answer (`math` and `exact`)."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{|\\boxed\s(?P<bare>\w)|\\.|[{}]", re.DOTALL)
_CUT_BOX = re.compile(r"\\(?:bo(?:x(?:ed?)?)?|fb(?:ox?)?)\s?\Z")
_SAID = re.compile(
    r"####|(?i:\banswer(?:\s{1,3}is\b|[\s*]{0,4}[:=])|<answer>)|^[ \t]{0,8}A:"
    r"|^[ \t#*_]{0,8}(?i:(?:the )?(?:final )?answer)[ \t*_]{0,8}$",  # a heading
    re.MULTILINE,
)
_AFTER_SAID = re.compile(r"[\s:=]*(?:\*{1,2}(?=\s))?[\s:=]*")
_BULLET = re.compile(r"(?:[-*+•>]|1[.)](?=[ \t]+[-+$\\\d]))[ \t]+(?=\S)")
_NEXT_BULLET = re.compile(r"[ \t]*\n[ \t]*(?:[-*+•]|\d[.)])[ \t]+(?=\S)")
_DISPLAYED = re.compile(
    r"\$\$(?P<dollars>[^$]*)\$\$|\\\[(?P<brackets>.*?)\\\]|```[^\n`]*\n(?P<fence>.*?)```|`(?P<code>[^`\n]+)`",
    re.DOTALL,
)
"""Mathematics on lines of its own, and code: the answer is what is inside."""
_SENTENCE_END = re.compile(r"\.(?=\s)|\n|(?i:</answer>)")
_CHOICE = re.compile(
    r"(?:(?i:option|choice|letter)\s)?"
    r"(?:\(\s?(?P<bracketed>[A-Ja-j])\s?\)|(?P<capital>[A-J])(?![\w'’])|(?P<alone>[a-j])[.)]?\s*\Z)"
)
_LAST_CHOICE = re.compile(r"\(([A-J])\)|^[ \t]{0,8}([A-J])[.)]?[ \t]{0,8}$", re.MULTILINE)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_BARE_EXPRESSION = re.compile(rf"(?=[^\d\n]*\d).{{1,{MAX_BARE_CHARS}}}\n?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class UnreadableAnswer(ValueError):
    """An answer exists but cannot be read, or the text is too long to tell; the message says why."""


def find_answer(text: str, grader: str) -> str | None:
    """Return the answer in `text` as it is written, or None if there is none.

    The last box wins, then the last `####` or phrase that announces an answer. If nothing follows
    that marker, there is no answer. Without a marker the answer is the last number (`numeric`), the last
    letter in brackets or on its own line (`choice`), or else the whole text if it is short. Raises
    UnreadableAnswer if an answer is cut off, too long, holds control characters, or is not what the grader
    compares, such as an expression for `numeric`.
    """
    tail = text[-MAX_TEXT_CHARS:]
    if "\x00" in tail:
        raise UnreadableAnswer("the text holds null bytes")
    marked = find_marked(tail)
    if marked == "":
        return None
    if grader == "numeric":
        answer = _numeric_answer(tail, marked)
    elif grader == "choice":
        answer = _choice_answer(tail, marked)
    else:
        answer = marked or _bare_answer(text)
    if answer is None and len(text) > MAX_TEXT_CHARS:
        raise UnreadableAnswer(f"no answer in the last {MAX_TEXT_CHARS} characters of {len(text)}")
    return answer


def find_marked(text: str) -> str | None:
    """Return the text after the last marker, which may be empty, or None if there is no marker."""
    box = _last_box(text)
    if box is not None:
        return _checked(box)
    said = None
    for said in _SAID.finditer(text):  # noqa: B007 the loop ends on the last match
        pass
    if said is None:
        return None
    return _checked(_announced(text, said.end()))


def _announced(text: str, start: int) -> str:
    """Return what a marker that ends at `start` announces: a formula, code, or the rest of the sentence.

    Items of a list on the lines that follow are several answers, separated by commas.
    """
    after = _AFTER_SAID.match(text, start)
    place = after.end() if after else start
    bullet = _BULLET.match(text, place) if "\n" in text[start:place] else None
    answer, end = _statement(text, bullet.end() if bullet else place)
    answers = [answer]
    while bullet and end - start <= MAX_ANSWER_CHARS and (bullet := _NEXT_BULLET.match(text, end)):
        answer, end = _statement(text, bullet.end())
        answers.append(answer)
    return ", ".join(answers)


def _statement(text: str, start: int) -> tuple[str, int]:
    """Return the statement that begins at `start`, without its typography, and where it ends."""
    displayed = _DISPLAYED.match(text, start, start + 2 * MAX_ANSWER_CHARS)
    if displayed:
        return next(filter(None, displayed.groups()), "").strip(), displayed.end()
    found = _SENTENCE_END.search(text, start)
    end = found.start() if found else len(text)
    sentence = text[start:end].rstrip(" \t\r.")
    end += found is not None and found.group() == "."
    is_wrapped = sentence.startswith("*") and sentence.endswith("*")
    return sentence.strip("*") if is_wrapped else sentence.rstrip("*"), end


def _last_box(text: str) -> str | None:
    """Return the content of the box that is opened last.

    Raises UnreadableAnswer if that box is never closed: an earlier box is not the answer of such a text.
    """
    open_braces: list[int | None] = []
    found: tuple[int, int] | None = None
    last_start = -1
    for token in _BOX.finditer(text):
        if token["bare"]:
            found = token.span("bare")
            last_start = found[0]
        elif token.group() == "}":
            start = open_braces.pop() if open_braces else None
            if start is not None and (found is None or start > found[0]):
                found = (start, token.start())
        elif token.group() == "{":
            open_braces.append(None)
        elif token.group().endswith("{") and not token.group().startswith("\\{"):
            last_start = token.end()
            open_braces.append(last_start)
    if last_start >= 0 and (found is None or found[0] < last_start):
        raise UnreadableAnswer("it is cut off: the braces of \\boxed{ are not balanced")
    if _CUT_BOX.search(text, max(0, len(text) - 16)):
        raise UnreadableAnswer("it is cut off: it ends with \\boxed")
    return text[slice(*found)] if found else None


def _numeric_answer(text: str, marked: str | None) -> str | None:
    number = last_number(text) if marked is None else first_number(marked)
    if number is None and (marked is not None or _BARE_EXPRESSION.fullmatch(text)):
        raise UnreadableAnswer(f"{shown(marked or text)} is not a number")
    return number.text if number else None


def _choice_answer(text: str, marked: str | None) -> str | None:
    if marked is None:
        letters = [bracketed or alone for bracketed, alone in _LAST_CHOICE.findall(text)]
        return letters[-1] if letters else _lone_letter(text)
    match = _CHOICE.match(_TEXT_COMMAND.sub(r"\1", marked).strip("$* \t"))
    if match is None:
        raise UnreadableAnswer(f"{shown(marked)} is not a choice")
    return (match["bracketed"] or match["capital"] or match["alone"]).upper()


def _lone_letter(text: str) -> str | None:
    match = re.fullmatch(r"\s?([a-j])[.)]?\s?", text)
    return match[1].upper() if match else None


def _bare_answer(text: str) -> str | None:
    """Return the whole text if it is short or a single word, else None."""
    stripped = text.strip()
    if len(stripped) > MAX_BARE_CHARS and re.search(r"\s", stripped):
        return None
    return _checked(stripped) or None


def _checked(answer: str) -> str:
    answer = answer.strip()
    if len(answer) > MAX_ANSWER_CHARS:
        raise UnreadableAnswer(
            f"an answer of {len(answer)} characters is over the limit of {MAX_ANSWER_CHARS}"
        )
    if _CONTROL.search(answer):
        raise UnreadableAnswer(f"{shown(answer)} holds control characters")
    return answer


def shown(answer: str) -> str:
    """Quote `answer`, shortened, for a message."""
    return repr(answer if len(answer) <= 60 else answer[:57] + "...")
