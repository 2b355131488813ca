"""Step scores of a scorer that is taken at its word in nothing: too few, too many, and numbers that are no scores are refused."""

from __future__ import annotations

from collections.abc import Sequence

from forkpoint.records import Scorer


def checked_scores(
    scorer: Scorer, questions: Sequence[str], steps: Sequence[Sequence[str]]
) -> list[tuple[float, ...]]:
    """What `scorer.score` gives. ValueError unless that is one number in [0, 1] per step of every solution."""
    found = scorer.score(questions, steps)
    if len(found) != len(steps):
        raise ValueError(
            f"scorer {scorer.name!r} was given {len(steps)} solutions and scored {len(found)}; one each is needed"
        )
    for its_steps, scores in zip(steps, found, strict=True):
        if len(scores) != len(its_steps) or not all(0 <= score <= 1 for score in scores):
            raise ValueError(
                f"scorer {scorer.name!r} gave the scores {list(scores)} for {len(its_steps)} steps; one number in [0, 1] per step is needed"
            )
    return [tuple(scores) for scores in found]
