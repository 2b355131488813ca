"""Seam 1: whatever continues text. Each back-end is one file; `load_policy` finds the right one by name.

Invariant: importing this package loads neither torch nor transformers; a back-end's libraries are loaded when it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from forkpoint.policies.scripted import ScriptedPolicy

if TYPE_CHECKING:
    from forkpoint.checkpoint import Dtype
    from forkpoint.policies.local import LocalPolicy

LAB_POLICY = Path(__file__).parent.parent / "lab" / "policy"
SHIPPED = {"lab": LAB_POLICY, "lab-shuffle": LAB_POLICY.with_name("shuffle_policy")}
"""The tiny policies that come with the package, by the family of problems that they solve."""

__all__ = ["LAB_POLICY", "SHIPPED", "ScriptedPolicy", "checkpoint_of", "load_policy"]


def checkpoint_of(name_or_path: str | Path) -> str | Path:
    """The model directory or hub id that is meant: `lab` and `lab-shuffle` are the tiny policies that ship with the package.

    Raises FileNotFoundError where such a one is not part of the installation.
    """
    shipped = SHIPPED.get(str(name_or_path))
    if shipped is None:
        return name_or_path
    if not (shipped / "config.json").exists():
        raise FileNotFoundError(
            f"the policy {name_or_path} is not part of this installation; train it with recipes/train_lab_policy.py"
        )
    return shipped


def load_policy(
    name_or_path: str | Path,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    batch_size: int = 64,
    template: str | None = None,
    cache_bytes: int = 1 << 30,
) -> LocalPolicy:
    """The policy called `name_or_path`: `lab` and `lab-shuffle` ship with the package, all else is a model directory or hub id.

    The options are those of `LocalPolicy.load`. Raises FileNotFoundError where there is no such model.
    """
    from forkpoint.policies.local import LocalPolicy

    return LocalPolicy.load(
        checkpoint_of(name_or_path),
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        template=template,
        cache_bytes=cache_bytes,
    )
