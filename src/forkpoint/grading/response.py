r"""Find the part of a model's text that may state its answer.

A text may begin with reasoning between tags, be a JSON object with the answer as a value, or run on after its
answer: base models write the next question and answer that too.
Invariant: finding the part takes time linear in the text, and the part is returned as it is written.
This file does not look for the answer itself (see `answers.py`).
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, get_args

from forkpoint.checks import check_choice

Reasoning = Literal["drop", "read"]
"""Whether reasoning between tags is dropped before the answer is looked for, or read like the rest."""

REASONING_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<unused94>", "<unused95>"),
)
"""The tags around the reasoning of current models; the opening one may be missing (it is in the prompt)."""
FINAL_CHANNEL = re.compile(r"<\|channel\|>final[^<\n]{0,40}<\|message\|>|assistantfinal(?![a-z])")
"""What begins the answer of a model that writes in channels; special tokens may have been removed."""
_ANALYSIS = re.compile(r"<\|channel\|>\s?(?:analysis|commentary)|\A\s?analysis(?=[A-Z])")

CUT_OFF = "it is cut off"
"""Begins the message about a text that ends before its answer does."""


class UnreadableAnswer(ValueError):
    """An answer exists but cannot be read, or the text is too long to tell; the message says why."""


MARKER = re.compile(
    r"####|(?i:\banswer(?:\s{1,3}is\b|[\s*]{0,4}[:=])|<answer>)|^[ \t]{0,8}A:"
    r"|^[ \t#*_]{0,8}(?i:(?:the )?(?:final )?answer)[ \t*_]{0,8}$(?=\s{1,9}\S)",  # a heading with text below
    re.MULTILINE,
)
"""What announces an answer, apart from a box."""

_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_END_OF_TURN = re.compile(
    r"</s>|<end_of_turn>|<\|(?:im_end|end_of_solution|eot_id|endoftext|end_of_text|eom_id|return)\|>|<｜end▁of▁sentence｜>"
)
_HASH_ANSWER = re.compile(
    r"^[ \t]{0,3}####[ \t]{0,3}(?=[^\n]{0,99}\d)(?!\d{1,2}[.)][ \t])"
    r"(?:\\[A-Za-z]+|\\[^A-Za-z\n]|(?<![A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])|[^A-Za-z\n\\]){1,99}"
    r"(?:(?<=[ \t])[A-Za-z]{3,20}\.?)?[ \t]*$",
    re.MULTILINE,
)
"""A line such as `#### 18 apples`, but no heading such as `#### Step 2` or `#### 2. Add them`."""
_NEXT_TASK = re.compile(
    r"^[ \t#*<|]{0,8}"
    r"(?:(?:Question|Problem|Instruction|Exercise|Q|Human|User)(?:[ \t]?\d{1,3})?[*]{0,2}[ \t]?:"
    r"|(?<=#)[ \t]?(?:Question|Problem|Instruction|Exercise)\b)",
    re.MULTILINE,
)


_OBJECT = re.compile(
    r"""^[ \t]{0,8}(?:```(?:json)?[ \t]*)?\{(?=\s{0,99}(?P<quote>["'])[^"'\n]{1,60}["']\s?:)""", re.M
)
_TOKEN = {
    quote: re.compile(
        rf"{quote}(?:[^{quote}\\]|\\.)*(?P<end>{quote}?)|[{{}}\[\],:]|[^\s{{}}\[\],:{quote}]+", re.DOTALL
    )
    for quote in "\"'"
}
_ESCAPE = re.compile(
    r"\\(?:(?P<latex>boxed|fbox|frac|text|times|tan|theta|tau|neq?|nu|not|rho|right|rm|beta|binom|bar|bf|forall|to|tfrac)"
    r"(?![a-z])|u(?P<code>[0-9a-fA-F]{4})|(?P<char>.))",
    re.DOTALL,
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "", "f": ""}


def without_reasoning(text: str) -> str:
    """Return what follows the reasoning of a text: all of it if there are no tags.

    Raises UnreadableAnswer if the reasoning is not closed; whatever it holds is not an answer.
    """
    final = None
    for final in FINAL_CHANNEL.finditer(text):  # noqa: B007 the loop ends on the last match
        pass
    if final:
        text = text[final.end() :]
    elif _ANALYSIS.search(text):
        raise UnreadableAnswer(f"{CUT_OFF}: the analysis is not followed by a final channel")
    for opening, closing in REASONING_TAGS:
        start, end = text.rfind(opening), text.rfind(closing)
        if start > end:
            raise UnreadableAnswer(f"{CUT_OFF}: the reasoning that begins with {opening} is not closed")
        if end >= 0:
            text = text[end + len(closing) :]
    return text


def check_reasoning(reasoning: str) -> None:
    """Raise ValueError unless `reasoning` is one of `Reasoning`."""
    check_choice("reasoning", reasoning, get_args(Reasoning))


def json_answer(text: str) -> str | None:
    """Return the answer of a JSON object, such as the 6 of `{"reasoning": "3 times 2", "answer": "6"}`.

    The object is the whole text, its beginning, or its last part, perhaps in a code fence. The key ends in
    `answer`, or is `result`. None if there is no such object or key. Raises UnreadableAnswer if
    the text ends within the object.
    """
    starts = list(_OBJECT.finditer(text))
    if not starts:
        return None
    is_first = not text[: starts[0].start()].strip()
    start = starts[0 if is_first else -1]
    values, end = _members(text, start.end() - 1, start["quote"])
    if not is_first and (end is None or MARKER.search(text, end) or _BOX.search(text, end)):
        return None
    keys = {re.sub(r"[^a-z]", "", key.casefold()): key for key in values}
    names = [name for name in keys if name.endswith("answer")] or [name for name in keys if name == "result"]
    if names:
        return _value(values[keys[names[-1]]])
    if end is None:
        raise UnreadableAnswer(f"{CUT_OFF}: its JSON object is not closed")
    return None


def _members(text: str, start: int, quote: str) -> tuple[dict[str, str], int | None]:
    """Return the complete members of an object, each value as it is written, and where the object ends."""
    values: dict[str, str] = {}
    level, key, value_start, last = 0, "", -1, ""
    for token in _TOKEN[quote].finditer(text, start):
        part = token.group()
        if part.startswith(quote) and (len(part) < 2 or not token["end"]):
            return values, None
        if part in ("{", "["):
            level += 1
        elif level == 1 and part == ":" and value_start < 0 and last.startswith(quote):
            key, value_start = last[1:-1], token.end()
        elif level == 1 and part in (",", "}", "]") and value_start >= 0:
            values[key] = text[value_start : token.start()].strip()
            value_start = -1
        if part in ("}", "]"):
            level -= 1
            if level == 0:
                return values, token.end()
        last = part
    if value_start >= 0 and last.startswith(quote):
        values[key] = text[value_start:].strip("` \n")
    return values, None


def _value(written: str) -> str:
    if written[:1] in ('"', "'"):
        return _ESCAPE.sub(_unescaped, written[1:-1])
    if written == "null":
        return ""
    try:
        value: Any = json.loads(written, parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return written
    is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return ", ".join(value) if is_list else written


def _unescaped(escape: re.Match[str]) -> str:
    r"""Return the character of an escape; LaTeX whose backslash is not doubled (`\frac`) stays as it is."""
    if escape["latex"]:
        return escape.group()
    if escape["code"]:
        return chr(int(escape["code"], 16))
    char = escape["char"]
    return _ESCAPED.get(char, char if char in "\"\\/'" else escape.group())


def without_run_on(text: str) -> str:
    """Return `text` up to the end of its first turn, its first `#### N` line, or the next question."""
    for found in _END_OF_TURN.finditer(text):
        if text[: found.start()].strip():
            text = text[: found.start()]
            break
    hashed = _HASH_ANSWER.search(text)
    if hashed:
        return text[: hashed.end()]
    starts = [found.end() for found in (MARKER.search(text), _BOX.search(text)) if found]
    task = _NEXT_TASK.search(text, min(starts)) if starts else None
    return text[: task.start()] if task else text
