"""Built-in questions and solutions for examinations: some ordinary, some as awkward as real ones can be.

Steps begin with `Step 1: ` and so on, because several PRM families expect that.
"""

from __future__ import annotations

import string
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """A solution, with a name that says what is special about it."""

    name: str
    question: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two solutions of one question; the second is obviously wrong from some step on."""

    question: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


PAIRS = (
    Pair(
        "Tom has 3 boxes with 4 apples each. How many apples does he have?",
        (
            "Step 1: Each of the 3 boxes holds 4 apples, so there are 3 * 4 = 12 apples.",
            "Step 2: The answer is: 12",
        ),
        (
            "Step 1: Each of the 3 boxes holds 4 apples, so there are 3 + 4 = 95 apples.",
            "Step 2: The answer is: 95",
        ),
    ),
    Pair(
        "What is 7 + 12?",
        ("Step 1: 7 + 12 = 19.", "Step 2: The answer is: 19"),
        ("Step 1: 7 + 12 = 4.", "Step 2: The answer is: 4"),
    ),
    Pair(
        "A book costs 8 dollars. How much do 5 books cost, and how much is left of 50 dollars?",
        (
            "Step 1: 5 books cost 5 * 8 = 40 dollars.",
            "Step 2: 50 - 40 = 10 dollars are left.",
            "Step 3: The answer is: 10",
        ),
        (
            "Step 1: 5 books cost 5 * 8 = 40 dollars.",
            "Step 2: 50 - 40 = 700 dollars are left.",
            "Step 3: The answer is: 700",
        ),
    ),
)
ORDINARY = tuple(
    Sample(f"{name} solution {number}", pair.question, steps)
    for number, pair in enumerate(PAIRS, start=1)
    for name, steps in (("right", pair.right), ("wrong", pair.wrong))
)
TRICKY = (
    Sample("one step", "What is 1 + 1?", ("Step 1: The answer is: 2",)),
    Sample("signs", "What is -3 + 5?", ("+ 5 - 3", "- 3 + 5 = + 2", "+", "-", "The answer is: + 2")),
    Sample(
        "digits",
        "Add 123456789 and 1.",
        ("123456789+1=123456790", "3.14159265358979", "1,000,000", "The answer is: 123456790"),
    ),
    Sample(
        "LaTeX",
        r"Evaluate $\frac{1}{2} + \frac{1}{3}$.",
        (
            r"\[\frac{1}{2}+\frac{1}{3}=\frac{3+2}{6}\]",
            r"$\left(\frac{5}{6}\right)^{\circ}$",
            r"The answer is $\boxed{\frac{5}{6}}$.",
        ),
    ),
    Sample("unicode", "What is √16?", ("√16 = ±4, ≠ 5 — so 4", "答案是 4。", "Ответ: 4 ✓", "é ü 𝑥 👍🏽")),
    Sample(
        "line ends",
        "What is 2 * 3?",
        ("Step 1: twice\n\nthree", "  Step 2: is six  \n", "The answer is: 6\n\n"),
    ),
    Sample("letters", "Spell it.", tuple(f"{letter} is next" for letter in string.ascii_uppercase)),
)
TEXTS = tuple(text for sample in (*ORDINARY, *TRICKY) for text in (sample.question, *sample.steps))
QUESTIONS = tuple(pair.question for pair in PAIRS)
