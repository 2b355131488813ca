"""Ask a PRM for the scores of partial solutions, and count what it reads.

Invariant: a text is read once per problem, however many beams it belongs to. Scores are rounded to 6 decimals
before they decide anything, because their last bits depend on the batch and must not change the answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from forkpoint.prms.layout import PRMFormat
from forkpoint.prms.scores import checked_scores
from forkpoint.records import NUM_DECIMALS, Scorer
from forkpoint.steps import num_shared, tokens_at

TAG = -1
"""Stands for the step tag if the PRM's own tokens are not known."""

LayOut = Callable[[str, Sequence[str]], Sequence[int]]
"""Gives the token ids that a PRM reads to score the steps of a solution to a question, tags included."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A partial or complete solution as a PRM reads it."""

    steps: tuple[str, ...]
    token_ids: tuple[int, ...]
    """The policy's tokens, without the end token."""
    token_texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Readings:
    """The texts that a PRM has read for one problem, and their scores."""

    question: str
    prompt_ids: tuple[int, ...]
    scores: dict[tuple[str, ...], tuple[float, ...]] = field(default_factory=dict)
    """One score per step, under the steps of each text."""
    read_ids: list[tuple[int, ...]] = field(default_factory=list)
    """The tokens of every text, in the order in which the texts were read."""

    @property
    def num_read(self) -> int:
        """Tokens that were read, if every text is read from its start."""
        return sum(len(ids) for ids in self.read_ids)

    @property
    def num_read_once(self) -> int:
        """Tokens that were read, if every distinct prefix is read once."""
        # in sorted order a text shares its longest known prefix with the text before it
        ordered = [(), *sorted(self.read_ids)]
        return sum(len(ids) - num_shared(before, ids) for before, ids in itertools.pairwise(ordered))


@dataclass(frozen=True)
class Guide:
    """The PRM of a search: the scorer, how its steps are cut, and how its tokens are counted.

    `trees.steer.Steering` is the PRM while one tree grows: it decides where the tree forks. A guide decides
    nothing; a search asks it for scores and keeps or drops partial solutions itself.
    """

    scorer: Scorer
    prm_format: PRMFormat = field(default_factory=PRMFormat)
    lay_out: LayOut | None = None
    """How a solution becomes the tokens that the PRM reads. None counts the policy's tokens and one tag per
    step, which is an estimate if the two tokenizers differ."""

    def identity(self) -> dict[str, Any]:
        """Everything that scores depend on besides the text."""
        return {"scorer": self.scorer.name, "prm_format": self.prm_format.to_row()}

    def read(self, items: Sequence[tuple[Readings, Draft]]) -> None:
        """Score all texts that were not read before, in one call, and add the scores to the readings.

        Raises ValueError if there are too few or too many scores, or scores outside [0, 1], and whatever the
        scorer raises for a text that it cannot read.
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
            readings.scores[draft.steps] = tuple(round(score, NUM_DECIMALS) for score in scores_of_text)
            readings.read_ids.append(tuple(self._ids(readings, draft)))

    def _ids(self, readings: Readings, draft: Draft) -> Sequence[int]:
        if self.lay_out is not None:
            return self.lay_out(readings.question, draft.steps)
        ids, start = list(readings.prompt_ids), 0
        for end in tokens_at(draft.token_texts, draft.steps):
            ids += [*draft.token_ids[start:end], TAG]
            start = end
        return ids
