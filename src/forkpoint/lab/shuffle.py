"""Problems without numbers: people swap balls day by day, and the question is who has which ball in the end.

A state says who holds which ball. Some entries are distractors: a swap in a dream, or a verb that swaps
nothing. The right solution has one line per swap, which begins with its day and gives the two balls that
change hands and the whole state after the swap, and it ends with `The answer is NAME: COLOUR`. The people of
a level are always the same, in the same order, because a policy of the lab's size does not learn to match
names at changing places. Splits, days and names are those of `story.py`.

Invariant: a shuffle is a pure function of (split, level, seed, index), and no question is ever in two splits.
This file does not read solutions (see `oracle.py`) and does not write wrong ones (see `teacher.py`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from forkpoint.lab.story import DAYS, NAMES, Distraction, answer_line, distinct_stories, level_named, solve

COLOURS = ("red", "blue", "green", "black", "white", "pink")
IDLE_VERBS = ("talk", "wave", "dance")

State = tuple[str, ...]
"""The colour of the ball of each person, in the order of the people."""


@dataclass(frozen=True)
class Swap:
    """One entry of the diary: two people swap their balls. It is a distractor if `distraction` is set."""

    people: tuple[str, ...]
    """All people of the level, not only the two."""
    left: int
    right: int
    """The two who swap, as indices of `people`."""
    sentence: str
    distraction: Distraction | None = None

    def apply(self, state: State) -> State:
        """The state after this swap, also if it is a distractor."""
        swapped = list(state)
        swapped[self.left], swapped[self.right] = state[self.right], state[self.left]
        return tuple(swapped)

    def misread(self, rng: random.Random) -> Swap:
        """This swap with somebody else in the place of the second person."""
        return replace(
            self,
            right=rng.choice([idx for idx in range(len(self.people)) if idx not in (self.left, self.right)]),
        )

    def slip(self, state: State, rng: random.Random) -> State:
        """`state` with two balls exchanged by mistake."""
        left, right = rng.sample(range(len(state)), 2)
        return replace(self, left=left, right=right).apply(state)

    def line(self, day: str, before: State, after: State) -> str:
        """One step of a solution: `Monday: Ada: red, Leo: blue, so Ada: blue, Leo: red, Mia: green`."""
        given = _held(
            (self.people[self.left], self.people[self.right]), (before[self.left], before[self.right])
        )
        return f"{day}: {given}, so {_held(self.people, after)}"


@dataclass(frozen=True)
class Shuffle:
    """A problem of this family, with everything that is needed to judge its solutions."""

    people: tuple[str, ...]
    start: State
    events: tuple[Swap, ...]
    asked: str
    """The person whose ball the question asks for."""
    level: str

    @property
    def question(self) -> str:
        entries = [f"{day}: {event.sentence}" for day, event in zip(DAYS, self.events, strict=False)]
        return " ".join(
            [
                *entries,
                f"Which ball does {self.asked} have in the end?",
                f"At first: {_held(self.people, self.start)}",
            ]
        )

    @property
    def answer(self) -> str:
        return self.read(solve(self.start, self.events)[1])

    @property
    def solution(self) -> str:
        """The right solution: lines joined by newlines, without a final newline."""
        lines, state = solve(self.start, self.events)
        return "\n".join([*lines, answer_line(self.read(state))])

    def read(self, state: State) -> str:
        """The person and the colour of the ball that the person has in a state."""
        return f"{self.asked}: {state[self.people.index(self.asked)]}"


def _held(people: tuple[str, ...], state: State) -> str:
    return ", ".join(f"{person}: {colour}" for person, colour in zip(people, state, strict=True))


@dataclass(frozen=True)
class ShuffleLevel:
    """The difficulty of the shuffles of a level; ranges are inclusive."""

    num_people: int
    num_swaps: tuple[int, int]
    num_distractors: tuple[int, int]
    distractions: tuple[Distraction, ...] = ("idle", "dream")
    """The kinds of distractors, drawn evenly; a kind that is listed twice is drawn twice as often."""


SHUFFLE_LEVELS = {
    "easy": ShuffleLevel(num_people=3, num_swaps=(1, 2), num_distractors=(0, 1)),
    "default": ShuffleLevel(
        num_people=4,
        num_swaps=(3, 4),
        num_distractors=(2, 3),
        distractions=("idle", "idle", "idle", "idle", "dream"),
    ),
    "hard": ShuffleLevel(num_people=5, num_swaps=(4, 5), num_distractors=(2, 2)),
}
"""No level has more swaps and distractors than there are days."""


def shuffles(split: str, level: str, seed: int) -> Iterator[Shuffle]:
    """An endless stream of distinct shuffles of one split and level; the same arguments give the same stream.

    Raises ValueError on an unknown split or level.
    """
    rules = level_named(level, SHUFFLE_LEVELS)
    return distinct_stories(split, f"shuffle/{level}/{seed}", lambda rng: draw_shuffle(level, rng, rules))


def draw_shuffle(level: str, rng: random.Random, rules: ShuffleLevel | None = None) -> Shuffle:
    """One shuffle of a level, of any split; `rules`, if given, replace those of the level."""
    rules = rules or SHUFFLE_LEVELS[level]
    people = NAMES[: rules.num_people]
    start = tuple(rng.sample(COLOURS, rules.num_people))
    events = [_draw_swap(people, rng) for _ in range(rng.randint(*rules.num_swaps))]
    for _ in range(rng.randint(*rules.num_distractors)):
        events.insert(rng.randint(0, len(events)), _draw_swap(people, rng, rng.choice(rules.distractions)))
    return Shuffle(people=people, start=start, events=tuple(events), asked=rng.choice(people), level=level)


def _draw_swap(people: tuple[str, ...], rng: random.Random, distraction: Distraction | None = None) -> Swap:
    left, right = rng.sample(range(len(people)), 2)
    verb = (
        rng.choice(IDLE_VERBS)
        if distraction == "idle"
        else "swap in a dream"
        if distraction == "dream"
        else "swap"
    )
    return Swap(people, left, right, f"{people[left]} and {people[right]} {verb}.", distraction)
