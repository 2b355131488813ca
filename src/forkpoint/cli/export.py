"""`forkpoint export`: a trained PRM in a layout that other engines serve."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from forkpoint.cli.app import app
from forkpoint.cli.console import out_console, quiet_libraries


@app.command
def export(prm: Path, *, to: Literal["qwen"] = "qwen", out: Path) -> int:
    """Save a PRM made by `forkpoint train` in the layout of Qwen2.5-Math-PRM, which stock vLLM serves.

    The scores stay the same.

    Parameters
    ----------
    prm
        The PRM; its base must be a Qwen2 model.
    to
        The layout.
    out
        A directory that is empty or does not exist.
    """
    quiet_libraries()
    from forkpoint.prms.export import save_as_qwen
    from forkpoint.prms.tagged import TaggedPRM

    save_as_qwen(TaggedPRM.load(prm, "cpu"), out)
    out_console.print(f"Written: {out}", highlight=False, soft_wrap=True)
    return 0
