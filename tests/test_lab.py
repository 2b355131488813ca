"""The lab: stories are seeded and split cleanly, and the oracle finds the first wrong step of a pupil."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from forkpoint.lab.oracle import first_error, first_wrong_step
from forkpoint.lab.story import DAYS, LEVELS, SPLITS, Event, Story, draw_story, split_of, stories
from forkpoint.lab.teacher import Habits, demonstrate
from forkpoint.steps import newline_steps


def drawn(level: str, num: int = 300, split: str = "test") -> list[Story]:
    return list(itertools.islice(stories(split, level, 0), num))


MIA = Story(
    "Mia", "shells", 24,
    (
        Event("finds", "+", 13, "finds 13 shells."),
        Event("buys", "+", 40, "buys 40 pens.", "item"),
        Event("loses", "-", 7, "loses 7 shells."),
        Event("doubles", "*", 2, "doubles the shells."),
    ),
    "default",
)  # fmt: skip
RIGHT = "Monday: finds 24+13=37\nWednesday: loses 37-7=30\nThursday: doubles 30*2=60\nThe answer is 60"


def test_a_story_reads_as_plain_english_and_has_one_solution() -> None:
    assert MIA.question == (
        "Mia has 24 shells. Monday: finds 13 shells. Tuesday: buys 40 pens. Wednesday: loses 7 shells. "
        "Thursday: doubles the shells. How many shells does Mia have?"
    )
    assert MIA.solution == RIGHT
    assert MIA.answer == 60


@pytest.mark.parametrize(
    ("text", "line_idx", "offset_text", "kind"),
    [
        (RIGHT.replace("=37\n", "=38\n"), 0, "8\nWed", "value"),
        (RIGHT.replace("24+13", "24+18"), 0, "8=37", "operand"),
        (RIGHT.replace("24+13", "25+13"), 0, "5+13", "operand"),
        (RIGHT.replace("37-7", "37+7"), 1, "+7=30", "operand"),
        (RIGHT.replace("loses", "sells"), 1, "sells", "operand"),
        (RIGHT.replace("Monday: finds 24+13=37", "Tuesday: buys 24+40=64"), 0, "Tuesday", "distractor"),
        (RIGHT.replace("Wednesday: loses 37-7=30\n", ""), 1, "Thursday", "skipped"),
        (
            RIGHT.replace("Wednesday: loses 37-7=30\n", "Monday: finds 37+13=50\n"),
            1,
            "Monday: finds 37",
            "repeated",
        ),
        (RIGHT.replace("is 60", "is 61"), 3, "1", "answer"),
        (RIGHT.replace("\nThe answer is 60", ""), 3, "", "missing"),
        (RIGHT.replace("Thursday: doubles 30*2=60\n", ""), 2, "The answer", "skipped"),
        ("nonsense\n" + RIGHT, 0, "nonsense", "format"),
        (RIGHT.replace("Monday:", "Friday:"), 0, "Friday", "format"),
        (RIGHT + "\nThe answer is 60", 4, "The answer is 60", "format"),
        ("", 0, "", "missing"),
    ],
)
def test_the_oracle_names_the_first_wrong_step(text: str, line_idx: int, offset_text: str, kind: str) -> None:
    error = first_error(MIA, text)
    assert error is not None
    assert (error.line_idx, error.kind) == (line_idx, kind)
    assert text[error.offset :].startswith(offset_text)


def test_the_oracle_does_not_mind_spacing() -> None:
    assert (
        first_error(MIA, RIGHT.replace("+", " + ").replace("=", " = ").replace("\n", "\n\n") + ".\n") is None
    )


def test_a_wrong_step_may_still_reach_the_right_answer_and_the_oracle_sees_it() -> None:
    lucky = RIGHT.replace("24+13=37", "24+13=38").replace("37-7=30", "37-7=30")
    error = first_error(MIA, lucky)
    assert lucky.endswith("The answer is 60")
    assert error is not None and error.line_idx == 0


@pytest.mark.parametrize("level", LEVELS)
def test_right_solutions_are_right_and_every_other_text_is_not(level: str) -> None:
    rng = random.Random(0)
    num_wrong = 0
    for story in drawn(level):
        assert first_error(story, story.solution) is None
        assert demonstrate(story, rng, Habits.none()) == story.solution
        text = demonstrate(story, rng)
        num_wrong += text != story.solution
        assert (first_error(story, text) is None) == (text == story.solution)
    assert num_wrong > 60


@pytest.mark.parametrize("level", LEVELS)
def test_the_error_is_where_the_text_leaves_the_right_solution(level: str) -> None:
    """Brute force: find the first character that differs from the right solution, and go back to its word."""
    rng = random.Random(1)
    for story in drawn(level):
        text = demonstrate(story, rng)
        error = first_error(story, text)
        if error is None:
            continue
        differs = next(
            (
                idx
                for idx, (ours, right) in enumerate(zip(text, story.solution, strict=False))
                if ours != right
            ),
            len(text),
        )
        assert text[:differs].rfind("\n") == text[: error.offset].rfind("\n"), (text, story.solution)
        assert error.offset <= differs


def test_first_wrong_step_follows_the_segmentation() -> None:
    wrong = RIGHT.replace("=30\n", "=31\n")
    assert first_wrong_step(MIA, newline_steps(wrong)) == 1
    assert first_wrong_step(MIA, newline_steps(RIGHT)) == -1
    assert first_wrong_step(MIA, [wrong[:50], wrong[50:]]) == (0 if wrong.index("31") < 49 else 1)
    assert (
        first_wrong_step(MIA, list(RIGHT[:-9])) == len(RIGHT[:-9]) - 1
    )  # ends too early: the last step is charged


def test_streams_are_seeded_distinct_and_prefix_stable() -> None:
    first = [story.question for story in drawn("default", 50)]
    assert first == [story.question for story in drawn("default", 80)][:50]
    assert len(set(first)) == 50
    other = [story.question for story in itertools.islice(stories("test", "default", 1), 50)]
    assert not set(first) & set(other)


def test_no_question_is_in_two_splits_whatever_the_seed() -> None:
    rng = random.Random(3)
    for _ in range(300):
        assert split_of(draw_story("easy", rng).question) in SPLITS
    for split in SPLITS:
        assert {split_of(story.question) for story in drawn("easy", 100, split)} == {split}
    assert sum(map(len, SPLITS.values())) == 10


@pytest.mark.parametrize("level", LEVELS)
def test_levels_keep_their_bounds(level: str) -> None:
    rules = LEVELS[level]
    for story in drawn(level, 200):
        assert rules.num_steps[0] <= len(story.steps) <= rules.num_steps[1]
        assert rules.num_distractors[0] <= len(story.events) - len(story.steps) <= rules.num_distractors[1]
        assert len(story.events) <= len(DAYS)
        results = [int(number) for number in re.findall(r"=(\d+)", story.solution)]
        assert all(1 <= result <= max(rules.max_value, rules.max_product) for result in results)


def test_unknown_splits_and_levels_are_named() -> None:
    with pytest.raises(ValueError, match="train, valid, test"):
        stories("tset", "default", 0)
    with pytest.raises(ValueError, match="easy, default, hard"):
        stories("test", "harder", 0)
