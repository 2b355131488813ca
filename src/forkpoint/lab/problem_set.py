"""Turn the stories of the lab into problems, and the ids of problems into stories.

An id such as `lab:test/default/0/17` names family, split, level, seed and index.
Invariant: an id names the same story in every session, and asking for more stories does not change the first
ones.
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
    """Gives the stream of stories of a split, a level and a seed."""
    grader: str


FAMILIES = {"lab": Family(stories, "numeric"), "lab-shuffle": Family(shuffles, "exact")}

_ID = re.compile(
    rf"(?P<family>{'|'.join(FAMILIES)}):(?P<split>\w+)/(?P<level>\w+)/(?P<seed>-?\d+)/(?P<idx>\d+)"
)


class StoryStream:
    """The stories of one family, split, level and seed. Each is drawn once and kept."""

    def __init__(self, family: str, split: str, level: str, seed: int) -> None:
        self._rest = FAMILIES[family].stories(split, level, seed)
        self._drawn: list[LabStory] = []
        self._lock = threading.Lock()

    def first(self, num: int) -> list[LabStory]:
        """The first `num` stories."""
        with self._lock:
            while len(self._drawn) < num:
                self._drawn.append(next(self._rest))
            return self._drawn[:num]


_stream = lru_cache(maxsize=16)(StoryStream)


def lab_problems(
    split: str, level: str = "default", num: int = 500, seed: int = 0, family: str = "lab"
) -> list[Problem]:
    """The first `num` stories of a split, a level and a seed as problems.

    Raises ValueError on an unknown split or level.
    """
    drawn = _stream(family, split, level, seed).first(num)
    place, grader = f"{family}:{split}/{level}/{seed}", FAMILIES[family].grader
    return [
        Problem(f"{place}/{idx}", story.question, str(story.answer), grader)
        for idx, story in enumerate(drawn)
    ]


def lab_story(problem_id: str) -> LabStory:
    """The story with the id of a lab problem. Raises ValueError on any other id.

    The first call for a split, a level and a seed draws all stories before it, too.
    """
    match = _ID.fullmatch(problem_id)
    if match is None:
        raise ValueError(f"{problem_id!r} is not the id of a lab problem, such as lab:test/default/0/17")
    idx = int(match["idx"])
    return _stream(match["family"], match["split"], match["level"], int(match["seed"])).first(idx + 1)[idx]
