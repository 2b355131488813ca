"""Problem sets: a set is complete or refused, and an id means the same problem in every session."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forkpoint.grading.grade import is_correct
from forkpoint.lab.problem_set import lab_story
from forkpoint.lab.story import LEVELS, SPLITS, Story, split_of
from forkpoint.problems import load_problems

DATA = Path(os.environ.get("FORKPOINT_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"needs the real data sets at {DATA} (set FORKPOINT_DATA)"
)

ROWS = [{"question": f"What is {n} + {n}?", "answer": 2 * n} for n in range(5)]


def written(path: Path, rows: Sequence[Mapping[str, object] | str]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def five(tmp_path: Path) -> Path:
    return written(tmp_path / "five.jsonl", ROWS)


def test_lab_problems_are_the_stories_that_their_ids_name() -> None:
    problems = load_problems("lab:valid?num=20&seed=3&level=easy")
    assert [problem.id for problem in problems] == [f"lab:valid/easy/3/{idx}" for idx in range(20)]
    for problem in problems:
        story = lab_story(problem.id)
        assert isinstance(story, Story)
        assert (story.question, str(story.answer), story.level) == (problem.question, problem.answer, "easy")
        assert split_of(problem.question) == "valid"
        assert problem.grader == "numeric"
        assert is_correct(problem.answer, story.solution, problem.grader)


def test_lab_defaults_are_500_problems_of_the_default_level() -> None:
    problems = load_problems("lab:test")
    assert len(problems) == len({problem.question for problem in problems}) == 500
    assert problems[17].id == "lab:test/default/0/17"
    assert load_problems("lab:easy?num=2")[1].id == "lab:test/easy/0/1"
    assert load_problems("lab:hard?num=2&seed=7")[1].id == "lab:test/hard/7/1"


@settings(max_examples=20)
@given(
    split=st.sampled_from(sorted(SPLITS)),
    level=st.sampled_from(sorted(LEVELS)),
    seed=st.integers(0, 5),
    num=st.integers(1, 30),
)
def test_with_more_lab_problems_asked_for_the_first_ones_stay(
    split: str, level: str, seed: int, num: int
) -> None:
    spec = f"lab:{split}?level={level}&seed={seed}"
    assert load_problems(f"{spec}&num={num + 5}")[:num] == load_problems(f"{spec}&num={num}")


def test_an_id_that_is_not_the_lab_s_has_no_story() -> None:
    for problem_id in ("gsm8k:test/0", "lab:test/default/0", "lab:test/default/0/x"):
        with pytest.raises(ValueError, match="is not the id of a lab problem"):
            lab_story(problem_id)


def test_num_takes_the_first_rows_and_seed_shuffles_before(five: Path) -> None:
    assert [problem.answer for problem in load_problems(f"jsonl:{five}?num=3")] == ["0", "2", "4"]
    shuffled = load_problems(f"jsonl:{five}?seed=1")
    assert [problem.id for problem in shuffled] != [f"five/{idx}" for idx in range(5)]
    assert sorted(problem.id for problem in shuffled) == [f"five/{idx}" for idx in range(5)]
    assert load_problems(f"jsonl:{five}?seed=1&num=2") == shuffled[:2]
    assert {problem.id: problem.answer for problem in shuffled} == {
        f"five/{idx}": str(2 * idx) for idx in range(5)
    }


def test_columns_and_grader_are_yours_to_name(tmp_path: Path) -> None:
    rows = [{"my q": "Which?", "gold": "(B)", "key": "k7"}, {"my q": "Which?", "gold": "c", "key": "k8"}]
    path = written(tmp_path / "mine.jsonl", rows)
    problems = load_problems(f"jsonl:{path}?question=my+q&answer=gold&id=key&grader=choice")
    assert [(problem.id, problem.question, problem.answer, problem.grader) for problem in problems] == [
        ("k7", "Which?", "(B)", "choice"),
        ("k8", "Which?", "c", "choice"),
    ]
    assert (
        load_problems(f"{path}?question=my%20q&answer=gold&grader=my_module:judge")[0].grader
        == "my_module:judge"
    )


def test_an_answer_inside_a_solution_is_taken_out(tmp_path: Path) -> None:
    rows = [{"question": "6 * 12?", "answer": "It is 6 * 12 = <<6*12=72>>72.\n#### 72"}]
    assert load_problems(str(written(tmp_path / "a.jsonl", rows)))[0].answer == "72"
    boxed = [
        {"problem": "1/2 + 1/2?", "solution": "It is $\\boxed{1}$."},
        {"problem": "0?", "solution": "\\boxed{0}", "answer": "0"},
    ]
    assert [problem.answer for problem in load_problems(f"math:{written(tmp_path / 'b.jsonl', boxed)}")] == [
        "1",
        "0",
    ]


def test_parquet_reads_like_jsonl(five: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = tmp_path / "five.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), table)
    assert (
        load_problems(f"parquet:{table}")
        == load_problems(str(table))
        == load_problems(f"jsonl:{five}")
        == load_problems(str(five))
    )
    with pytest.raises(
        ValueError, match=r"five\.parquet, row 0 has no column 'gold'; it has question, answer"
    ):
        load_problems(f"{table}?answer=gold")


def test_hub_reads_local_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    answers = [str(row["answer"]) for row in ROWS]
    saved, split_saved, plain = tmp_path / "saved", tmp_path / "split", tmp_path / "plain"
    datasets.Dataset.from_list(ROWS).save_to_disk(saved)
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(split_saved)
    plain.mkdir()
    written(plain / "test.jsonl", ROWS)
    for place in (saved, split_saved):
        assert [problem.answer for problem in load_problems(f"hub:{place}")] == answers
    problems = load_problems(f"hub:{plain}?num=2")
    assert [(problem.id, problem.answer) for problem in problems] == [
        (f"hub:{plain}/test/0", "0"),
        (f"hub:{plain}/test/1", "2"),
    ]
    with pytest.raises(ValueError, match="has no split 'dev'; choose from test"):
        load_problems(f"hub:{split_saved}?split=dev")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "gsm9k:x.json",
            "'gsm9k:x.json' is unknown; choose from lab:, gsm8k:, math:, jsonl:, parquet:, hub:",
        ),
        ("lab", "lab: is unknown; choose from lab:train"),
        ("lab:dev", "lab:dev is unknown; choose from lab:train, lab:valid, lab:test, lab:easy, lab:hard"),
        ("lab:test?level=mid", "lab level 'mid' is unknown; choose from easy, default, hard"),
        ("lab:easy?level=hard", r"write lab:test\?level=hard instead"),
        ("lab:test?nmu=3", "key 'nmu' is unknown for lab:; choose from num, seed, level"),
        ("lab:test?num=3&num=4", "each key once"),
        ("lab:test?num", "not of the form key=value"),
        ("lab:test?num=0", "num must be at least 1; 0 was given"),
        ("lab:test?seed=x", "seed must be a whole number; 'x' was given"),
        ("gsm8k:x.jsonl?answer=y", "key 'answer' is unknown for gsm8k:; choose from num, seed"),
        ("jsonl:x?grader=mtah", "grader 'mtah' is unknown"),
    ],
)
def test_a_wrong_spec_says_what_is_accepted(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_problems(spec)


def test_a_missing_file_is_named() -> None:
    for spec in (
        "gsm8k:no/such.jsonl",
        "math:no/such.jsonl",
        "jsonl:no/such.jsonl",
        "no/such.jsonl",
        "parquet:no/such.jsonl",
    ):
        with pytest.raises(FileNotFoundError, match=r"no/such\.jsonl"):
            load_problems(spec)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"question": "1?"', "line 6 is not JSON"),
        ("[1]", "line 6 holds a list; a problem is a JSON object"),
        ({"question": "1?"}, "line 6 has no column 'answer'; it has question"),
        ({"question": "1?", "answer": ""}, "line 6: column 'answer' is empty"),
        ({"question": "  ", "answer": 1}, "line 6: column 'question' is empty"),
        (
            {"question": "1?", "answer": None},
            "line 6: column 'answer' must hold a string or a number; it holds None",
        ),
        (
            {"question": "1?", "answer": True},
            "line 6: column 'answer' must hold a string or a number; it holds True",
        ),
        (
            {"question": "1?", "answer": math.nan},
            "line 6: column 'answer' must hold a string or a number; it holds nan",
        ),
        (
            {"question": math.inf, "answer": 1},
            "line 6: column 'question' must hold a string or a number; it holds inf",
        ),
        (
            {"question": ["1?"], "answer": 1},
            "line 6: column 'question' must hold a string or a number; it holds",
        ),
        (
            {"question": "\ud800?", "answer": 1},
            "line 6: column 'question' must hold unicode text; it holds half of a surrogate pair",
        ),
        ({"question": "1?", "answer": "x+1"}, r"line 6: 'x\+1' cannot be read by grader 'numeric'"),
        ({"question": "1?", "answer": 1, "id": "five/0"}, "line 6 has the id 'five/0' of an earlier row"),
    ],
)
def test_a_row_that_cannot_be_used_is_an_error_that_names_it(
    tmp_path: Path, row: Mapping[str, object] | str, message: str
) -> None:
    path = written(tmp_path / "five.jsonl", [*ROWS, row])
    with pytest.raises(ValueError, match=rf"five\.jsonl, {message}"):
        load_problems(str(path))


def test_a_set_that_is_too_small_is_refused(five: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="five has 5 problems; num=6 was asked for"):
        load_problems(f"{five}?num=6")
    with pytest.raises(ValueError, match="empty has no problems"):
        load_problems(str(written(tmp_path / "empty.jsonl", ["", " "])))


def test_gsm8k_and_math_rows_need_their_marks(five: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: answer '0' does not end in '#### n'"):
        load_problems(f"gsm8k:{five}")
    unboxed = written(tmp_path / "unboxed.jsonl", [{"problem": "1?", "solution": "One."}])
    with pytest.raises(ValueError, match="line 1 has no column 'answer', and its solution has no boxed one"):
        load_problems(f"math:{unboxed}")


@needs_data
def test_gsm8k_loads_as_published() -> None:
    problems = load_problems(f"gsm8k:{DATA / 'gsm8k' / 'test.jsonl'}")
    assert len(problems) == 1319
    assert (problems[0].id, problems[0].answer, problems[0].grader) == ("gsm8k:test/0", "18", "numeric")
    assert all(
        is_correct(problem.answer, f"A: {problem.answer.replace(',', '')}", "numeric") for problem in problems
    )
    assert len(load_problems(f"gsm8k:{DATA / 'gsm8k' / 'train.jsonl'}?num=100&seed=0")) == 100


@needs_data
def test_math_500_loads_as_published_and_its_boxes_hold_its_answers() -> None:
    path = DATA / "math" / "math500.jsonl"
    problems = load_problems(f"math:{path}")
    assert len(problems) == 500
    assert (problems[0].id, problems[0].answer, problems[0].grader) == (
        "test/precalculus/807.json",
        r"\left( 3, \frac{\pi}{2} \right)",
        "math",
    )
    boxed = load_problems(f"jsonl:{path}?question=problem&answer=solution&id=unique_id&grader=math")
    assert boxed == problems
