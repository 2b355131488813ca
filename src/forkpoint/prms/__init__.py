"""Process reward models: load one, score steps with it. Importing this file does not import torch."""

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
    """The PRM in a directory, or of that name on the hub: one saved by `forkpoint train`, or of a public family.

    The family is read from the checkpoint, or named: forkpoint, math-shepherd, er-prm, rlhflow, implicit, qwen, skywork,
    trl, pure. `options` are those of the family: `separator` of trl and pure, `reference` and `beta` of implicit.
    Raises FileNotFoundError where there is no such checkpoint, LayoutError where it is not of the family, its tag does not
    fit its tokenizer, or its files do not tell the family and none is named.
    """
    return load_checkpoint(path, device, family, options)
