"""The journal: what is written comes back, and what is damaged is noticed, counted and owed again."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from forkpoint.content_key import canonical_json, content_key
from forkpoint.errors import JournalCorrupt, RunError
from forkpoint.runs import Journal
from forkpoint.runs import durable as durable_module

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("a", {"value": 0.1, "text": "two\nlines \u2028 ки"}),
    ("b", {"nested": {"list": [1, None, True, "\ud800"]}}),
    ("c", {}),
    ("d", {"value": -1e-300, "text": 'a "quoted" \\ word'}),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    with closing(Journal(path, is_writable=True)) as journal:
        yield journal


def written(path: Path, rows: list[tuple[str, dict[str, Any]]] | None = None) -> bytes:
    with opened(path) as journal:
        journal.append(ROWS if rows is None else rows)
    return path.read_bytes()


def test_content_key_is_the_same_for_equal_content_in_any_order_and_on_any_day() -> None:
    assert content_key({"b": [1, 2.5], "a": "x"}) == content_key({"a": "x", "b": (1, 2.5)})
    assert content_key({"a": 1}) != content_key({"a": 1.0}) != content_key({"a": "1"})
    assert content_key({"question": "1 + 1?", "seed": 0}) == "30a179d141068157092f316e52a73b5d"


def test_content_that_is_not_json_has_no_key() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_key({"tau": float("nan")})
    with pytest.raises(TypeError):
        content_key({"path": Path("x")})


def test_canonical_json_is_sorted_ascii_without_blanks() -> None:
    assert canonical_json({"b": "ки", "a": [1, None]}) == '{"a":[1,null],"b":"\\u043a\\u0438"}'


def test_rows_come_back_as_they_were_given_in_the_order_written(path: Path) -> None:
    with opened(path) as journal:
        assert journal.append(ROWS[:1]) == 1
        assert journal.append(ROWS[1:]) == 3
        assert list(journal.items()) == ROWS
    for is_writable in (True, False):
        with closing(Journal(path, is_writable=is_writable)) as journal:
            assert list(journal.items()) == ROWS
            assert len(journal) == 4
            assert "a" in journal
            assert "e" not in journal


def test_rows_come_back_in_the_order_asked_for(path: Path) -> None:
    written(path)
    journal = Journal(path, is_writable=False)
    assert list(journal.items(["d", "a"])) == [ROWS[3], ROWS[0]]
    with pytest.raises(KeyError, match="e"):
        list(journal.items(["a", "e"]))


def test_a_journal_that_is_not_there_is_empty_and_reading_does_not_create_it(path: Path) -> None:
    journal = Journal(path, is_writable=False)
    assert list(journal.items()) == []
    assert not path.exists()


def test_a_line_is_one_json_object_with_key_first_and_seal_last(path: Path) -> None:
    line = written(path, [("a", {"value": 0.1})])
    seal = hashlib.blake2b(b'{"key":"a","value":0.1', digest_size=8).hexdigest()
    assert line == f'{{"key":"a","value":0.1,"sum":"{seal}"}}\n'.encode()


def test_of_two_rows_with_one_key_the_first_is_written_and_the_second_is_not(path: Path) -> None:
    with opened(path) as journal:
        assert journal.append([("a", {"n": 1}), ("a", {"n": 2})]) == 1
        assert journal.append([("a", {"n": 3}), ("b", {"n": 4})]) == 1
        assert journal.append([("a", {"n": 5})]) == 0
    assert path.read_bytes().count(b"\n") == 2
    assert list(Journal(path, is_writable=False).items()) == [("a", {"n": 1}), ("b", {"n": 4})]


def test_of_two_lines_with_one_key_the_first_counts(path: Path) -> None:
    data = written(path)
    second = written(path.with_name("other.jsonl"), [(key, {"n": idx}) for idx, (key, _) in enumerate(ROWS)])
    path.write_bytes(data + second)
    assert list(Journal(path, is_writable=False).items()) == ROWS


@pytest.mark.parametrize(
    "row", [{"value": float("nan")}, {"value": float("inf")}, {"value": {1, 2}}, {"key": 1}, {"sum": 1}]
)
def test_a_row_that_cannot_be_kept_is_refused_and_nothing_of_its_group_is_written(
    path: Path, row: dict[str, Any]
) -> None:
    with opened(path) as journal:
        with pytest.raises((ValueError, TypeError)):
            journal.append([("a", {"n": 1}), ("b", row)])
        assert len(journal) == 0
    assert path.read_bytes() == b""


@pytest.mark.parametrize("key", ["", 'quo"te', "back\\slash", "new\nline", "ки"])
def test_a_key_that_is_no_key_is_refused(path: Path, key: str) -> None:
    with opened(path) as journal, pytest.raises(ValueError, match="is not a journal key"):
        journal.append([(key, {})])


def test_a_journal_cut_anywhere_keeps_its_whole_lines_and_owes_the_torn_one(path: Path) -> None:
    data = written(path)
    for num_bytes in range(len(data) + 1):
        path.write_bytes(data[:num_bytes])
        whole = data[: data[:num_bytes].rfind(b"\n") + 1]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reader = Journal(path, is_writable=False)
            assert path.read_bytes() == data[:num_bytes], "a reader does not write"
            with opened(path) as writer:
                assert path.read_bytes() == whole
                assert list(reader.items()) == list(writer.items()) == ROWS[: whole.count(b"\n")]
                writer.append(ROWS)
        assert path.read_bytes() == data


def test_a_torn_line_longer_than_a_block_is_cut_off_whole(path: Path) -> None:
    data = written(path)
    path.write_bytes(data + b"x" * (3 * durable_module.BLOCK_BYTES))
    with opened(path) as journal:
        assert list(journal.items()) == ROWS
    assert path.read_bytes() == data


@pytest.mark.filterwarnings("ignore:.*damaged lines")
def test_a_byte_flipped_anywhere_is_noticed_and_only_its_row_is_owed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    data = written(path)
    bad_path = path.with_suffix(".bad")
    for position in range(len(data)):
        bad_path.unlink(missing_ok=True)
        flipped = bytes([data[position] ^ (1 << position % 8)])
        path.write_bytes(data[:position] + flipped + data[position + 1 :])
        num_hit = 2 if data[position] == ord("\n") and position < len(data) - 1 else 1
        with opened(path) as journal:
            kept = list(journal.items())
            assert [row for row in ROWS if row in kept] == kept, "a damaged row was served"
            assert len(kept) == len(ROWS) - num_hit
            assert bad_path.exists() == (position < len(data) - 1)
            assert journal.append(ROWS) == num_hit
            assert sorted(journal.items()) == sorted(ROWS)
            assert journal.digest == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def test_damaged_lines_are_set_aside_with_a_warning_that_counts_them(path: Path) -> None:
    lines = written(path).splitlines(keepends=True)
    foreign = [b'{"key":"e","value":1}\n', b"\n"]
    path.write_bytes(lines[0] + foreign[0] + lines[1] + foreign[1] + lines[2])
    with pytest.warns(RuntimeWarning, match=r"2 damaged lines .* owed again"), opened(path) as journal:
        assert journal.num_set_aside == 2
        assert list(journal.items()) == ROWS[:3]
        assert journal.append(ROWS) == 1
    assert path.read_bytes() == b"".join(lines)
    assert path.with_suffix(".bad").read_bytes() == b"".join(foreign)


def test_a_reader_refuses_a_damaged_line_by_number(path: Path) -> None:
    data = written(path)
    path.write_bytes(data.replace(b"true", b"tru0"))
    with pytest.raises(JournalCorrupt, match=r"line 2 of .*journal.jsonl is damaged; run the command"):
        Journal(path, is_writable=False)


def test_a_row_that_changes_under_a_reader_is_not_served(path: Path) -> None:
    data = written(path)
    journal = Journal(path, is_writable=False)
    path.write_bytes(data.replace(b"true", b"null"))
    with pytest.raises(JournalCorrupt, match="open it again"):
        list(journal.items())


def test_a_full_disk_leaves_the_journal_as_it_was_and_later_rows_fit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = os.write
    room = 30

    def write(fd: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        num_written = real_write(fd, data[:room])
        room -= num_written
        return num_written

    with opened(path) as journal:
        journal.append(ROWS[:1])
        before, digest = path.read_bytes(), journal.digest
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(RunError, match=r"No space left on device.*make room"):
                journal.append(ROWS[1:])
        assert room == 0, "the write was not partial"
        assert path.read_bytes() == before
        assert journal.digest == digest
        assert journal.append(ROWS[1:]) == 3
        assert list(journal.items()) == ROWS


def test_a_write_in_pieces_is_completed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(path)
    path.unlink()
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:7]))
    assert written(path) == whole


def test_an_interrupted_write_leaves_no_part_of_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write

    def write(fd: int, data: bytes) -> int:
        if len(data) < 50:
            raise KeyboardInterrupt
        return real_write(fd, data[:20])

    with opened(path) as journal:
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(KeyboardInterrupt):
            journal.append(ROWS)
        assert path.read_bytes() == b""


def test_closing_syncs_what_appending_has_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    with opened(path) as journal:
        monkeypatch.setattr(os, "fsync", synced.append)
        journal.append(ROWS[:2])
        journal.append(ROWS[2:])
        assert len(synced) == 0, "within a second of the opening"
        journal.sync()
        journal.sync()
        assert len(synced) == 1
        monkeypatch.setattr(durable_module, "SYNC_INTERVAL_S", 0.0)
        journal.append([("e", {})])
        assert len(synced) == 2
        monkeypatch.setattr(durable_module, "SYNC_INTERVAL_S", 60.0)
        journal.append([("f", {})])
        assert len(synced) == 2
    assert len(synced) == 3


def test_the_digest_is_that_of_the_file_whether_appended_or_reopened(path: Path) -> None:
    with opened(path) as journal:
        for row in ROWS:
            journal.append([row])
            assert journal.digest == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert Journal(path, is_writable=False).digest == journal.digest


def test_iterating_holds_one_row_at_a_time(path: Path) -> None:
    num_rows, num_chars = 100, 100_000
    with opened(path) as journal:
        for idx in range(num_rows):
            journal.append([(f"k{idx}", {"text": "x" * num_chars})])
    tracemalloc.start()
    journal = Journal(path, is_writable=False)
    assert sum(len(row["text"]) for _, row in journal.items()) == num_rows * num_chars
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10 * num_chars


def test_a_reader_cannot_append(path: Path) -> None:
    with pytest.raises(RunError, match="opened for reading"):
        Journal(path, is_writable=False).append(ROWS)
