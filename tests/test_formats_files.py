"""Formats in files: options are checked at once, rows stream, a file is complete or does not exist."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forkpoint import formats
from forkpoint.formats import containers
from forkpoint.formats.labels_file import read_labelled, write_labelled
from forkpoint.prms.score_file import read_solutions
from forkpoint.problems import load_problems
from forkpoint.records import LabelledSolution
from test_formats_round_trip import solution

SOLUTIONS = [solution([f"a{idx}\n", "b"], [1.0, 0.0], f"q{idx}", is_correct=False) for idx in range(5)]


def test_importing_formats_loads_no_heavy_package() -> None:
    code = (
        "import sys, forkpoint.formats; "
        "print([name for name in ('torch', 'datasets', 'pyarrow') if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


def test_our_format_is_the_file_that_labelling_writes(tmp_path: Path) -> None:
    write_labelled(tmp_path / "labels.jsonl", SOLUTIONS)
    formats.write(tmp_path / "again.jsonl", "forkpoint", SOLUTIONS)
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "labels.jsonl").read_bytes()
    assert list(formats.read(tmp_path, "forkpoint")) == list(read_labelled(tmp_path)) == SOLUTIONS


def test_names_lists_what_can_be_read_and_what_can_be_written() -> None:
    everything = [
        "forkpoint",
        "math-shepherd",
        "openrlhf",
        "er-prm",
        "rlhflow",
        "trl",
        "prm800k",
        "processbench",
        "mr-ben",
        "mr-math",
    ]
    assert formats.names() == everything
    only_read = {"prm800k", "mr-ben", "mr-math"}
    assert formats.names("write") == [name for name in everything if name not in only_read]


@pytest.mark.parametrize(
    ("direction", "name", "options", "message"),
    [
        ("read", "shepherd", {}, "format 'shepherd' is unknown; choose from forkpoint, math-shepherd"),
        (
            "write",
            "prm800k",
            {},
            "format 'prm800k' can be read, not written; "
            "choose from forkpoint, math-shepherd, .*processbench$",
        ),
        (
            "read",
            "trl",
            {"seperator": ""},
            "option 'seperator' is unknown for reading trl; choose from separator$",
        ),
        ("read", "trl", {"threshold": 0.5}, "option 'threshold' is unknown for reading trl"),
        (
            "read",
            "forkpoint",
            {"tag": "ки"},
            "option 'tag' is unknown for reading forkpoint; choose from none",
        ),
        ("read", "prm800k", {}, "prm800k needs the option 'neutral': 'positive' or 'negative'"),
        (
            "read",
            "prm800k",
            {"neutral": "zero"},
            "option 'neutral' of prm800k must be 'positive' or 'negative'; 'zero' was given",
        ),
        ("write", "trl", {"threshold": "0.5"}, "option 'threshold' of trl must be a number; '0.5' was given"),
        ("write", "trl", {"extras": 1}, "option 'extras' of trl must be True or False; 1 was given"),
        ("write", "trl", {"separator": None}, "option 'separator' of trl must be a string; None was given"),
        ("write", "trl", {"threshold": 0}, "threshold must be above 0 and at most 1; 0 was given"),
        (
            "write",
            "openrlhf",
            {"tag": " ки"},
            "tag must be at least one character without white space; ' ки' was given",
        ),
        ("write", "openrlhf", {"label_key": "input"}, "input_key and label_key must name two columns"),
    ],
)
def test_unknown_names_and_options_are_refused_before_anything_is_read(
    direction: str, name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        if direction == "read":
            formats.read(tmp_path / "none.jsonl", name, **options)
        else:
            formats.write(tmp_path / "none.jsonl", name, SOLUTIONS, **options)
    assert list(tmp_path.iterdir()) == []


def test_missing_files_and_unknown_suffixes_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.jsonl"):
        formats.read(tmp_path / "none.jsonl", "trl")
    with pytest.raises(FileNotFoundError, match=r"there is no directory .*nowhere"):
        formats.write(tmp_path / "nowhere" / "a.jsonl", "trl", SOLUTIONS)
    with pytest.raises(
        ValueError, match=r"\.jsonl, \.json, \.parquet or hub:OWNER/NAME.*; '.*a\.csv' was given"
    ):
        formats.read(tmp_path / "a.csv", "trl")
    with pytest.raises(ValueError, match=r"\.jsonl, \.json, \.parquet; 'hub:a/b' was given"):
        formats.write("hub:a/b", "trl", SOLUTIONS)


def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    formats.write(tmp_path / "rows.jsonl", "trl", SOLUTIONS[:2])
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "bad.jsonl").write_text("\n".join([lines[0], "", '{"prompt": "q"}', lines[1]]))
    found = formats.read(tmp_path / "bad.jsonl", "trl")
    assert next(found).question == "q0"
    with pytest.raises(
        ValueError,
        match=r"bad\.jsonl, line 3 is not a row of trl: there is no column 'completions'; there are prompt",
    ):
        next(found)
    for text, message in [
        ("{torn", r"line 1 is not JSON"),
        ("[1]", r"line 1 holds a list; a row is a JSON object"),
    ]:
        (tmp_path / "torn.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            list(formats.read(tmp_path / "torn.jsonl", "trl", on_bad_row=pytest.fail))
    for text, message in [
        ("[{}\n{}", "one object per line is .jsonl"),
        ("{}\n{}", "line 1 is not a row of trl"),
        ("{}", "holds a dict; a .json file of rows is one array"),
    ]:
        (tmp_path / "torn.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            list(formats.read(tmp_path / "torn.json", "trl"))
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(ValueError, match=r"no\.parquet is not Parquet"):
        list(formats.read(tmp_path / "no.parquet", "trl"))


def test_a_byte_order_mark_and_empty_lines_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    write_labelled(path, SOLUTIONS)
    path.write_bytes(b"\xef\xbb\xbf\n\n" + path.read_bytes().replace(b"\n", b"\r\n\r\n"))
    assert list(formats.read(path, "forkpoint")) == list(read_labelled(path)) == SOLUTIONS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"question": "\xff"}', "line 1 is not UTF-8: invalid start byte at byte 15"),
        (b'{"question": "\xed\xa0\x80"}', "line 1 is not UTF-8"),
        (b"\xff\xfe{\x00", "line 1 is not UTF-8"),
    ],
)
def test_a_line_in_another_encoding_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(text)
    for read in (
        lambda path: list(formats.read(path, "trl")),
        lambda path: list(read_labelled(path)),
        read_solutions,
        lambda path: load_problems(str(path)),
    ):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "rows.jsonl")


def test_half_of_a_surrogate_pair_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "completions": ["a", step], "labels": [True, False]} for step in ("b", "\ud800")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    solutions = formats.read(tmp_path / "rows.jsonl", "trl")
    with pytest.raises(ValueError, match=r"line 2 is not a row of trl: column .* half of a surrogate pair"):
        formats.write(tmp_path / "out.jsonl", "forkpoint", solutions)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_bad_rows_are_left_out_only_for_a_caller_that_hears_of_each(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows: list[object] = [
        {"prompt": "q", "completions": ["a"], "labels": [label]} for label in (True, 7, False)
    ]
    path.write_text(json.dumps(rows))
    told: list[str] = []
    assert [found.is_correct for found in formats.read(path, "trl", on_bad_row=told.append)] == [True, False]
    assert told == [f"{path}, row 1 is not a row of trl: a label must be a number from 0 to 1; 7 was given"]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_a_file_is_replaced_when_all_is_written_or_stays(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out.{suffix}"
    formats.write(path, "trl", SOLUTIONS)
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=r"solution 1 \(problem p1\) cannot be written as trl: step 1 has the label 0\.5"
    ):
        formats.write(path, "trl", [SOLUTIONS[0], solution(["a"], [0.5])])

    def broken() -> Iterator[LabelledSolution]:
        yield SOLUTIONS[0]
        assert path.read_bytes() == before
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        formats.write(path, "trl", broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert formats.write(path, "trl", formats.read(path, "trl")) == 5
    assert [found.question for found in formats.read(path, "trl")] == [given.question for given in SOLUTIONS]


@pytest.mark.parametrize(
    ("labels", "message"), [([], "2 steps and 0 labels"), ([1.0, 2.0], "the label of step 2 is 2.0")]
)
def test_a_solution_that_is_none_is_not_written(labels: list[float], message: str, tmp_path: Path) -> None:
    for name in formats.names("write"):
        with pytest.raises(ValueError, match=message):
            formats.write(tmp_path / "out.jsonl", name, [solution(["a\n\n", "b"], labels)])


def test_parquet_is_written_and_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    monkeypatch.setattr(containers, "BATCH_ROWS", 2)
    path = tmp_path / "out.parquet"
    num_drawn = 0

    def drawn() -> Iterator[LabelledSolution]:
        nonlocal num_drawn
        for given in SOLUTIONS:
            num_drawn += 1
            yield given

    assert formats.write(path, "forkpoint", drawn()) == num_drawn == 5
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 3
    assert list(formats.read(path, "forkpoint")) == SOLUTIONS


def test_parquet_keeps_every_digit_under_the_column_names_of_the_format(tmp_path: Path) -> None:
    import pyarrow.parquet

    thirds = [solution(["Step 1: a\n", "b"], [1 / 3, 0.7], is_correct=True)]
    formats.write(tmp_path / "out.parquet", "er-prm", thirds, extras=True)
    assert pyarrow.parquet.read_schema(tmp_path / "out.parquet").names == [
        "text",
        "value",
        "problem_id",
        "question",
        "is_correct",
    ]
    assert list(formats.read(tmp_path / "out.parquet", "er-prm")) == thirds


def test_parquet_columns_do_not_depend_on_the_rows(tmp_path: Path) -> None:
    import pyarrow.parquet

    formats.write(tmp_path / "none.parquet", "processbench", [])
    schema = pyarrow.parquet.read_schema(tmp_path / "none.parquet")
    assert dict(zip(schema.names, map(str, schema.types), strict=True)) == {
        "id": "string",
        "generator": "string",
        "problem": "string",
        "steps": "list<element: string>",
        "final_answer_correct": "bool",
        "label": "int64",
    }


def test_datasets_reads_our_parquet_and_we_read_its_data_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="needs datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    plain, saved, splits = tmp_path / "plain", tmp_path / "saved", tmp_path / "splits"
    plain.mkdir()
    formats.write(plain / "train.parquet", "rlhflow", SOLUTIONS, extras=True)
    found = datasets.load_dataset(str(plain), split="train")
    assert found[3]["conversations"][0] == {"role": "user", "content": "q3 a3"}
    found.save_to_disk(saved)
    datasets.DatasetDict({"test": found}).save_to_disk(splits)
    for source in (f"hub:{plain}", f"hub:{saved}", f"hub:{splits}?split=test"):
        assert list(formats.read(source, "rlhflow")) == SOLUTIONS
    with pytest.raises(ValueError, match="has no split 'train'; choose from test"):
        list(formats.read(f"hub:{splits}", "rlhflow"))
    with pytest.raises(ValueError, match=r"saved, split train, row 0 is not a row of trl"):
        list(formats.read(f"hub:{saved}", "trl"))
    with pytest.raises(ValueError, match="key 'spilt' is unknown for hub:; choose from split, config"):
        formats.read("hub:a/b?spilt=test", "trl")


def test_options_are_parsed_by_their_types() -> None:
    parse = formats.parse_options
    assert parse("trl", "write", ["threshold=0.5", r"separator=\n\n", "extras=true"]) == {
        "threshold": 0.5,
        "separator": "\n\n",
        "extras": True,
    }
    assert parse("prm800k", "read", ["neutral=negative"]) == {"neutral": "negative"}
    assert parse("rlhflow", "read", ["first_step="]) == {"first_step": ""}
    assert parse("openrlhf", "write", ["tag=<a=b>"]) == {"tag": "<a=b>"}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["threshold"], "options are given as KEY=VALUE, each key once; 'threshold' was given"),
        (["threshold=1", "threshold=1"], "each key once"),
        (["threshold=half"], "option 'threshold' must be a number; 'half' was given"),
        (["extras=maybe"], "option 'extras' of trl must be True or False; 'maybe' was given"),
        (
            ["treshold=0.5"],
            "option 'treshold' is unknown for writing trl; choose from separator, threshold, extras",
        ),
    ],
)
def test_options_that_cannot_be_parsed_say_so(assignments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        formats.parse_options("trl", "write", assignments)
