"""Demonstrations with the mistakes of a careless pupil, from which the lab policy learns.

Real policies make mistakes that are easier to see than to avoid. A tiny policy that is trained on perfect
demonstrations makes no mistakes, or only arithmetic slips that cannot be foreseen. The pupil here has four
habits with fixed rates: it falls for distractors, loses its place, and makes slips in operands and in
results. After a mistake it continues consistently. Each family of stories defines its own slips.

Invariant: a demonstration is a pure function of (story, state of the rng, habits); `Habits.none()` gives the
right solution.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Self

from forkpoint.lab.oracle import LabStory
from forkpoint.lab.story import DAYS, Distraction, answer_line


@dataclass(frozen=True)
class Habits:
    """The rates of the pupil's mistakes: probabilities in [0, 1]."""

    distracted: dict[Distraction, float] = field(
        default_factory=lambda: {"owner": 0.25, "item": 0.30, "dream": 0.55, "idle": 0.25}
    )
    """The probability that a distractor, by its kind, is used as if it counted. Dreams are believed more
    often than not, so that the most probable continuation is wrong there, and with it a majority vote."""
    lost: float = 0.12
    """The probability per line that a random other entry is used. If it is a later one, the pupil continues
    after it."""
    operand_slip: float = 0.015
    """The probability per line that one digit of the amount is wrong (in a swap: the second person is
    somebody else)."""
    result_slip: float = 0.015
    """The probability per line that one digit of the result is wrong (in a state: two balls are
    exchanged)."""

    @classmethod
    def none(cls) -> Self:
        """The habits of a pupil that makes no mistakes."""
        return cls(distracted={}, lost=0.0, operand_slip=0.0, result_slip=0.0)


def demonstrate(story: LabStory, rng: random.Random, habits: Habits | None = None) -> str:
    """A solution of `story` in the format of the oracle, right or wrong depending on the pupil's habits."""
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
