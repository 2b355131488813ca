r"""Find the part of a model's text that may state its answer.

A text may run on after its answer: base models write the next question and answer that too.
Invariant: finding the part takes time linear in the text, and the part is returned as it is written.
This file does not look for the answer itself (see `answers.py`).
"""

from __future__ import annotations

import re

MARKER = re.compile(
    r"####|(?i:\banswer(?:\s{1,3}is\b|[\s*]{0,4}[:=])|<answer>)|^[ \t]{0,8}A:"
    r"|^[ \t#*_]{0,8}(?i:(?:the )?(?:final )?answer)[ \t*_]{0,8}$",  # a heading
    re.MULTILINE,
)
"""What announces an answer, apart from a box."""

_BOX = re.compile(r"\\(?:boxed|fbox)\b")
_END_OF_TURN = re.compile(
    r"</s>|<end_of_turn>|<\|(?:im_end|eot_id|endoftext|end_of_text|eom_id|return)\|>|<｜end▁of▁sentence｜>"
)
_HASH_ANSWER = re.compile(
    r"^[ \t]{0,3}####[ \t]{0,3}(?=[^\n]{0,99}\d)(?!\d{1,2}[.)][ \t])"
    r"(?:\\[A-Za-z]+|\\[^A-Za-z\n]|(?<![A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])|[^A-Za-z\n\\]){1,99}"
    r"(?:(?<=[ \t])[A-Za-z]{3,20}\.?)?[ \t]*$",
    re.MULTILINE,
)
"""A line such as `#### 18 apples`, but no heading such as `#### Step 2` or `#### 2. Add them`."""
_NEXT_TASK = re.compile(
    r"^[ \t#*<|]{0,8}(?:(?:Question|Problem|Instruction|Exercise|Q|Human|User)(?:[ \t]?\d{1,3})?[*]{0,2}[ \t]?:"
    r"|(?<=#)[ \t]?(?:Question|Problem|Instruction|Exercise)\b)",
    re.MULTILINE,
)


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
