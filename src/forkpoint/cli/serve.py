"""`forkpoint serve`: step scores over HTTP."""

from __future__ import annotations

from typing import Annotated

from forkpoint.checkpoint import Device
from forkpoint.cli.app import Flat, app
from forkpoint.cli.console import quiet_libraries, say
from forkpoint.prms.config import FamilyConfig
from forkpoint.serve import ServeConfig
from forkpoint.serve import serve as serve_prm


@app.command
def serve(
    prm: str,
    *,
    config: Annotated[ServeConfig, Flat] = ServeConfig(),
    family: Annotated[FamilyConfig, Flat] = FamilyConfig(),
    device: Device = "auto",
) -> int:
    """Serve step scores over HTTP until stopped; see docs/how-to/serve.md.

    Parameters
    ----------
    prm
        A directory made by `forkpoint train`, or a public PRM (a directory or a hub id).
    """
    quiet_libraries()
    serve_prm(prm, config, device, lambda url: say(f"serving {prm} at {url}"), family)
    return 0
