"""A run directory: its configuration, the rows done so far, and whether it is complete.

    config.json      command, resolved configuration, package version that started the run; written first
    lock             the process that writes now, and the seconds spent so far
    journal.jsonl    one sealed line per finished item (see `journal.py`); damaged lines go to journal.bad
    failures.jsonl   one line per item per failed attempt; the item is owed again
    manifest.json    row count, journal digest, summary; written last

Invariant: a run can be stopped at any moment and opened again with the same command and configuration; rows
that were journaled stay. While a run is going on, rows lie in the journal in the order in which they were
done; `finish` puts them into the order of the items of its works, work after work, which does not depend on
what was done when. A manifest counts only as long as its digest is that of the journal.
Settings that do not change the rows (batch size, output path, progress) do not belong in the configuration:
they may differ from one opening to the next. This file does no work (see `local.py`).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from forkpoint.content_key import JSON, canonical_json
from forkpoint.errors import ConfigDiffers, RunError
from forkpoint.runs.durable import LineFile, draft_of, replace_file
from forkpoint.runs.journal import Journal
from forkpoint.runs.lock import RunLock, utc_now
from forkpoint.version import __version__

FORMAT = 1
"""The version of the directory's format; a run of another format is refused."""
CONFIG, LOCK, JOURNAL, FAILURES, MANIFEST = (
    "config.json",
    "lock",
    "journal.jsonl",
    "failures.jsonl",
    "manifest.json",
)
ABSENT = object()
GAP = -1


class Run:
    """An open run directory: `Run.open` to add to it, `Run.read` to look at it."""

    def __init__(self, directory: Path, lock: RunLock | None) -> None:
        """Use `Run.open` or `Run.read`, which check the directory."""
        settings = _read_settings(directory)
        self.directory = directory
        self.command: str = settings["command"]
        self.config: dict[str, Any] = settings["config"]
        self.journal = Journal(directory / JOURNAL, is_writable=lock is not None)
        self._lock = lock
        self._failures: LineFile | None = None
        self._order = array("q")
        """The places of rows in the journal, in the order that `finish` gives them; `GAP` if missing."""
        self._gaps: dict[str, int] = {}
        """The keys of missing rows, with their indices in `_order`."""
        if lock is not None and not self.is_finished:
            self._manifest_path.unlink(missing_ok=True)

    @classmethod
    def open(cls, directory: str | Path, command: str, config: Mapping[str, JSON]) -> Run:
        """Start a run, or continue one; until `close` no other process can write to the directory.

        RunLocked if another process writes to it, ConfigDiffers if it was started with another command or
        configuration, RunError if the directory holds something other than a run.
        """
        directory = Path(directory)
        settings = {"format": FORMAT, "command": command, "config": json.loads(canonical_json(config))}
        _refuse_foreign(directory)
        directory.mkdir(parents=True, exist_ok=True)
        lock = RunLock(directory / LOCK)
        with ExitStack() as unless_opened:
            unless_opened.callback(lock.close)
            if (directory / CONFIG).exists():
                _refuse_other_settings(directory, _read_settings(directory), settings)
            else:
                _write_json(directory / CONFIG, settings | {"version": __version__, "started": utc_now()})
            run = cls(directory, lock)
            unless_opened.pop_all()
        return run

    @classmethod
    def read(cls, directory: str | Path) -> Run:
        """Open a run for reading, even while another process writes to it; later rows are not seen.

        FileNotFoundError or RunError if there is no run, JournalCorrupt if a complete line is damaged.
        """
        directory = Path(directory)
        if not directory.exists():
            raise FileNotFoundError(f"{directory} does not exist; a run directory was expected")
        return cls(directory, None)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: object) -> bool:
        """Whether the item with this key has a row."""
        return key in self.journal

    @property
    def num_rows(self) -> int:
        return len(self.journal)

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest that `finish` wrote; None if the run is not finished."""
        if not self._manifest_path.exists():
            return None
        manifest: dict[str, Any] = json.loads(self._manifest_path.read_bytes())
        return manifest if manifest["journal_digest"] == self.journal.digest else None

    @property
    def is_finished(self) -> bool:
        """Whether `finish` was called and no row was added since."""
        return self.manifest is not None

    def rows(self, keys: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield rows as given to `append`: those of `keys` in their order, or all in the order of writing.

        The two orders differ if a failed or damaged item was done again. KeyError for a key that is still
        owed.
        """
        return (row for _, row in self.journal.items(keys))

    def failures(self) -> Iterator[dict[str, Any]]:
        """Yield every failed attempt, oldest first: key, error, message, time.

        The item may have succeeded since.
        """
        path = self.directory / FAILURES
        if not path.exists():
            return
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def append(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Journal the (key, row) pairs whose key has no row yet, all or none of them.

        Returns how many were added.

        ValueError or TypeError for a row that is not JSON, RunError if the disk refuses the write.
        """
        lock = self._writing()
        num_added = self.journal.append(rows)
        if num_added:
            self._manifest_path.unlink(missing_ok=True)
            lock.note_seconds(lock.seconds)
        return num_added

    def record_failure(self, keys: Sequence[str], error: Exception) -> None:
        """Record that an attempt at the items failed; they stay owed."""
        self._writing()
        if self._failures is None:
            self._failures = LineFile(self.directory / FAILURES)
        record = {"error": type(error).__name__, "message": str(error), "time": utc_now()}
        self._failures.append(b"".join(json.dumps({"key": key, **record}).encode() + b"\n" for key in keys))

    def keep_order(self, keys: Iterable[str]) -> None:
        """Note that the rows of `keys` come next in the canonical order, in this order.

        A row that was noted before keeps its first place, also if it was not there yet. Rows that are never
        noted stay where they are.
        """
        for key in keys:
            place = self.journal.place(key)
            if place is None:
                self._gaps.setdefault(key, len(self._order))
            elif key in self._gaps:
                self._order[self._gaps.pop(key)] = place
                continue
            self._order.append(GAP if place is None else place)

    def finish(self, summary: Mapping[str, JSON]) -> None:
        """Put the rows into their canonical order, and write the manifest.

        Does nothing if the run is finished with the same rows and the same summary.
        """
        lock = self._writing()
        if not self.is_finished:
            self.journal.arrange([place for place in self._order if place != GAP])
            self._order, self._gaps = array("q"), {}
        self.journal.sync()
        manifest, summary = self.manifest, json.loads(canonical_json(summary))
        if manifest is not None and manifest["summary"] == summary:
            return
        seconds = lock.seconds
        lock.note_seconds(seconds)
        manifest = {
            "num_rows": self.num_rows,
            "journal_digest": self.journal.digest,
            "summary": summary,
            "seconds": round(seconds, 3),
            "version": __version__,
            "finished": utc_now(),
        }
        _write_json(self._manifest_path, manifest)

    def close(self) -> None:
        """Make everything survive a power cut, and release the lock; closing twice is fine."""
        try:
            self.journal.close()
            if self._failures is not None:
                self._failures.close()
        finally:
            if self._lock is not None:
                self._lock.close()

    @property
    def _manifest_path(self) -> Path:
        return self.directory / MANIFEST

    def _writing(self) -> RunLock:
        """Return the lock. RunError if the run was opened for reading."""
        if self._lock is None:
            raise RunError(f"{self.directory} was opened for reading; use Run.open to add to it")
        return self._lock


def _refuse_foreign(directory: Path) -> None:
    """Raise if `directory` is used for something else.

    A run that was killed before it wrote its configuration is not refused.
    """
    if not directory.exists() or (directory / CONFIG).exists():
        return
    if not directory.is_dir():
        raise NotADirectoryError(f"{directory} is a file; give a directory that is new, empty or a run")
    names = {path.name for path in directory.iterdir()}
    if CONFIG in names:  # another process has just started the run
        return
    names -= {LOCK, draft_of(directory / CONFIG).name}
    if names:
        raise RunError(
            f"{directory} holds {min(names)} but no {CONFIG}, so it is not a run; "
            "give a new or empty directory"
        )


def _read_settings(directory: Path) -> dict[str, Any]:
    """Return the content of config.json.

    RunError if it is missing, of another format, or not that of a run.
    """
    path = directory / CONFIG
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{directory} has no {CONFIG}, so it is not a run") from None
    except ValueError:
        raise RunError(f"{path} is not JSON, so {directory} is not a run; give another directory") from None
    if not isinstance(settings, dict) or not {"format", "command", "config"} <= settings.keys():
        raise RunError(f"{path} is not the configuration of a run; give another directory")
    if settings["format"] != FORMAT:
        raise RunError(
            f"{directory} is a run of format {settings['format']}; "
            f"this version reads format {FORMAT}: give another directory"
        )
    return settings


def _refuse_other_settings(directory: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise ConfigDiffers, naming each differing key with both values."""
    triples = [("command", there["command"], here["command"]), *_triples(there["config"], here["config"])]
    shown = [(name, _shown(old), _shown(new)) for name, old, new in triples]
    lines = [f"  {name}: {old} there, {new} here" for name, old, new in shown if old != new]
    if lines:
        raise ConfigDiffers(
            "\n".join(
                [
                    f"{directory} was started with other values; give the same ones, or another directory",
                    *lines,
                ]
            )
        )


def _triples(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted name, old value, new value) for every key of two nested configurations."""
    for name in sorted(old.keys() | new.keys()):
        there, here = old.get(name, ABSENT), new.get(name, ABSENT)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _triples(there, here, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", there, here


def _shown(value: Any) -> str:
    return "nothing" if value is ABSENT else canonical_json(value)


def _write_json(path: Path, obj: Mapping[str, Any]) -> None:
    replace_file(path, [(json.dumps(obj, indent=2, allow_nan=False) + "\n").encode()])
