"""The process around the endpoints: the socket, signals and a graceful shutdown.

Invariant: once it is asked to stop, the server accepts nothing new and answers what it has accepted.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

import uvicorn

from forkpoint.serve.app import make_app
from forkpoint.serve.batching import Batcher, ServedPRM
from forkpoint.serve.config import ServeConfig
from forkpoint.serve.connection import timed_protocol
from forkpoint.serve.metrics import Metrics


class Server(uvicorn.Server):
    """Serves one PRM.

    `run` returns after `should_exit` is set or a signal arrives, when everything that was accepted is
    answered.
    """

    def __init__(self, prm: ServedPRM, config: ServeConfig, token: str | None) -> None:
        metrics = Metrics()
        self.batcher = Batcher(prm, config, metrics)
        super().__init__(
            uvicorn.Config(
                make_app(prm, self.batcher, config, token, metrics),
                http=timed_protocol(config.timeout_s),
                lifespan="off",
                log_level="warning",
                access_log=False,  # metrics count requests
                server_header=False,
                # by then every request has its answer
                timeout_graceful_shutdown=math.ceil(config.timeout_s) + 1,
            )
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.batcher.stop_accepting()
        await super().shutdown(sockets)


def serve_prm(
    prm: ServedPRM, config: ServeConfig, token: str | None, on_ready: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM.

    `on_ready` is called with the address; raises OSError if it cannot be used.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.create_server((config.host, config.port), family=family) as listener:
        host = f"[{config.host}]" if family == socket.AF_INET6 else config.host
        on_ready(f"http://{host}:{listener.getsockname()[1]}")
        Server(prm, config, token).run(sockets=[listener])
