"""Training by one or several processes: only the first writes, and a finished training is not repeated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from forkpoint.content_key import content_key
from forkpoint.runs import Run
from forkpoint.training.monitor import Append

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this process writes and prints: it is alone, or rank 0 under torchrun or accelerate."""
    return int(os.environ.get("RANK", "0")) == 0


def train_once(
    directory: Path,
    product: Path,
    command: str,
    config: Mapping[str, Any],
    train: Callable[[Path, Append | None], Any],
) -> dict[str, Any]:
    """The report of `train` as a dict, read from the run if it is finished and `product` exists.

    `train` is called with the directory of the checkpoints, and with what appends rows to the journal: None
    in all processes but the first. Only the first of several processes opens the run at `directory`; all of
    them train and return what it wrote. ValueError in a process whose configuration differs from the first
    one's; otherwise raises what `Run.open` raises.
    """
    checkpoints, key = directory / "checkpoints", content_key(config)
    if not is_first_process():
        is_owed, key_of_first = _shared((True, key))
        if key_of_first != key:
            raise ValueError(
                f"process {os.environ['RANK']} was given other labels, another base or other settings than "
                "process 0; start all of them with the same files and arguments"
            )
        if is_owed:
            train(checkpoints, None)
        return _shared({})
    with Run.open(directory, command, config) as run:
        is_owed, _ = _shared((not (run.is_finished and product.exists()), key))
        if is_owed:
            run.finish(asdict(train(checkpoints, run.append)))
        shutil.rmtree(checkpoints, ignore_errors=True)
        assert run.manifest is not None, "the run has just been finished"
        return _shared(run.manifest["summary"])


def _shared(value: T) -> T:
    """The value that the first process passes, in every process; a single process does not load torch."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from forkpoint.training.loop import shared

    return shared(value)
