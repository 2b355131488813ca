"""A PRM behind HTTP: `serve` answers, `client.RemotePRM` asks. Importing this file loads neither torch nor a web framework."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from forkpoint.errors import MissingPackageError
from forkpoint.prms.config import FamilyConfig
from forkpoint.serve.config import ServeConfig

__all__ = ["ServeConfig", "serve"]


def serve(
    prm: str | Path,
    config: ServeConfig,
    device: str = "auto",
    on_ready: Callable[[str], None] = lambda _: None,
    family: FamilyConfig = FamilyConfig(),  # noqa: B008 (frozen)
) -> None:
    """Serve a PRM, a directory or a hub id, until SIGINT or SIGTERM; what was accepted by then is still answered.

    `on_ready` gets the address once requests are taken. Raises what `load_prm` raises, MissingPackageError without the packages of
    the extra `serve`, ValueError where the token cannot be had, OSError where the address cannot.
    """
    try:
        from forkpoint.serve.server import serve_prm
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"serving needs {error.name}, which is not installed: pip install 'forkpoint[serve]'"
        ) from error
    token = config.read_token()
    serve_prm(family.load_weights(str(prm), device), config, token, on_ready)
