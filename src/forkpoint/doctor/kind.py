"""Tell which kind a path or a hub id is: a PRM, a data file or a policy, or the name `sandbox`.

Invariant: a language model is a policy unless its files or its published name say that it is a PRM (see
`families`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from forkpoint.checkpoint import read_json_object
from forkpoint.errors import LayoutError
from forkpoint.formats.containers import HUB, SUFFIXES
from forkpoint.formats.labels_file import LABELS
from forkpoint.policies import SHIPPED
from forkpoint.policies.gguf_file import is_gguf

Kind = Literal["prm", "data", "policy", "sandbox"]
KINDS: tuple[Kind, ...] = ("prm", "data", "policy", "sandbox")


def kind_of(path_or_id: str) -> Kind:
    """Return the kind.

    Raises FileNotFoundError if there is nothing, ValueError if it is of no kind.
    """
    path = Path(path_or_id)
    if path_or_id.startswith(HUB) or path.suffix in SUFFIXES or (path / LABELS).is_file():
        return "data"
    if path_or_id == "sandbox" and not path.exists():
        return "sandbox"
    if path_or_id in SHIPPED:
        return "policy"
    if is_gguf(path_or_id):
        return "policy"
    if path.is_file():
        raise ValueError(f"{path_or_id} is neither a model directory nor a data file ({', '.join(SUFFIXES)})")
    from forkpoint.doctor.reader import directory_of
    from forkpoint.prms.families import recognise

    directory = directory_of(path_or_id)
    try:
        recognise(directory, path.name)
    except LayoutError:
        if (directory / "config.json").is_file():
            architectures = read_json_object(directory / "config.json").get("architectures") or []
            if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures):
                return "policy"
        raise ValueError(
            f"the files of {path_or_id} do not say whether it is a PRM, a data file or a policy; "
            f"give --kind, one of {', '.join(KINDS)}"
        ) from None
    return "prm"
