"""Process reward models: load one and score steps with it. Importing this file does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from forkpoint.prms.families import load_checkpoint

if TYPE_CHECKING:
    from forkpoint.prms.family import FamilyPRM
    from forkpoint.prms.tagged import TaggedPRM


def load_prm(
    path: str | Path, device: str = "auto", family: str | None = None, **options: Any
) -> TaggedPRM | FamilyPRM:
    """Load a PRM saved by `forkpoint train`, or one of a public family, from a directory or the hub.

    The family is read from the checkpoint if None, and named otherwise: forkpoint, math-shepherd, er-prm,
    rlhflow, implicit, qwen, skywork, trl, pure. `options` are those of the family: `separator` of trl and
    pure, `reference` and `beta` of implicit.
    Raises FileNotFoundError if there is no such checkpoint,
    LayoutError if it is not of the family, if its tag does not fit its tokenizer, or if its files do not tell
    the family and none is named.
    """
    return load_checkpoint(path, device, family, options)
