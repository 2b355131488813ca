"""Who hears of a training while it runs: a progress bar, the journal of the run, trackers of experiments.

Invariant: nothing here changes what is learned, so a training may be continued with another monitor.
Importing this file does not load torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias, get_args

from forkpoint.checks import check_choice
from forkpoint.errors import MissingPackageError

OnStep: TypeAlias = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, last loss)."""
Tracker: TypeAlias = Literal["tensorboard", "wandb", "trackio", "none"]
"""A program that shows trainings, through its integration in transformers."""
Append: TypeAlias = Callable[[Iterable[tuple[str, Mapping[str, Any]]]], object]
"""`Run.append`: (key, row) pairs; keys that have a row already are left as they are."""


@dataclass(frozen=True)
class Monitor:
    """What is told of a training, in the first of several processes only."""

    on_step: OnStep | None = None
    report_to: tuple[Tracker, ...] = ()
    append: Append | None = None


def trackers(report_to: Iterable[Tracker]) -> list[str]:
    """Return the trackers without `none`. MissingPackageError if one of them is not installed."""
    names: list[str] = [name for name in dict.fromkeys(report_to) if name != "none"]
    for name in names:
        check_choice("report_to", name, get_args(Tracker))
        if find_spec(name) is None:
            raise MissingPackageError(
                f"--report-to {name} needs the package {name}; install it with: pip install {name}"
            )
    return names
