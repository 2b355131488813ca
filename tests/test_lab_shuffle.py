"""The shuffles: the same splits and oracle as the diaries, checked against balls that are really moved."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from forkpoint.grading.grade import is_correct
from forkpoint.lab.oracle import first_error, first_wrong_step
from forkpoint.lab.problem_set import lab_problems, lab_story
from forkpoint.lab.shuffle import COLOURS, SHUFFLE_LEVELS, Shuffle, Swap, draw_shuffle, shuffles
from forkpoint.lab.story import DAYS, SPLITS, split_of
from forkpoint.lab.teacher import Habits, demonstrate
from forkpoint.problems import load_problems
from forkpoint.steps import newline_steps

PEOPLE = ("Ada", "Leo", "Mia")
ADA = Shuffle(
    PEOPLE, ("red", "blue", "green"),
    (
        Swap(PEOPLE, 0, 1, "Ada and Leo swap."),
        Swap(PEOPLE, 2, 0, "Mia and Ada swap in a dream.", "dream"),
        Swap(PEOPLE, 1, 2, "Leo and Mia swap."),
    ),
    "Mia", "easy",
)  # fmt: skip
RIGHT = (
    "Monday: Ada: red, Leo: blue, so Ada: blue, Leo: red, Mia: green\n"
    "Wednesday: Leo: red, Mia: green, so Ada: blue, Leo: green, Mia: red\n"
    "The answer is Mia: red"
)
DREAMT = "Tuesday: Mia: green, Ada: blue, so Ada: green, Leo: red, Mia: blue"


def drawn(level: str, num: int = 200, split: str = "test") -> list[Shuffle]:
    return list(itertools.islice(shuffles(split, level, 0), num))


def moved(question: str, with_dreams: bool = False) -> list[dict[str, str]]:
    """Brute force: who has which ball after each swap, from the question's text alone."""
    *entries, last = re.split(r"\. ", question)
    states = [dict(re.findall(r"([A-Z]\w+): ([a-z]+)", last.partition("At first: ")[2]))]
    for entry in entries:
        left, right, verb = re.findall(r": (\w+) and (\w+) (.+)", entry)[0]
        if verb == "swap" or (with_dreams and verb == "swap in a dream"):
            states.append({**states[-1], left: states[-1][right], right: states[-1][left]})
    return states


def test_a_shuffle_reads_as_plain_english_and_has_one_solution() -> None:
    assert ADA.question == (
        "Monday: Ada and Leo swap. Tuesday: Mia and Ada swap in a dream. Wednesday: Leo and Mia swap. "
        "Which ball does Mia have in the end? At first: Ada: red, Leo: blue, Mia: green"
    )
    assert (ADA.solution, ADA.answer) == (RIGHT, "Mia: red")


@pytest.mark.parametrize("level", SHUFFLE_LEVELS)
def test_solutions_are_what_moving_the_balls_gives(level: str) -> None:
    num_hard_to_see = 0
    for shuffle in drawn(level):
        states = moved(shuffle.question)
        assert shuffle.answer == f"{shuffle.asked}: {states[-1][shuffle.asked]}"
        lines = shuffle.solution.splitlines()
        assert [
            dict(re.findall(r"([A-Z]\w+): ([a-z]+)", line.split(" so ")[1])) for line in lines[:-1]
        ] == states[1:]
        given = [
            dict(re.findall(r"([A-Z]\w+): ([a-z]+)", line.split(" so ")[0].partition(": ")[2]))
            for line in lines[:-1]
        ]
        assert all(taken.items() <= before.items() for taken, before in zip(given, states, strict=False))
        num_hard_to_see += moved(shuffle.question, with_dreams=True)[-1] != states[-1]
    assert num_hard_to_see > 20  # believing dreams does harm


@pytest.mark.parametrize(
    ("text", "line_idx", "offset_text", "kind"),
    [
        (RIGHT.replace("so Ada: blue", "so Ada: red", 1), 0, "red, Leo: red", "value"),
        (RIGHT.replace("Leo: red, Mia: green\n", "Leo: green, Mia: red\n"), 0, "green, Mia: red", "value"),
        (
            RIGHT.replace("Ada: red, Leo: blue, so", "Ada: red, Mia: green, so"),
            0,
            "Mia: green, so",
            "operand",
        ),
        (
            RIGHT.replace("Leo: red, Mia: green, so", "Leo: blue, Mia: green, so"),
            1,
            "blue, Mia: green, so",
            "operand",
        ),
        (RIGHT.replace("\nWednesday", f"\n{DREAMT}\nWednesday"), 1, "Tuesday", "distractor"),
        (RIGHT.split("\n")[1] + "\nThe answer is Mia: red", 0, "Wednesday", "skipped"),
        (RIGHT.split("\n")[0] + "\nThe answer is Mia: green", 1, "The", "skipped"),
        (RIGHT.replace("\nThe", "\n" + RIGHT.split("\n")[0] + "\nThe"), 2, "Monday", "repeated"),
        (RIGHT.replace("is Mia: red", "is Mia: blue"), 2, "blue", "answer"),
        (RIGHT.replace("is Mia: red", "is Ada: blue"), 2, "Ada", "answer"),
        (RIGHT[:-2], 2, "", "missing"),
        (RIGHT[:40], 0, "", "missing"),
        (RIGHT.replace(", so", " then"), 0, "then", "format"),
        (RIGHT.replace("\nThe", " and\nThe"), 1, "and", "format"),
        (RIGHT.replace(", Mia: green\nWed", "\nWed"), 0, "\nWed", "format"),
    ],
)
def test_the_oracle_names_the_first_wrong_step(text: str, line_idx: int, offset_text: str, kind: str) -> None:
    error = first_error(ADA, text)
    assert error is not None
    assert (error.line_idx, error.kind) == (line_idx, kind)
    assert text[error.offset :].startswith(offset_text)


def test_the_oracle_does_not_mind_spacing_or_a_full_stop() -> None:
    assert first_error(ADA, RIGHT.replace(",", " , ").replace("\n", ".\n\n") + ".\n") is None


@pytest.mark.parametrize("level", SHUFFLE_LEVELS)
def test_a_step_is_wrong_exactly_when_the_moved_balls_say_so(level: str) -> None:
    """Brute force: the first line of a pupil's text that is not the right line of that place."""
    rng, num_wrong, num_lucky = random.Random(0), 0, 0
    careless = Habits(operand_slip=0.1, result_slip=0.1)
    for shuffle in drawn(level):
        assert first_error(shuffle, shuffle.solution) is None
        assert demonstrate(shuffle, rng, Habits.none()) == shuffle.solution
        text = demonstrate(shuffle, rng, careless)
        pairs = itertools.zip_longest(text.splitlines(), shuffle.solution.splitlines())
        wrong = next((idx for idx, (ours, right) in enumerate(pairs) if ours != right), -1)
        assert first_wrong_step(shuffle, newline_steps(text)) == wrong
        num_wrong += wrong >= 0
        num_lucky += wrong >= 0 and is_correct(shuffle.answer, text, "exact")
    assert num_wrong > 60 and num_lucky > 5


@pytest.mark.parametrize("level", SHUFFLE_LEVELS)
def test_levels_keep_their_bounds(level: str) -> None:
    rules = SHUFFLE_LEVELS[level]
    for shuffle in drawn(level):
        num_swaps = sum(event.distraction is None for event in shuffle.events)
        assert rules.num_swaps[0] <= num_swaps <= rules.num_swaps[1]
        assert rules.num_distractors[0] <= len(shuffle.events) - num_swaps <= rules.num_distractors[1]
        assert len(shuffle.events) <= len(DAYS)
        assert len(set(shuffle.people)) == len(set(shuffle.start)) == rules.num_people
        assert set(shuffle.start) <= set(COLOURS)


def test_streams_are_distinct_and_no_question_is_in_two_splits_whatever_the_seed() -> None:
    rng = random.Random(3)
    assert all(split_of(draw_shuffle("easy", rng).question) in SPLITS for _ in range(100))
    for split in SPLITS:
        questions = [shuffle.question for shuffle in drawn("easy", 100, split)]
        assert {split_of(question) for question in questions} == {split}
        assert len(set(questions)) == 100


def test_problems_are_the_shuffles_that_their_ids_name_and_are_graded_as_strings() -> None:
    problems = load_problems("lab-shuffle:valid?num=20&seed=3&level=easy")
    assert [problem.id for problem in problems] == [f"lab-shuffle:valid/easy/3/{idx}" for idx in range(20)]
    assert problems == load_problems("lab-shuffle:valid?num=30&seed=3&level=easy")[:20]
    for problem in problems:
        story = lab_story(problem.id)
        assert (problem.question, problem.answer, problem.grader) == (story.question, story.answer, "exact")
        assert is_correct(problem.answer, story.solution, problem.grader)
    assert load_problems("lab-shuffle:hard?num=2")[1].id == "lab-shuffle:test/hard/0/1"
    assert lab_problems("test", num=1)[0].id == "lab:test/default/0/0"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lab-shuffle:dev", "lab-shuffle:dev is unknown; choose from lab-shuffle:train"),
        ("lab-shuffle:test?level=mid", "lab level 'mid' is unknown; choose from easy, default, hard"),
        ("lab-shuffle:easy?level=hard", r"write lab-shuffle:test\?level=hard instead"),
    ],
)
def test_unknown_sets_and_levels_are_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_problems(spec)
