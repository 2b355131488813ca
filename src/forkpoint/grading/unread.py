"""How many texts of a file gave no answer, and which grader would have read them.

Invariant: every text that counts as wrong without having been compared is counted once, under one reason.
This file changes no verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from forkpoint.grading.grade import GRADERS, Verdict, grade_all
from forkpoint.grading.response import Reasoning

MANY = 0.05
"""Share of unread texts above which a warning is given."""
SAMPLE_SIZE = 100
"""Unread texts on which the other graders are tried."""
LEAST_SHARE = 0.2
"""Share of the sample that another grader must find correct to be named."""
SAMPLE_TIMEOUT_S = 0.5


@dataclass(slots=True)
class Sample:
    """The first unread texts of every grader, with their references."""

    pairs: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def add(self, pairs: Sequence[tuple[str, str]], verdicts: Sequence[Verdict], grader: str) -> None:
        """Add those (reference, prediction) pairs that `grader` could not read, up to SAMPLE_SIZE."""
        kept = self.pairs.setdefault(grader, [])
        unread = (pair for pair, verdict in zip(pairs, verdicts, strict=True) if is_unread(verdict))
        kept.extend(islice(unread, SAMPLE_SIZE - len(kept)))


@dataclass(frozen=True, slots=True)
class Unread:
    """Counts of the texts that count as wrong although no answer of theirs was compared."""

    num_texts: int = 0
    """All texts, read or not."""
    num_without_answer: int = 0
    num_ungradable: int = 0
    """Texts with an answer that could not be graded."""
    num_cut_off: int = 0
    """Texts that end before their answer does, as far as the text shows."""
    likely_grader: str | None = None
    """The grader that finds many of the unread texts correct; None if there is none."""

    @property
    def num_unread(self) -> int:
        return self.num_without_answer + self.num_ungradable + self.num_cut_off

    @property
    def has_many(self) -> bool:
        """Whether there are so many that the accuracy may say more about the grader than about the texts."""
        return self.num_unread > MANY * self.num_texts

    def plus(self, other: Unread) -> Unread:
        """Return the sum of two counts."""
        return Unread(
            self.num_texts + other.num_texts,
            self.num_without_answer + other.num_without_answer,
            self.num_ungradable + other.num_ungradable,
            self.num_cut_off + other.num_cut_off,
        )

    def explained(self, sample: Sample, reasoning: Reasoning = "drop") -> Unread:
        """Return the counts with the likely grader, which is looked for if there are many unread texts."""
        if not self.has_many or not sample.pairs:
            return self
        grader, pairs = max(sample.pairs.items(), key=lambda item: len(item[1]))
        return replace(self, likely_grader=likely_grader(pairs, grader, reasoning))

    def message(self) -> str:
        """Describe the counts, and warn if they are high."""
        said = (
            f"{self.num_texts:,} texts: {self.num_without_answer:,} had no answer, {self.num_ungradable:,} "
            f"could not be graded, {self.num_cut_off:,} were cut off; these count as wrong"
        )
        if not self.has_many:
            return said
        advice = (
            f"--grader {self.likely_grader} finds correct answers in them"
            if self.likely_grader
            else "look at some of them before you trust the accuracy"
        )
        return f"{said}\nwarning: {self.num_unread / self.num_texts:.1%} of the texts were not read; {advice}"


def is_unread(verdict: Verdict) -> bool:
    """Return whether a text counts as wrong although no answer of it was compared."""
    return verdict.outcome == "ungradable" or verdict.has_no_answer


def count_unread(verdicts: Sequence[Verdict]) -> Unread:
    """Count the texts that have not been read."""
    num_cut_off = sum(verdict.is_cut_off for verdict in verdicts)
    num_ungradable = sum(verdict.outcome == "ungradable" for verdict in verdicts) - num_cut_off
    num_without_answer = sum(verdict.has_no_answer for verdict in verdicts)
    return Unread(len(verdicts), num_without_answer, num_ungradable, num_cut_off)


def likely_grader(pairs: Sequence[tuple[str, str]], grader: str, reasoning: Reasoning = "drop") -> str | None:
    """Return the grader, other than `grader`, that finds most of the pairs correct; None if all find few."""
    best, most = None, LEAST_SHARE * len(pairs)
    for other in GRADERS:
        if other in (grader, "code"):
            continue
        verdicts = grade_all(pairs, other, SAMPLE_TIMEOUT_S, reasoning)
        num_correct = sum(verdict.is_correct for verdict in verdicts)
        if num_correct > most:
            best, most = other, num_correct
    return best
