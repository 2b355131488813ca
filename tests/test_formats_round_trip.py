"""Formats: what is written and read back is the same, as far as a format can carry it, and no further."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint import formats
from forkpoint.formats import FORMATS
from forkpoint.records import Label, LabelledSolution

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda text: "ки" not in text)
STEPS = st.lists(TEXT, min_size=1, max_size=5)
HARD, SOFT = st.sampled_from([0.0, 1.0]), st.floats(0, 1)
WITH_EXTRAS = {
    "math-shepherd": {},
    "openrlhf": {},
    "er-prm": {},
    "rlhflow": {"separator": ""},
    "trl": {"separator": ""},
}
HOLDS_SOFT = ("forkpoint", "openrlhf", "er-prm")
TAGGED = ("math-shepherd", "openrlhf", "er-prm")


def solution(
    steps: list[str], values: list[float], question: str = "What is 2 + 2?", is_correct: bool = True
) -> LabelledSolution:
    """A solution whose labels come without evidence, as imported ones do."""
    labels = tuple(Label(value, 0, 0, 0.0, 0.0, 1.0) for value in values)
    return LabelledSolution("p1", question, tuple(steps), labels, is_correct)


def through(
    name: str, given_solution: LabelledSolution, write_options: dict[str, Any], read_options: dict[str, Any]
) -> LabelledSolution:
    """One solution as a row and back, without a file."""
    known = FORMATS[name]
    writer: Any = known.codec(**{**known.preset, **write_options})
    row = writer.to_row(given_solution)
    assert row.keys() == writer.columns.keys()
    return known.codec(**{**known.preset, **read_options}).from_row(row)


@st.composite
def solutions(draw: st.DrawFn, values: st.SearchStrategy[float]) -> LabelledSolution:
    steps = draw(STEPS)
    label_values = draw(st.lists(values, min_size=len(steps), max_size=len(steps)))
    return replace(solution(steps, label_values, draw(TEXT), draw(st.booleans())), problem_id=draw(TEXT))


def cut_before_line_ends(steps: tuple[str, ...]) -> bool:
    return any(step.startswith("\n") and step.strip("\n") for step in steps[1:])


@pytest.mark.parametrize("name", WITH_EXTRAS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_with_extras_any_text_and_label_comes_back(name: str, data: st.DataObject) -> None:
    before = data.draw(solutions(SOFT if name in HOLDS_SOFT else HARD))
    options = WITH_EXTRAS[name]
    after = through(name, before, {**options, "extras": True}, options)
    assert "".join(after.steps) == "".join(before.steps)
    if not (name in TAGGED and cut_before_line_ends(before.steps)):
        assert after == before


@settings(max_examples=60, deadline=None)
@given(before=solutions(SOFT))
def test_our_own_format_keeps_everything(before: LabelledSolution) -> None:
    counted = replace(
        before, labels=tuple(Label(label.value, 3, 7, 6.5, 0.0, 1.0) for label in before.labels)
    )
    assert through("forkpoint", counted, {}, {}) == counted


@settings(max_examples=60, deadline=None)
@given(before=solutions(SOFT), threshold=st.floats(0.01, 1))
def test_processbench_keeps_text_outcome_and_first_error(before: LabelledSolution, threshold: float) -> None:
    after = through("processbench", before, {"separator": "", "threshold": threshold}, {"separator": ""})
    assert (after.problem_id, after.question, after.steps, after.is_correct) == (
        before.problem_id,
        before.question,
        before.steps,
        before.is_correct,
    )
    is_wrong = [label.value < threshold for label in before.labels]
    assert [label.value for label in after.labels] == [
        float(not any(is_wrong[: idx + 1])) for idx in range(len(is_wrong))
    ]


@pytest.mark.parametrize("name", TAGGED)
def test_a_tag_moves_a_step_s_leading_line_end_to_the_step_before(name: str) -> None:
    before = solution(["one", "\ntwo\n\n", "\n", "three"], [1, 1, 0, 0], is_correct=False)
    after = through(name, before, {"extras": True}, {})
    assert after.steps == ("one\n", "two\n\n", "\n", "three")
    assert after.labels == before.labels


@pytest.mark.parametrize("name", [*TAGGED, "rlhflow"])
def test_without_extras_question_and_steps_come_back_if_the_solution_begins_as_expected(name: str) -> None:
    before = solution(
        ["Step 1: 2 + 2\n", "Step 2: is 4. "], [1, 0], question="What is 2 + 2?\n ", is_correct=False
    )
    after = through(name, before, {}, {})
    assert (after.question, after.steps, after.labels) == (before.question, before.steps, before.labels)
    lower = replace(before, steps=("step 1: 2 + 2\n", before.steps[1]))
    assert through(name, lower, {}, {}).steps == lower.steps
    unmarked = replace(before, steps=("2 + 2\n", "is 4"))
    with pytest.raises(
        ValueError, match=r"the question cannot be told from the first step: 'Step 1:' stands 0 times"
    ):
        through(name, unmarked, {}, {})
    after = through(name, unmarked, {}, {"first_step": ""})
    assert (after.question, after.steps) == ("", ("What is 2 + 2?\n  2 + 2\n", "is 4"))


@pytest.mark.parametrize("name", [*TAGGED, "rlhflow"])
def test_a_question_that_looks_like_a_solution_is_not_written_without_extras(name: str) -> None:
    before = solution(["Step 1: a"], [1], question="Step 1: is what?")
    with pytest.raises(ValueError, match=r"the question holds 'Step 1:'.*extras=True"):
        through(name, before, {}, {})
    assert through(name, before, {"extras": True}, {}) == before


def test_problem_ids_of_imported_solutions_are_those_of_their_questions() -> None:
    ids = [
        through("trl", replace(solution(["a"], [1], question), problem_id="lost"), {}, {}).problem_id
        for question in ("q", "q", "other")
    ]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("question:")


@pytest.mark.parametrize("value", [0.0, 0.49, 0.5, 1.0])
def test_without_an_outcome_the_last_label_is_taken_for_it(value: float) -> None:
    after = through("openrlhf", solution(["Step 1: a", "b"], [1 - value, value]), {}, {})
    assert after.is_correct is (value >= 0.5)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("name", formats.names("write"))
def test_every_format_can_be_kept_in_every_file(name: str, suffix: str, tmp_path: Path) -> None:
    before = [
        solution(["Step 1: 2 + 2\n\n", "is 4"], [1.0, 1.0]),
        solution(
            ["Step 1: “ünïcode” 数\u2028\n\n", "\n\n", ""], [1.0, 0.0, 0.0], question="Ω?", is_correct=False
        ),
    ]
    path = tmp_path / f"file.{suffix}"
    separator: dict[str, Any] = {"separator": "\n\n"} if name in ("rlhflow", "trl", "processbench") else {}
    extras: dict[str, Any] = {} if name in ("forkpoint", "processbench") else {"extras": True}
    assert formats.write(path, name, before, **separator, **extras) == 2
    assert list(formats.read(path, name, **separator)) == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert formats.write(path, name, []) == 0
    assert list(formats.read(path, name)) == []
