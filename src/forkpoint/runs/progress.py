"""Shows how far a pass over a work is: a bar on a terminal, otherwise a plain line now and then.

Invariant: rate and time left are measured on the items of this pass alone; reused rows count as done, not as
speed.
This file knows neither runs nor works.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

PLAIN_INTERVAL_S = 10.0
PLAIN_TENTHS = 10


@dataclass
class Pace:
    """The numbers of a pass: `num_reused` items were done before it.

    `num_done` are settled in it, the failed ones included.
    """

    num_total: int
    num_reused: int
    clock: Callable[[], float] = time.monotonic
    num_done: int = 0
    num_failed: int = 0
    started_s: float = field(init=False)
    advanced_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.started_s = self.advanced_s = self.clock()

    def advance(self, num_done: int, num_failed: int = 0) -> None:
        """Count `num_done` more items as settled, `num_failed` of them without a row."""
        self.num_done += num_done
        self.num_failed += num_failed
        self.advanced_s = self.clock()

    @property
    def num_settled(self) -> int:
        return self.num_reused + self.num_done

    @property
    def elapsed_s(self) -> float:
        return self.clock() - self.started_s

    @property
    def items_per_s(self) -> float | None:
        """Items per second in this pass; None before the first one is settled."""
        busy_s = self.advanced_s - self.started_s
        return self.num_done / busy_s if self.num_done and busy_s > 0 else None

    @property
    def left_s(self) -> float | None:
        """Estimated seconds until the end; None while the rate is unknown."""
        if self.num_settled >= self.num_total:
            return 0.0
        if self.items_per_s is None:
            return None
        left_s = (self.num_total - self.num_settled) / self.items_per_s
        return max(0.0, left_s - (self.clock() - self.advanced_s))

    def __str__(self) -> str:
        """Counts, rate, time elapsed and time left."""
        asides = [f"{self.num_reused} reused"] if self.num_reused else []
        asides += [f"{self.num_failed} failed"] if self.num_failed else []
        count = f"{self.num_settled}/{self.num_total}" + (f" ({', '.join(asides)})" if asides else "")
        elapsed, left = _duration(self.elapsed_s), _duration(self.left_s)
        return f"{count}, {_rate(self.items_per_s)}, {elapsed} elapsed, {left} left"


class PaceColumn(ProgressColumn):
    """The numbers beside the bar, computed again at every refresh."""

    def __init__(self, pace: Pace) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self.pace = pace

    def render(self, task: Task) -> Text:
        return Text(str(self.pace))


class BarDisplay:
    """A bar on a terminal; a context manager."""

    def __init__(self, title: str, pace: Pace, stream: TextIO) -> None:
        self.pace = pace
        bar = BarColumn(bar_width=None, table_column=Column(ratio=1))
        columns = (TextColumn("{task.description}", markup=False), bar, PaceColumn(pace))
        self._bar = Progress(
            *columns,
            console=Console(file=stream),
            refresh_per_second=4,
            expand=True,
            redirect_stdout=sys.stdout.isatty(),  # output that goes to a file must stay there
        )
        self._task = self._bar.add_task(title, total=pace.num_total, completed=pace.num_reused)

    def __enter__(self) -> BarDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.update(self._task, completed=self.pace.num_settled)
        self._bar.stop()

    def advance(self, num_done: int, num_failed: int = 0) -> None:
        """Like `Pace.advance`."""
        self.pace.advance(num_done, num_failed)
        self._bar.update(self._task, completed=self.pace.num_settled)


class LineDisplay:
    """A plain line at the start, after every tenth of the work or ten seconds, and at the end.

    A context manager.
    """

    def __init__(self, title: str, pace: Pace, stream: TextIO) -> None:
        self.title = title
        self.pace = pace
        self.stream = stream
        self._written = ""
        self._written_s = pace.started_s
        self._written_tenth = 0

    def __enter__(self) -> LineDisplay:
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._written != self._line():
            self._write()

    def advance(self, num_done: int, num_failed: int = 0) -> None:
        """Like `Pace.advance`."""
        self.pace.advance(num_done, num_failed)
        if self._tenth() > self._written_tenth or self.pace.advanced_s - self._written_s >= PLAIN_INTERVAL_S:
            self._write()

    def _tenth(self) -> int:
        return PLAIN_TENTHS * self.pace.num_settled // max(1, self.pace.num_total)

    def _line(self) -> str:
        return f"{self.title}: {self.pace}"

    def _write(self) -> None:
        self._written, self._written_s, self._written_tenth = self._line(), self.pace.clock(), self._tenth()
        self.stream.write(self._written + "\n")
        self.stream.flush()


class NoDisplay:
    """Nothing is shown; a context manager."""

    def __enter__(self) -> NoDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def advance(self, num_done: int, num_failed: int = 0) -> None:
        """Do nothing."""


def display(title: str, pace: Pace, stream: TextIO | None) -> BarDisplay | LineDisplay | NoDisplay:
    """Return the display that fits the stream: a bar, lines, or nothing for None."""
    if stream is None:
        return NoDisplay()
    return BarDisplay(title, pace, stream) if stream.isatty() else LineDisplay(title, pace, stream)


def _rate(items_per_s: float | None) -> str:
    """Return the rate in the first of /s, /min and /h that makes it at least 1."""
    if items_per_s is None:
        return "-/s"
    for factor, unit in ((1, "s"), (60, "min")):
        if items_per_s * factor >= 1:
            return f"{items_per_s * factor:.1f}/{unit}"
    return f"{items_per_s * 3600:.1f}/h"


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else str(timedelta(seconds=round(seconds)))
