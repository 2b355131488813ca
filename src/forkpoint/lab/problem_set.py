"""The lab's stories as problems, and back: an id such as `lab:test/default/0/17` names split, level, seed and index.

Invariant: the same id is the same story in every session, and with more stories asked for the first ones stay.
This file draws no stories itself (see `story.py`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import lru_cache

from forkpoint.lab.story import Story, stories
from forkpoint.records import Problem

_ID = re.compile(r"lab:(?P<split>\w+)/(?P<level>\w+)/(?P<seed>-?\d+)/(?P<idx>\d+)")


class StoryStream:
    """The stories of one split, level and seed, each drawn once."""

    def __init__(self, split: str, level: str, seed: int) -> None:
        self._rest: Iterator[Story] = stories(split, level, seed)
        self._drawn: list[Story] = []
        self._lock = threading.Lock()

    def first(self, num: int) -> list[Story]:
        with self._lock:
            while len(self._drawn) < num:
                self._drawn.append(next(self._rest))
            return self._drawn[:num]


_stream = lru_cache(maxsize=16)(StoryStream)


def lab_problems(split: str, level: str = "default", num: int = 500, seed: int = 0) -> list[Problem]:
    """The first `num` stories of a split, level and seed as problems. Raises ValueError on an unknown split or level."""
    drawn = _stream(split, level, seed).first(num)
    return [Problem(f"lab:{split}/{level}/{seed}/{idx}", story.question, str(story.answer)) for idx, story in enumerate(drawn)]


def lab_story(problem_id: str) -> Story:
    """The story behind a problem's id; costs the drawing of all stories before it, once. Raises ValueError on any other id."""
    match = _ID.fullmatch(problem_id)
    if match is None:
        raise ValueError(f"{problem_id!r} is not the id of a lab problem, such as lab:test/default/0/17")
    idx = int(match["idx"])
    return _stream(match["split"], match["level"], int(match["seed"])).first(idx + 1)[idx]
