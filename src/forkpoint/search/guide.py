"""A PRM as a search asks it: what it says of partial solutions, and what it had to read for that.

Invariant: a text is read once per problem, however many beams end in it, and scores are rounded to 6 decimals before they
decide anything: what a batch changes in the last bits of a float is no reason for another answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.scores import checked_scores
from forkpoint.records import NUM_DECIMALS, Scorer
from forkpoint.steps import num_shared, tokens_at

TAG = -1
"""Stands for the step tag, where the PRM's own tokens are not known."""

LayOut = Callable[[str, Sequence[str]], Sequence[int]]
"""The token ids that a PRM reads to score the steps of a solution to a question, tags included."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A solution as far as it goes."""

    steps: tuple[str, ...]
    token_ids: tuple[int, ...]
    """The policy's, without its end token."""
    token_texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Readings:
    """What a PRM has read of one problem's solutions, and said of them."""

    question: str
    prompt_ids: tuple[int, ...]
    scores: dict[tuple[str, ...], tuple[float, ...]] = field(default_factory=dict)
    """Of the steps of every text that was read, one score per step."""
    read_ids: list[tuple[int, ...]] = field(default_factory=list)
    """The tokens of every text that was read."""

    @property
    def num_read(self) -> int:
        return sum(len(ids) for ids in self.read_ids)

    @property
    def num_read_once(self) -> int:
        """Distinct prefixes; in sorted order a text shares most with the one before it."""
        ordered = [(), *sorted(self.read_ids)]
        return sum(len(ids) - num_shared(before, ids) for before, ids in itertools.pairwise(ordered))


@dataclass(frozen=True)
class Guide:
    """A PRM, how its steps are cut, and how its tokens are counted."""

    scorer: Scorer
    prm_format: PRMFormat = field(default_factory=PRMFormat)
    lay_out: LayOut | None = None
    """None: the policy's own tokens and one tag per step, an estimate where the two tokenizers differ."""

    def identity(self) -> dict[str, Any]:
        """What scores depend on besides the text."""
        return {"scorer": self.scorer.name, "prm_format": asdict(self.prm_format)}

    def read(self, items: Sequence[tuple[Readings, Draft]]) -> None:
        """Have all texts that were not read before scored, in one call; the scores are in the readings then.

        ValueError where scores are too few, too many or outside [0, 1]; and whatever the scorer raises for a text that it
        cannot read.
        """
        owed = {
            (id(readings), draft.steps): (readings, draft)
            for readings, draft in items
            if draft.steps not in readings.scores
        }
        if not owed:
            return
        asked = list(owed.values())
        scores = checked_scores(
            self.scorer, [readings.question for readings, _ in asked], [draft.steps for _, draft in asked]
        )
        for (readings, draft), scores_of_text in zip(asked, scores, strict=True):
            readings.scores[draft.steps] = tuple(
                round(float(score), NUM_DECIMALS) for score in scores_of_text
            )
            readings.read_ids.append(tuple(self._ids(readings, draft)))

    def _ids(self, readings: Readings, draft: Draft) -> Sequence[int]:
        if self.lay_out is not None:
            return self.lay_out(readings.question, draft.steps)
        ids, start = list(readings.prompt_ids), 0
        for end in tokens_at(draft.token_texts, draft.steps):
            ids += [*draft.token_ids[start:end], TAG]
            start = end
        return ids
