"""A run directory: what was asked for, what has been done, and whether it is complete.

    config.json      command and resolved configuration, and the package version they were first run with; written first
    lock             who writes now, and the seconds spent so far
    journal.jsonl    one sealed line per finished item (see `journal.py`); damaged lines go to journal.bad
    failures.jsonl   one line per item per failed attempt; the item is owed again
    manifest.json    row count, journal digest, summary; written last

Invariant: the directory can be stopped at any moment and opened again with the same command and configuration; what is
journaled then stays. A manifest counts only as long as its digest is that of the journal.
What does not change the rows (batch size, output path, progress) does not belong into the configuration: it may differ
from one opening to the next. This file does not do the work (see `local.py`).
"""

from __future__ import annotations

import json
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
"""Of the directory; a run of another format is refused."""
CONFIG, LOCK, JOURNAL, FAILURES, MANIFEST = (
    "config.json",
    "lock",
    "journal.jsonl",
    "failures.jsonl",
    "manifest.json",
)
ABSENT = object()


class Run:
    """An open run directory: `Run.open` to add to it, `Run.read` to look at it."""

    def __init__(self, directory: Path, lock: RunLock | None) -> None:
        """Use `Run.open` or `Run.read`; they check what they find."""
        settings = _read_settings(directory)
        self.directory = directory
        self.command: str = settings["command"]
        self.config: dict[str, Any] = settings["config"]
        self.journal = Journal(directory / JOURNAL, is_writable=lock is not None)
        self._lock = lock
        self._failures: LineFile | None = None
        if lock is not None and not self.is_finished:
            self._manifest_path.unlink(missing_ok=True)

    @classmethod
    def open(cls, directory: str | Path, command: str, config: Mapping[str, JSON]) -> Run:
        """Start a run, or go on with one; the directory is this process's alone until `close`.

        RunLocked where another process writes to it, ConfigDiffers where it was started with another command or
        configuration, RunError where the directory holds something other than a run.
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
        """Look at a run, also while another process writes to it: the rows are those journaled by now.

        FileNotFoundError or RunError where there is no run, JournalCorrupt where a complete line is damaged.
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
        """Whether the item has its row."""
        return key in self.journal

    @property
    def num_rows(self) -> int:
        return len(self.journal)

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What `finish` wrote; None where the run is not finished."""
        if not self._manifest_path.exists():
            return None
        manifest: dict[str, Any] = json.loads(self._manifest_path.read_bytes())
        return manifest if manifest["journal_digest"] == self.journal.digest else None

    @property
    def is_finished(self) -> bool:
        """Whether `finish` was called and no row was added since."""
        return self.manifest is not None

    def rows(self, keys: Iterable[str] | None = None) -> Iterator[dict[str, Any]]:
        """Rows as they were given to `append`: those of `keys` in their order, or all in the order they were written.

        After a failed or damaged item was done again the two orders differ. KeyError for a key that is still owed.
        """
        return (row for _, row in self.journal.items(keys))

    def failures(self) -> Iterator[dict[str, Any]]:
        """Every failed attempt, oldest first: key, error, message, time. The item may have succeeded since (`key in run`)."""
        path = self.directory / FAILURES
        if not path.exists():
            return
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def append(self, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> int:
        """Journal the (key, row) pairs whose key has no row yet, all or none of them; returns how many were added.

        ValueError or TypeError for a row that is not JSON, RunError where the disk refuses.
        """
        lock = self._writing()
        num_added = self.journal.append(rows)
        if num_added:
            self._manifest_path.unlink(missing_ok=True)
            lock.note_seconds(lock.seconds)
        return num_added

    def record_failure(self, keys: Sequence[str], error: Exception) -> None:
        """Write down that an attempt at the items failed; they stay owed."""
        self._writing()
        if self._failures is None:
            self._failures = LineFile(self.directory / FAILURES)
        record = {"error": type(error).__name__, "message": str(error), "time": utc_now()}
        self._failures.append(b"".join(json.dumps({"key": key, **record}).encode() + b"\n" for key in keys))

    def finish(self, summary: Mapping[str, JSON]) -> None:
        """Write the manifest; on a finished run that has gained nothing and has the same summary, do nothing."""
        lock = self._writing()
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
        """Make everything survive a power cut and let the next writer in; closing twice is fine."""
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
        """The lock of a run opened for writing."""
        if self._lock is None:
            raise RunError(f"{self.directory} was opened for reading; use Run.open to add to it")
        return self._lock


def _refuse_foreign(directory: Path) -> None:
    """Raise where `directory` is in use for something else; a start that was killed before its configuration is not."""
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
            f"{directory} holds {min(names)} but no {CONFIG}, so it is not a run; give a new or empty directory"
        )


def _read_settings(directory: Path) -> dict[str, Any]:
    """The content of config.json. RunError where it is missing, of another format, or not a run's."""
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
            f"{directory} is a run of format {settings['format']}; this version reads format {FORMAT}: give another directory"
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
                [f"{directory} was started otherwise; give the same values or another directory", *lines]
            )
        )


def _triples(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every key of two nested configurations."""
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
