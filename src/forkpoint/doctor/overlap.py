"""Test questions that stand in training data, word for word or nearly.

The rule: texts are compared as lists of words (Unicode NFKC, lower case, letters and digits only). A test question is found
`exactly` where a training question has the same words, and `nearly` where one training question holds at least 70 % of its
distinct 8-word sequences (the share and length of PaLM, arXiv 2204.02311, section 8; there over all texts together).
Questions of fewer than 8 words are compared exactly only. Numbers are words, so a question with other numbers is another.
Invariant: memory is that of the test questions; training data is read once. Solutions are not looked at.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forkpoint.formats.containers import read_rows

NGRAM_WORDS = 8
LEAST_SHARE = 0.7
BENCHMARKS = {
    "GSM8K": "gsm8k/test.jsonl",
    "MATH-500": "math/math500.jsonl",
    "ProcessBench": "processbench/*.json",
}
"""Where the test sets are found in a directory of data (that of FORKPOINT_DATA)."""
QUESTION_COLUMNS = ("question", "problem", "prompt")
WORD = re.compile(r"[^\W_]+")

MatchKind = Literal["exactly", "nearly"]


@dataclass(frozen=True, slots=True)
class TestSet:
    """A benchmark's questions by the place where each stands."""

    name: str
    questions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A test question that the data holds."""

    test_set: str
    where: str
    """The place of the test question."""
    match: MatchKind
    share: float
    """Of the test question's 8-word sequences; 1 where it stands there exactly."""
    row: str
    """The place of the training question that holds most of it."""


def words(text: str) -> tuple[str, ...]:
    """The words of a text, as they are compared."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def ngrams(its_words: tuple[str, ...]) -> set[tuple[str, ...]]:
    """The distinct sequences of 8 words."""
    return {its_words[start : start + NGRAM_WORDS] for start in range(len(its_words) - NGRAM_WORDS + 1)}


def read_test_set(source: str | Path, name: str | None = None) -> TestSet:
    """The questions of a .jsonl, .json or .parquet file or `hub:OWNER/NAME?split=test`: column question, problem or prompt."""
    return TestSet(name or str(source), {where: _question(where, row) for where, row in read_rows(source)})


def known_test_sets(directory: Path, but: Path) -> list[TestSet]:
    """The benchmarks that lie in a directory of data, other than the file `but`."""
    return [
        read_test_set(path, f"{name} ({path.relative_to(directory)})")
        for name, pattern in BENCHMARKS.items()
        for path in sorted(directory.glob(pattern))
        if path.resolve() != but.resolve()
    ]


def find_overlaps(training: Iterable[tuple[str, str]], test_sets: Iterable[TestSet]) -> list[Overlap]:
    """The test questions that stand in `training`, pairs of a place and a question; in the order of the test sets."""
    test = [
        (test_set.name, where, words(question))
        for test_set in test_sets
        for where, question in test_set.questions.items()
    ]
    by_words, by_ngram = defaultdict(list), defaultdict(list)
    num_ngrams = []
    for idx, (_, _, its_words) in enumerate(test):
        by_words[its_words].append(idx)
        its_ngrams = ngrams(its_words)
        num_ngrams.append(len(its_ngrams))
        for ngram in its_ngrams:
            by_ngram[ngram].append(idx)
    best: dict[int, tuple[float, bool, str]] = {}
    for where, its_words in _distinct(training):
        counts = Counter(idx for ngram in ngrams(its_words) for idx in by_ngram.get(ngram, ()))
        found = {
            idx: (count / num_ngrams[idx], False)
            for idx, count in counts.items()
            if count / num_ngrams[idx] >= LEAST_SHARE
        }
        found |= dict.fromkeys(by_words.get(its_words, ()), (1.0, True))
        for idx, (share, is_exact) in found.items():
            if idx not in best or (share, is_exact) > best[idx][:2]:
                best[idx] = (share, is_exact, where)
    return [
        Overlap(test[idx][0], test[idx][1], "exactly" if is_exact else "nearly", share, row)
        for idx, (share, is_exact, row) in sorted(best.items())
    ]


def _distinct(training: Iterable[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each question once, as words, with the place where it first stands; without words there is nothing to compare."""
    seen: set[str] = set()
    for where, question in training:
        if question not in seen:
            seen.add(question)
            if its_words := words(question):
                yield where, its_words


def _question(where: str, row: Mapping[str, Any]) -> str:
    for column in QUESTION_COLUMNS:
        if isinstance(row.get(column), str):
            return str(row[column])
    raise ValueError(
        f"{where} has no text in the columns {', '.join(QUESTION_COLUMNS)}; it has {', '.join(row)}"
    )
