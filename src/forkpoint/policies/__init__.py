"""Policies: language models that continue token prefixes (the protocol `records.Policy`).

Each engine is one file: `local` (transformers), `vllm`, `openai` (a server), and `scripted`, the test double.
`PolicyConfig` in `config` chooses among them; `load_policy` loads a model with transformers.
To write an engine, derive from `checkpoint_policy.CheckpointPolicy`, which does everything that concerns
text.
Invariant: importing this package loads neither torch nor transformers; the libraries of an engine are loaded
with its file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from forkpoint.policies.gguf_file import model_directory
from forkpoint.policies.scripted import ScriptedPolicy

if TYPE_CHECKING:
    from forkpoint.checkpoint import Dtype
    from forkpoint.policies.local import LocalPolicy
    from forkpoint.policies.prompt import Prompt

LAB_POLICY = Path(__file__).parent.parent / "lab" / "policy"
SHIPPED = {"lab": LAB_POLICY, "lab-shuffle": LAB_POLICY.with_name("shuffle_policy")}
"""The tiny policies that ship with the package, under the names of the problems that they solve."""

__all__ = ["LAB_POLICY", "SHIPPED", "ScriptedPolicy", "checkpoint_of", "load_policy", "path_of"]


def checkpoint_of(name_or_path: str | Path) -> str | Path:
    """The model directory or hub id of a name.

    `lab` and `lab-shuffle` are the tiny policies that ship with the package; a GGUF file is unpacked into a
    directory of the cache; all other names stay as they are. Raises FileNotFoundError if a shipped policy is
    missing from this installation, and what `gguf_file.unpacked` raises.
    """
    return model_directory(path_of(name_or_path))


def path_of(name_or_path: str | Path) -> str | Path:
    """As `checkpoint_of`, but a GGUF file stays as it is."""
    shipped = SHIPPED.get(str(name_or_path))
    if shipped is None:
        return name_or_path
    if not (shipped / "config.json").exists():
        raise FileNotFoundError(
            f"the policy {name_or_path} is not part of this installation; "
            "train it with recipes/train_lab_policy.py"
        )
    return shipped


def load_policy(
    name_or_path: str | Path,
    *,
    device: str = "auto",
    dtype: Dtype = "auto",
    batch_size: int = 64,
    template: Prompt = None,
    cache_bytes: int = 1 << 30,
) -> LocalPolicy:
    """Load a policy with transformers, from `lab`, `lab-shuffle`, a model directory, a GGUF file or a hub id.

    The options are those of `LocalPolicy.load`. Raises FileNotFoundError if there is no such model.
    """
    from forkpoint.policies.local import LocalPolicy

    return LocalPolicy.load(
        path_of(name_or_path),
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        template=template,
        cache_bytes=cache_bytes,
    )
