"""Serve a PRM over HTTP; the client is `prms.remote.RemotePRM`.

Importing this file loads neither torch nor a web framework.
"""

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
    """Serve a PRM, a directory or a hub id, until SIGINT or SIGTERM.

    Requests that were accepted by then are still answered. `on_ready` is called with the address once the
    server accepts requests. Raises whatever `load_prm` raises, MissingPackageError if the packages of the
    extra `serve` are not installed, ValueError if the token cannot be read, and OSError if the address cannot
    be used.
    """
    try:
        from forkpoint.serve.server import serve_prm
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"serving needs {error.name}, which is not installed: pip install 'forkpoint[serve]'"
        ) from error
    token = config.read_token()
    serve_prm(family.load_weights(str(prm), device), config, token, on_ready)
