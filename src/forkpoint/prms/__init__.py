"""Process reward models: load one, score steps with it. Importing this file does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forkpoint.prms.tagged import TaggedPRM


def load_prm(path: str | Path, device: str = "auto") -> TaggedPRM:
    """The PRM saved in a directory by `forkpoint train`.

    Raises FileNotFoundError where the directory is missing, LayoutError where it holds no PRM of ours or its tag does
    not fit its tokenizer.
    """
    if not Path(path).is_dir():
        raise FileNotFoundError(f"there is no PRM directory {path}; train one with `forkpoint train`")
    from forkpoint.prms.tagged import TaggedPRM

    return TaggedPRM.load(path, device)
