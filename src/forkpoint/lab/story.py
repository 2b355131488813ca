"""Multi-step arithmetic word problems in plain English, drawn from a seed, each with its right solution.

A story is a diary in which one quantity changes day by day. Some entries are distractors: they are about
another item or another owner, happen in a dream, or have a verb that changes nothing. The right solution has
one line per entry that counts: the day, and an equation that uses the result of the line before. It ends with
`The answer is N`.

Invariant: a story is a pure function of (split, level, seed, index), and the split of a story is a function
of its question alone, so no question is ever in two splits, whatever the seeds and levels.
This file does not read solutions (see `oracle.py`) and does not write wrong ones (see `teacher.py`).
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from forkpoint.checks import check_choice

Operator = Literal["+", "-", "*"]
Distraction = Literal["owner", "item", "dream", "idle"]

NAMES = ("Ada", "Eva", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe")
ITEMS = ("shells", "stamps", "cards", "coins", "beads", "books", "stones", "pens")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
VERBS: dict[str, Operator] = {
    "finds": "+", "buys": "+", "wins": "+", "gets": "+", "makes": "+",
    "loses": "-", "sells": "-", "spends": "-", "breaks": "-", "uses": "-",
    "doubles": "*", "triples": "*", "quadruples": "*",
}  # fmt: skip
FACTORS = {"doubles": 2, "triples": 3, "quadruples": 4}
IDLE_VERBS = ("counts", "sees", "draws")
DISTRACTIONS: tuple[Distraction, ...] = ("owner", "item", "dream", "idle")


State = TypeVar("State")


class DiaryEntry(Protocol[State]):
    """One entry of a diary, of any family: `Event` or `shuffle.Swap`."""

    @property
    def distraction(self) -> Distraction | None:
        """The kind of distractor that the entry is; None if it counts."""
        ...

    def apply(self, state: State, /) -> State:
        """The state after the entry."""
        ...

    def line(self, day: str, before: State, after: State) -> str:
        """One step of a solution."""
        ...


@dataclass(frozen=True)
class Event:
    """One entry of the diary, which changes the quantity by `operator` and `amount`.

    It is a distractor if `distraction` is set. An idle verb changes nothing. Its operator is `+`, because a
    solution that uses it by mistake adds.
    """

    verb: str
    operator: Operator
    amount: int
    sentence: str
    distraction: Distraction | None = None

    def apply(self, value: int) -> int:
        """The quantity after this event, also if it is a distractor; it is never below 0."""
        if self.operator == "*":
            return value * self.amount
        return value + self.amount if self.operator == "+" else max(0, value - self.amount)

    def misread(self, rng: random.Random) -> Event:
        """This event with one wrong digit in the amount."""
        return replace(self, amount=_with_wrong_digit(self.amount, rng))

    def slip(self, value: int, rng: random.Random) -> int:
        """`value` with one wrong digit."""
        return _with_wrong_digit(value, rng)

    def line(self, day: str, before: int, after: int) -> str:
        """One step of a solution: `Tuesday: finds 24+13=37`."""
        return f"{day}: {self.verb} {before}{self.operator}{self.amount}={after}"


@dataclass(frozen=True)
class Story:
    """A problem of the lab, with everything that is needed to judge its solutions."""

    owner: str
    item: str
    start: int
    events: tuple[Event, ...]
    level: str

    @property
    def steps(self) -> tuple[tuple[str, Event], ...]:
        """The events that count, in order, each with its day. Each is one line of the right solution."""
        return tuple(
            (day, event) for day, event in zip(DAYS, self.events, strict=False) if event.distraction is None
        )

    @property
    def question(self) -> str:
        entries = [f"{day}: {event.sentence}" for day, event in zip(DAYS, self.events, strict=False)]
        return " ".join(
            [
                f"{self.owner} has {self.start} {self.item}.",
                *entries,
                f"How many {self.item} does {self.owner} have?",
            ]
        )

    @property
    def answer(self) -> int:
        return self.read(solve(self.start, self.events)[1])

    @property
    def solution(self) -> str:
        """The right solution: lines joined by newlines, without a final newline."""
        lines, value = solve(self.start, self.events)
        return "\n".join([*lines, answer_line(self.read(value))])

    def read(self, value: int) -> int:
        """The answer that follows from the last value, which is the value itself."""
        return value


def solve(start: State, events: Sequence[DiaryEntry[State]]) -> tuple[list[str], State]:
    """The lines of the right solution, without the answer, and the last state; for stories of any family."""
    state, lines = start, []
    for day, event in zip(DAYS, events, strict=False):
        if event.distraction is None:
            after = event.apply(state)
            lines.append(event.line(day, state, after))
            state = after
    return lines, state


def answer_line(answer: int | str) -> str:
    """The last line of a solution."""
    return f"The answer is {answer}"


def _with_wrong_digit(number: int, rng: random.Random) -> int:
    digits = str(number)
    position = rng.randrange(len(digits))
    lowest = 1 if position == 0 and len(digits) > 1 else 0
    wrong = rng.choice([digit for digit in range(lowest, 10) if str(digit) != digits[position]])
    return int(digits[:position] + str(wrong) + digits[position + 1 :])


@dataclass(frozen=True)
class Level:
    """The difficulty of the stories of a level; ranges are inclusive."""

    num_steps: tuple[int, int]
    num_distractors: tuple[int, int]
    start: tuple[int, int]
    amount: tuple[int, int]
    max_value: int
    max_product: int
    distractions: tuple[Distraction, ...] = DISTRACTIONS
    """The kinds of distractors, drawn evenly; a kind that is listed twice is drawn twice as often."""


LEVELS = {
    "easy": Level(
        num_steps=(2, 3),
        num_distractors=(0, 1),
        start=(10, 60),
        amount=(2, 30),
        max_value=200,
        max_product=100,
    ),
    "default": Level(
        num_steps=(4, 4),
        num_distractors=(2, 3),
        start=(20, 99),
        amount=(11, 99),
        max_value=400,
        max_product=400,
        distractions=("owner", "idle", "owner", "idle", "dream"),
    ),
    "hard": Level(
        num_steps=(4, 5),
        num_distractors=(2, 2),
        start=(100, 999),
        amount=(11, 199),
        max_value=2999,
        max_product=2999,
    ),
}
"""The levels. None has more steps and distractors together than there are days."""

SPLITS = {"train": range(7), "valid": range(7, 8), "test": range(8, 10)}
"""The splits, each with those of ten hash buckets of the question that belong to it."""


def split_of(question: str) -> str:
    """The split to which a question belongs, from its text alone."""
    bucket = int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "big") % 10
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def stories(split: str, level: str, seed: int, rules: Level | None = None) -> Iterator[Story]:
    """An endless stream of distinct stories of one split and level; the same arguments give the same stream.

    `rules`, if given, replace those of the level. Raises ValueError on an unknown split or level.
    """
    rules = rules or level_named(level, LEVELS)
    return distinct_stories(split, f"{level}/{seed}", lambda rng: draw_story(level, rng, rules))


class HasQuestion(Protocol):
    """A story of any family."""

    @property
    def question(self) -> str: ...


AnyStory = TypeVar("AnyStory", bound=HasQuestion)
AnyLevel = TypeVar("AnyLevel")


def level_named(name: str, levels: Mapping[str, AnyLevel]) -> AnyLevel:
    """The rules of a level. Raises ValueError if there is no level of that name."""
    check_choice("lab level", name, levels)
    return levels[name]


def distinct_stories(split: str, seed: str, draw: Callable[[random.Random], AnyStory]) -> Iterator[AnyStory]:
    """An endless stream of the stories from `draw` that belong to `split`, each question once.

    Raises ValueError on an unknown split.
    """
    check_choice("lab split", split, SPLITS)
    return _distinct_stories(split, seed, draw)


def _distinct_stories(split: str, seed: str, draw: Callable[[random.Random], AnyStory]) -> Iterator[AnyStory]:
    seen: set[str] = set()
    for idx in itertools.count():
        story = draw(random.Random(f"{seed}/{idx}"))
        question = story.question
        if split_of(question) == split and question not in seen:
            seen.add(question)
            yield story


def draw_story(level: str, rng: random.Random, rules: Level | None = None) -> Story:
    """One story of a level, of any split; `rules`, if given, replace those of the level."""
    rules = rules or LEVELS[level]
    owner, other_owner = rng.sample(NAMES, 2)
    item, other_item = rng.sample(ITEMS, 2)
    value = start = rng.randint(*rules.start)
    events = []
    for _ in range(rng.randint(*rules.num_steps)):
        event = _draw_step(rules, value, item, rng)
        value = event.apply(value)
        events.append(event)
    for _ in range(rng.randint(*rules.num_distractors)):
        distractor = _draw_distractor(rules, other_owner, (item, other_item), rng)
        events.insert(rng.randint(0, len(events)), distractor)
    return Story(owner=owner, item=item, start=start, events=tuple(events), level=level)


def _draw_step(rules: Level, value: int, item: str, rng: random.Random) -> Event:
    while True:
        verb = rng.choice(sorted(VERBS))
        event = _event(verb, rng.randint(*rules.amount), item)
        limit = rules.max_product if event.operator == "*" else rules.max_value
        if 1 <= event.apply(value) <= limit:
            return event


def _draw_distractor(rules: Level, other_owner: str, items: tuple[str, str], rng: random.Random) -> Event:
    distraction = rng.choice(rules.distractions)
    verb = rng.choice(IDLE_VERBS) if distraction == "idle" else rng.choice(sorted(VERBS))
    suffix = {"owner": f" of {other_owner}", "dream": " in a dream"}.get(distraction, "")
    return _event(verb, rng.randint(*rules.amount), items[distraction == "item"], suffix, distraction)


def _event(
    verb: str, amount: int, item: str, suffix: str = "", distraction: Distraction | None = None
) -> Event:
    if verb in FACTORS:
        return Event(verb, "*", FACTORS[verb], f"{verb} the {item}{suffix}.", distraction)
    return Event(verb, VERBS.get(verb, "+"), amount, f"{verb} {amount} {item}{suffix}.", distraction)
