"""The process around the endpoints: a socket, signals, a graceful end.

Invariant: once it is asked to stop the server takes nothing new on and answers what it had accepted.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

import uvicorn

from forkpoint.serve.app import make_app
from forkpoint.serve.batching import Batcher, ServedPRM
from forkpoint.serve.config import ServeConfig
from forkpoint.serve.metrics import Metrics


class Server(uvicorn.Server):
    """Serves one PRM; `run` returns when `should_exit` is set or a signal comes, and everything accepted is answered."""

    def __init__(self, prm: ServedPRM, config: ServeConfig, token: str | None) -> None:
        metrics = Metrics()
        self.batcher = Batcher(prm, config, metrics)
        super().__init__(
            uvicorn.Config(
                make_app(prm, self.batcher, config, token, metrics),
                lifespan="off",
                log_level="warning",
                access_log=False,  # metrics count requests
                server_header=False,
                timeout_graceful_shutdown=math.ceil(config.timeout_s)
                + 1,  # by then every request has its answer
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.batcher.stop_accepting()
        await super().shutdown(sockets)


def serve_prm(
    prm: ServedPRM, config: ServeConfig, token: str | None, on_ready: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM; `on_ready` gets the address. OSError where it cannot be had."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.create_server((config.host, config.port), family=family) as listener:
        host = f"[{config.host}]" if family == socket.AF_INET6 else config.host
        on_ready(f"http://{host}:{listener.getsockname()[1]}")
        Server(prm, config, token).run(sockets=[listener])
