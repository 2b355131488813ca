"""Find test questions in training data, word for word or nearly.

The rule: texts are compared as lists of words (Unicode NFKC, lower case, letters and digits only). A test
question is found `exactly` if a training question has the same words, and `nearly` if a single training
question contains at least 70 % of its distinct 8-word sequences. (PaLM, arXiv 2204.02311, section 8, uses the
same share and length, but over all texts together.) Questions of fewer than 8 words are only compared
exactly. Numbers are words, so a question with other numbers is a different question.
Invariant: only the test questions are kept in memory; training data is read once. Solutions are not compared.
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
"""The files of the test sets inside a data directory (FORKPOINT_DATA)."""
QUESTION_COLUMNS = ("question", "problem", "prompt")
WORD = re.compile(r"[^\W_]+")

MatchKind = Literal["exactly", "nearly"]


@dataclass(frozen=True, slots=True)
class TestSet:
    """The questions of a benchmark, by their place in the file."""

    name: str
    questions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A test question that appears in the data."""

    test_set: str
    where: str
    """The place of the test question."""
    match: MatchKind
    share: float
    """Share of the test question's 8-word sequences that were found; 1 for an exact match."""
    row: str
    """The place of the training question that contains most of it."""


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in the form in which they are compared."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def ngrams(text_words: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return the distinct sequences of 8 words."""
    return {text_words[start : start + NGRAM_WORDS] for start in range(len(text_words) - NGRAM_WORDS + 1)}


def read_test_set(source: str | Path, name: str | None = None) -> TestSet:
    """Read the questions of a .jsonl, .json or .parquet file or of `hub:OWNER/NAME?split=test`.

    They are in the column question, problem or prompt.
    """
    return TestSet(name or str(source), {where: _question(where, row) for where, row in read_rows(source)})


def known_test_sets(directory: Path, but: Path) -> list[TestSet]:
    """Read the benchmarks found in a data directory, except the file `but`."""
    return [
        read_test_set(path, f"{name} ({path.relative_to(directory)})")
        for name, pattern in BENCHMARKS.items()
        for path in sorted(directory.glob(pattern))
        if path.resolve() != but.resolve()
    ]


def find_overlaps(training: Iterable[tuple[str, str]], test_sets: Iterable[TestSet]) -> list[Overlap]:
    """Find the test questions that appear in `training`, pairs of a place and a question.

    The result is in the order of the test sets.
    """
    test = [
        (test_set.name, where, words(question))
        for test_set in test_sets
        for where, question in test_set.questions.items()
    ]
    by_words, by_ngram = defaultdict(list), defaultdict(list)
    num_ngrams = []
    for idx, (_, _, question_words) in enumerate(test):
        by_words[question_words].append(idx)
        question_ngrams = ngrams(question_words)
        num_ngrams.append(len(question_ngrams))
        for ngram in question_ngrams:
            by_ngram[ngram].append(idx)
    best: dict[int, tuple[float, bool, str]] = {}
    for where, question_words in _distinct(training):
        counts = Counter(idx for ngram in ngrams(question_words) for idx in by_ngram.get(ngram, ()))
        found = {
            idx: (count / num_ngrams[idx], False)
            for idx, count in counts.items()
            if count / num_ngrams[idx] >= LEAST_SHARE
        }
        found |= dict.fromkeys(by_words.get(question_words, ()), (1.0, True))
        for idx, (share, is_exact) in found.items():
            if idx not in best or (share, is_exact) > best[idx][:2]:
                best[idx] = (share, is_exact, where)
    return [
        Overlap(test[idx][0], test[idx][1], "exactly" if is_exact else "nearly", share, row)
        for idx, (share, is_exact, row) in sorted(best.items())
    ]


def _distinct(training: Iterable[tuple[str, str]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each question once, with its first place and as words; questions without words are skipped."""
    seen: set[str] = set()
    for where, question in training:
        if question not in seen:
            seen.add(question)
            if question_words := words(question):
                yield where, question_words


def _question(where: str, row: Mapping[str, Any]) -> str:
    for column in QUESTION_COLUMNS:
        if isinstance(row.get(column), str):
            return str(row[column])
    raise ValueError(
        f"{where} has no text in the columns {', '.join(QUESTION_COLUMNS)}; it has {', '.join(row)}"
    )
