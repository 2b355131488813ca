"""The checks before a request is parsed: its token, the size of its body, and the time that it takes.

Invariant: nothing of a body is parsed until the token is right and the whole body has arrived within the
limits.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Container

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from forkpoint.serve.config import ServeConfig
from forkpoint.serve.metrics import Metrics
from forkpoint.serve.refusal import refuse

OPEN_PATHS = ("/health",)
"""Paths that are answered without a token."""


class Gate:
    """The checks, as ASGI middleware. It also counts requests and their times."""

    def __init__(
        self, app: ASGIApp, config: ServeConfig, token: str | None, metrics: Metrics, paths: Container[str]
    ) -> None:
        """`paths` are the paths that metrics count separately."""
        self._app, self._config, self._metrics, self._paths = app, config, metrics, paths
        self._credentials = f"Bearer {token}".encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500  # the status of an exception that is handled further out

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.count_request(path, status, time.perf_counter() - started)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._is_known(scope):
            await refuse(401, "a bearer token is needed; send the header Authorization: Bearer TOKEN")(
                scope, receive, send
            )
            return
        if scope["method"] == "POST":
            body = await self._body(receive)
            if isinstance(body, Response):
                await body(scope, receive, send)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        if self._credentials is None or scope["path"] in OPEN_PATHS:
            return True
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        return hmac.compare_digest(f"{scheme.capitalize()} {token.strip()}".encode(), self._credentials)

    async def _body(self, receive: Receive) -> bytes | Response:
        """The whole body, or a response that refuses it.

        A body that is too long is read to its end and thrown away, because a client that is still sending
        would not see the answer.
        """
        chunks: list[bytes] = []
        size, has_more = 0, True
        try:
            async with asyncio.timeout(self._config.timeout_s):
                while has_more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return Response(status_code=499)
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size <= self._config.max_body_bytes:
                        chunks.append(chunk)
                    else:
                        chunks.clear()
                    has_more = message.get("more_body", False)
        except TimeoutError:
            return refuse(408, f"the body did not arrive within {self._config.timeout_s:g} s")
        if size > self._config.max_body_bytes:
            return refuse(
                413,
                f"the body has {size} bytes, more than the {self._config.max_body_bytes} that are taken; "
                "send fewer items",
            )
        return b"".join(chunks)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that first returns the body that was already read, then continues with the given one."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
