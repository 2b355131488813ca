"""One training by one or several processes: which of them writes, and a finished training is left as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from forkpoint.content_key import content_key
from forkpoint.runs import Run

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this process is alone, or the one of those started by torchrun or accelerate that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def train_once(
    directory: Path, product: Path, command: str, config: Mapping[str, Any], train: Callable[[Path], Any]
) -> dict[str, Any]:
    """The fields of the report that `train(checkpoints)` gives, from the run `directory` where it is finished and `product` is there.

    Of several processes the first alone opens the run; all of them train, and return what it wrote. ValueError in one
    whose configuration is not that of the first, otherwise as `Run.open`.
    """
    checkpoints, key = directory / "checkpoints", content_key(config)
    if not is_first_process():
        is_owed, key_of_first = _shared((True, key))
        if key_of_first != key:
            raise ValueError(
                f"process {os.environ['RANK']} was given other labels, another base or other settings than process 0; "
                "start all of them with the same files and arguments"
            )
        if is_owed:
            train(checkpoints)
        return _shared({})
    with Run.open(directory, command, config) as run:
        is_owed, _ = _shared((not (run.is_finished and product.exists()), key))
        if is_owed:
            run.finish(asdict(train(checkpoints)))
        shutil.rmtree(checkpoints, ignore_errors=True)
        assert run.manifest is not None, "the run has just been finished"
        return _shared(run.manifest["summary"])


def _shared(value: T) -> T:
    """What the first process gives, in every process; one that is alone need not load torch for it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return value
    from forkpoint.training.loop import shared

    return shared(value)
