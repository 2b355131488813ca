r"""Find the answer in a solution text: `\boxed{...}`, `#### N`, `The answer is N`, `Answer: N`, `A: N`.

Invariant: the answer is returned exactly as it is written in the text, and finding it takes time linear in
the text. References are read by the same rules. This file does not judge answers (see `grade.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from forkpoint.grading.numerals import first_number, last_number, parse_number, same_number
from forkpoint.grading.response import (
    CUT_OFF,
    MARKER,
    Reasoning,
    UnreadableAnswer,
    json_answer,
    without_reasoning,
    without_run_on,
)

MAX_TEXT_CHARS = 200_000
"""Only the last characters of a longer text are read."""
MAX_ANSWER_CHARS = 1_000
"""Longer answers are refused."""
MAX_BARE_CHARS = 200
"""Without a marker, a text of several words up to this length is itself the answer (`math` and `exact`)."""

_BOX = re.compile(r"\\(?:boxed|fbox)\s?\{|\\boxed\s(?P<bare>\w)|\\.|[{}]", re.DOTALL)
_LATEX_NOISE = re.compile(r"\\(?:text|q?quad|[()\[\],;:! ])|[\s${}()\[\]*]+")
_JOINT = re.compile(
    r"(?:[a-z]{2,12} )?(?:,|;|(?:, ?)?(?:and|or))(?: ?(?:and|or))?(?: ?[A-Za-z](?:_\w{1,3})? ?=)?"
)
MAX_JOINED_BOXES = 20
MAX_BETWEEN_BOXES = 40
"""Boxes with more text between them are separate statements; the last one is the answer."""
_CUT_BOX = re.compile(r"\\(?:bo(?:x(?:ed?)?)?|fb(?:ox?)?)\s?\Z")
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
_ANOTHER_CHOICE = re.compile(r"[)\s]*(?:,|/|&|\band\b|\bor\b)[\s(]*[A-J](?=\s*(?:[.,/)&]|and\b|or\b|\Z))")
_LAST_CHOICE = re.compile(r"\(([A-J])\)|^[ \t]{0,8}([A-J])[.)]?[ \t]{0,8}$", re.MULTILINE)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")
_BARE_EXPRESSION = re.compile(rf"(?=[^\d\n]*\d).{{1,{MAX_BARE_CHARS}}}\n?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def find_answer(text: str, grader: str, reasoning: Reasoning = "drop") -> str | None:
    """Return the answer in `text` as it is written, or None if there is none.

    Reasoning between tags is dropped unless `reasoning` is `read`. A JSON object gives its answer; of other
    texts, what runs on after the answer is dropped. Then the last box wins, then the last `####`, heading or
    phrase that announces an answer. If nothing follows that phrase, there is no answer. Without a marker the
    answer is the last number (`numeric`), the last letter in brackets or on its own line (`choice`), or else
    the whole text if it is short. Raises UnreadableAnswer if an answer is cut off, too long, holds control
    characters, or is not what the grader compares, such as an expression for `numeric`.
    """
    if reasoning == "drop":
        text = without_reasoning(text)
    tail = text[-MAX_TEXT_CHARS:]
    if "\x00" in tail:
        raise UnreadableAnswer("the text holds null bytes")
    stated = json_answer(tail)
    if stated is not None:
        marked = find_marked(stated)
        marked = _checked(stated) if marked is None else marked
    else:
        tail = without_run_on(tail)
        marked = find_marked(tail)
    if marked == "":
        return None
    if grader == "numeric":
        answer = _numeric_answer(tail, marked)
    elif grader == "choice":
        answer = _choice_answer(tail, marked)
    else:
        answer = marked or _bare_answer(tail if len(text) <= MAX_TEXT_CHARS else text)
    if answer is None and len(text) > MAX_TEXT_CHARS:
        raise UnreadableAnswer(f"no answer in the last {MAX_TEXT_CHARS} characters of {len(text)}")
    return answer


def find_marked(text: str) -> str | None:
    """Return the text after the last marker, which may be empty, or None if there is no marker."""
    box = _last_box(text)
    if box is not None:
        return _checked(box)
    said = None
    for said in MARKER.finditer(text):  # noqa: B007 the loop ends on the last match
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
    """Return the content of the box that is opened last, with those that are joined to it by a comma or word.

    Raises UnreadableAnswer if the last box is never closed: an earlier box is not the answer of such a text.
    """
    boxes: list[_Box] = []
    open_braces: list[tuple[int, int] | None] = []
    last_start = -1
    for token in _BOX.finditer(text):
        if token["bare"]:
            last_start = token.start()
            boxes.append(_Box(last_start, token["bare"], token.end()))
        elif token.group() == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None and not (boxes and boxes[-1].start > opened[0]):
                boxes.append(_Box(opened[0], text[opened[1] : token.start()], token.end()))
        elif token.group() == "{":
            open_braces.append(None)
        elif token.group().endswith("{") and not token.group().startswith("\\{"):
            last_start = token.start()
            open_braces.append((last_start, token.end()))
    if last_start >= 0 and (not boxes or boxes[-1].start < last_start):
        raise UnreadableAnswer(f"{CUT_OFF}: the braces of \\boxed{{ are not balanced")
    if _CUT_BOX.search(text, max(0, len(text) - 16)):
        raise UnreadableAnswer(f"{CUT_OFF}: it ends with \\boxed")
    if not boxes:
        return None
    joined = [boxes[-1]]
    for earlier in reversed(boxes[-MAX_JOINED_BOXES:-1]):
        if earlier.end > joined[0].start or not _joins(text[earlier.end : joined[0].start]):
            break
        joined.insert(0, earlier)
    contents = [box.content.strip() for box in joined]
    different = [
        one
        for idx, one in enumerate(contents)
        if not any(_is_same(one, later) for later in contents[idx + 1 :])
    ]
    return ", ".join(different)


def _is_same(one: str, other: str) -> bool:
    numbers = parse_number(one), parse_number(other)
    return one == other or bool(numbers[0] and numbers[1] and same_number(numbers[0], numbers[1]))


@dataclass(frozen=True, slots=True)
class _Box:
    start: int
    content: str
    end: int


def _joins(between: str) -> bool:
    r"""Return whether the text between two boxes makes them one answer: `\boxed{2} or x=\boxed{3}`."""
    return len(between) <= MAX_BETWEEN_BOXES and bool(
        _JOINT.fullmatch(_LATEX_NOISE.sub(" ", between).strip())
    )


def _numeric_answer(text: str, marked: str | None) -> str | None:
    number = last_number(text) if marked is None else first_number(marked)
    if number is None and (marked is not None or _BARE_EXPRESSION.fullmatch(text)):
        raise UnreadableAnswer(f"{shown(marked or text)} is not a number")
    return number.text if number else None


def _choice_answer(text: str, marked: str | None) -> str | None:
    if marked is None:
        letters = [bracketed or alone for bracketed, alone in _LAST_CHOICE.findall(text)]
        return letters[-1] if letters else _lone_letter(text)
    statement = _TEXT_COMMAND.sub(r"\1", marked).strip("$* \t")
    match = _CHOICE.match(statement)
    if match is None or _ANOTHER_CHOICE.match(statement, match.end()):
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
