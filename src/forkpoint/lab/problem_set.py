"""The lab's stories as problems, and back: an id such as `lab:test/default/0/17` names family, split, level, seed and index.

Invariant: the same id is the same story in every session, and with more stories asked for the first ones stay.
This file draws no stories itself (see `story.py` and `shuffle.py`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from forkpoint.lab.oracle import LabStory
from forkpoint.lab.shuffle import shuffles
from forkpoint.lab.story import stories
from forkpoint.records import Problem


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of lab problem."""

    stories: Callable[[str, str, int], Iterator[LabStory]]
    """The stream of a split, level and seed."""
    grader: str


FAMILIES = {"lab": Family(stories, "numeric"), "lab-shuffle": Family(shuffles, "exact")}

_ID = re.compile(
    rf"(?P<family>{'|'.join(FAMILIES)}):(?P<split>\w+)/(?P<level>\w+)/(?P<seed>-?\d+)/(?P<idx>\d+)"
)


class StoryStream:
    """The stories of one family, split, level and seed, each drawn once."""

    def __init__(self, family: str, split: str, level: str, seed: int) -> None:
        self._rest = FAMILIES[family].stories(split, level, seed)
        self._drawn: list[LabStory] = []
        self._lock = threading.Lock()

    def first(self, num: int) -> list[LabStory]:
        with self._lock:
            while len(self._drawn) < num:
                self._drawn.append(next(self._rest))
            return self._drawn[:num]


_stream = lru_cache(maxsize=16)(StoryStream)


def lab_problems(
    split: str, level: str = "default", num: int = 500, seed: int = 0, family: str = "lab"
) -> list[Problem]:
    """The first `num` stories of a split, level and seed as problems. Raises ValueError on an unknown split or level."""
    drawn = _stream(family, split, level, seed).first(num)
    place, grader = f"{family}:{split}/{level}/{seed}", FAMILIES[family].grader
    return [
        Problem(f"{place}/{idx}", story.question, str(story.answer), grader)
        for idx, story in enumerate(drawn)
    ]


def lab_story(problem_id: str) -> LabStory:
    """The story behind a problem's id; costs the drawing of all stories before it, once. Raises ValueError on any other id."""
    match = _ID.fullmatch(problem_id)
    if match is None:
        raise ValueError(f"{problem_id!r} is not the id of a lab problem, such as lab:test/default/0/17")
    idx = int(match["idx"])
    return _stream(match["family"], match["split"], match["level"], int(match["seed"])).first(idx + 1)[idx]
