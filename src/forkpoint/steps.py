"""Cut a solution, given as text or as tokens, into steps.

Segmentations: `newline` (every line is a step), `entropy` (a step begins at every uncertainty anchor,
EDU-PRM, arXiv 2503.22233) and `solution` (the whole solution is one step).
Invariant: the steps of a solution, joined, are its text; nothing is stripped, added or lost. An anchor is a
position at which the next-token distribution has an entropy above tau, in nats, and the token taken is not a
symbol. The step that an anchor begins contains the anchor's token.
"""

from __future__ import annotations

import bisect
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forkpoint.records import Completion

Segmentation = Literal["newline", "entropy", "solution"]
SEGMENTATIONS: tuple[Segmentation, ...] = ("newline", "entropy", "solution")
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""A line with its end; the last line of a text may have none."""


@dataclass(frozen=True, slots=True)
class AnchorRule:
    """The rule that says at which tokens a policy counts as unsure."""

    tau: float = 1.0
    """Entropy threshold in nats (1.0 as in arXiv 2503.22233)."""
    min_gap: int = 1
    """Smallest distance in tokens between two anchors of a path; 1 allows neighbours."""
    symbols: str = "default"
    """Tokens that are never anchors: `default` (nothing but punctuation, mathematical symbols and white
    space), `none`, or the characters that count as symbols. Tokens without text, such as end tokens, are
    never anchors."""

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ValueError(f"tau is an entropy in nats and must be 0 or above; {self.tau} was given")
        if self.min_gap < 1:
            raise ValueError(f"min_gap must be at least 1 token; {self.min_gap} was given")

    def is_symbol(self, token_text: str) -> bool:
        """Whether a token consists of symbols only."""
        if self.symbols == "none":
            return False
        if self.symbols == "default":
            return all(unicodedata.category(character)[0] in "PSZC" for character in token_text)
        return all(character in self.symbols or character.isspace() for character in token_text)

    def can_fork(self, token_texts: Sequence[str]) -> list[bool]:
        """Per token, whether it can be an anchor: it has text (end tokens have none) and is no symbol."""
        return [bool(text) and not self.is_symbol(text) for text in token_texts]

    def anchors(self, entropies: Sequence[float], can_fork: Sequence[bool]) -> list[int]:
        """The anchors' positions in order; both arguments have one entry per token."""
        positions: list[int] = []
        for position, (entropy, is_candidate) in enumerate(zip(entropies, can_fork, strict=True)):
            if (
                is_candidate
                and entropy > self.tau
                and (not positions or position - positions[-1] >= self.min_gap)
            ):
                positions.append(position)
        return positions


def calibrate_tau(candidate_entropies: Sequence[Sequence[float]], anchors_per_solution: float) -> float:
    """The tau at which solutions have `anchors_per_solution` anchors on average.

    `candidate_entropies` holds, for each solution of a sample, the entropies (nats) of the tokens that could
    be anchors. Raises ValueError if the sample is empty or has fewer candidates than asked for.
    """
    pooled = sorted((entropy for solution in candidate_entropies for entropy in solution), reverse=True)
    wanted = round(anchors_per_solution * len(candidate_entropies))
    if not 1 <= wanted < len(pooled):
        raise ValueError(
            f"{anchors_per_solution} anchors per solution cannot be reached: "
            f"{len(candidate_entropies)} sampled solutions have {len(pooled)} tokens that could be anchors; "
            f"ask for between 0 and {len(pooled) / max(1, len(candidate_entropies)):.1f}"
        )
    return (pooled[wanted - 1] + pooled[wanted]) / 2


def newline_steps(text: str) -> tuple[str, ...]:
    """One step per non-empty line, line end included.

    Empty lines belong to the step before them, or to the first step. An empty text has one empty step. The
    time is linear in the length of the text.
    """
    steps: list[str] = []
    lines: list[str] = []  # of the step that is not complete yet
    has_text = False
    for line in lines_of(text):
        is_empty = not line.strip()
        if has_text and not is_empty:
            steps.append("".join(lines))
            lines = []
        lines.append(line)
        has_text = has_text or not is_empty
    return (*steps, "".join(lines))


def lines_of(text: str) -> Iterator[str]:
    r"""The lines of a text, each with its line end: `\n`, `\r\n` or `\r`, and no other character.

    `str.splitlines` also cuts at form feeds, at U+2028 and at other characters, which in a solution are not
    ends of lines: a decoder that reads `\frac` with one backslash makes a form feed of it.
    """
    return (found[0] for found in LINE.finditer(text))


def token_steps(token_texts: Sequence[str], starts: Sequence[int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The text cut before each token position in `starts`, and the number of tokens up to each step's end.

    A cut that would make an empty step is not made, so there is at least one step, and it is empty only if
    the text is.
    """
    steps: list[str] = []
    ends: list[int] = []
    low = 0
    for high in [*(start for start in sorted(set(starts)) if start < len(token_texts)), len(token_texts)]:
        text = "".join(token_texts[low:high])
        if text:
            steps.append(text)
            ends.append(high)
        elif steps:
            ends[-1] = high
        low = high
    return (tuple(steps), tuple(ends)) if steps else (("",), (len(token_texts),))


def tokens_at(token_texts: Sequence[str], steps: Sequence[str]) -> tuple[int, ...]:
    """Per step, the number of tokens needed to cover the text up to its end.

    The steps, joined, must be the text of the tokens.
    """
    ends = list(itertools.accumulate(len(text) for text in token_texts))
    step_ends = list(itertools.accumulate(len(step) for step in steps))
    counts = [bisect.bisect_left(ends, end) + 1 if end else 0 for end in step_ends]
    return (*counts[:-1], len(token_texts))


def num_shared(left: Sequence[Any], right: Sequence[Any]) -> int:
    """The number of leading characters or tokens that two sequences share."""
    shortest = min(len(left), len(right))
    return next((idx for idx in range(shortest) if left[idx] != right[idx]), shortest)


@dataclass(frozen=True, slots=True)
class Path:
    """A whole solution in tokens, from the prompt's end, with the text of each token."""

    completion: Completion
    token_texts: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.token_texts)

    @property
    def is_cut_off(self) -> bool:
        """Whether the solution ended because there was no room for more tokens, and not by an end token."""
        return self.completion.finish == "length"

    def steps(self, segmentation: Segmentation, rule: AnchorRule) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The steps, and the number of tokens up to the end of each; the last counts them all."""
        if segmentation == "solution":
            return (self.text,), (len(self.token_texts),)
        if segmentation == "newline":
            steps = newline_steps(self.text)
            return steps, tokens_at(self.token_texts, steps)
        can_fork = rule.can_fork(self.token_texts)
        return token_steps(self.token_texts, rule.anchors(self.completion.entropies, can_fork))
