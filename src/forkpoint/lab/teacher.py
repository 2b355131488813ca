"""Demonstrations as a careless pupil would write them: what the lab policy learns from.

Real policies make mistakes that are easier to see than to avoid; a tiny policy trained on perfect demonstrations makes
either none or only blind arithmetic slips. The pupil here has four habits with fixed rates: it falls for distractors,
loses its place, slips on an operand, slips on a result. After a mistake it goes on consistently. What a slip is, each family
of stories says itself.

Invariant: a demonstration is a pure function of (story, rng state, habits); `Habits.none()` gives the right solution.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Self

from forkpoint.lab.oracle import LabStory
from forkpoint.lab.story import DAYS, Distraction, answer_line


@dataclass(frozen=True)
class Habits:
    """How often the pupil errs: probabilities in [0, 1]."""

    distracted: dict[Distraction, float] = field(
        default_factory=lambda: {"owner": 0.25, "item": 0.30, "dream": 0.55, "idle": 0.25}
    )
    """Per distractor that is met: it is used as if it counted. Dreams are believed more often than not, so that what the
    policy thinks most probable is wrong there, and a majority vote with it."""
    lost: float = 0.12
    """Per line: a random other entry of the story is used; a later one makes the pupil go on after it."""
    operand_slip: float = 0.015
    """Per line: one digit of the amount is copied wrong (of a swap: somebody else is put in the place of the second person)."""
    result_slip: float = 0.015
    """Per line: one digit of the result is wrong (of a state: two balls are confused)."""

    @classmethod
    def none(cls) -> Self:
        return cls(distracted={}, lost=0.0, operand_slip=0.0, result_slip=0.0)


def demonstrate(story: LabStory, rng: random.Random, habits: Habits | None = None) -> str:
    """A solution of `story` in the oracle's format, right or wrong by the pupil's habits."""
    habits = habits or Habits()
    state, idx, lines = story.start, 0, []
    while True:
        idx = _next_event(story, idx, rng, habits)
        if idx >= len(story.events):
            break
        used = idx
        if rng.random() < habits.lost and len(story.events) > 1:
            used = rng.choice([other for other in range(len(story.events)) if other != idx])
        event = story.events[used]
        if rng.random() < habits.operand_slip:
            event = event.misread(rng)
        result = event.apply(state)
        if rng.random() < habits.result_slip:
            result = event.slip(result, rng)
        lines.append(event.line(DAYS[used], state, result))
        state = result
        idx = max(idx, used + 1) if used != idx else idx + 1
        if len(lines) > 2 * len(story.events):  # a pupil who keeps losing the place gives up
            break
    return "\n".join([*lines, answer_line(story.read(state))])


def _next_event(story: LabStory, idx: int, rng: random.Random, habits: Habits) -> int:
    while idx < len(story.events):
        distraction = story.events[idx].distraction
        if distraction is None or rng.random() < habits.distracted.get(distraction, 0.0):
            break
        idx += 1
    return idx
