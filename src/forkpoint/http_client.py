"""JSON over HTTP to one server: many requests at a time, sent again after failures that may pass.

Invariant: `ask` returns one answer per question, in their order, or raises; a failed attempt leaves nothing
behind. At most `max_in_flight` requests are open at any time, whoever asks, and the API key appears in no
message and in no file.
This file knows nothing of models: callers write the requests and read the answers.
"""

from __future__ import annotations

import asyncio
import random
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from forkpoint.checks import check_at_least
from forkpoint.errors import ServerError

CONNECT_TIMEOUT_S = 10.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 10.0
"""Pauses between attempts double from the first to the longest; each is shortened at random, to half at
most."""
BUSY_STATUSES = frozenset([408, 429])
"""Statuses of a healthy server that may take the request later; every status from 500 on may pass as well."""

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Unanswered(Exception):
    """A request has no answer yet, and may succeed if it is sent again."""

    def __init__(self, reason: str, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class HTTPClient:
    """Connections to one server, kept open between requests; any number of threads may use them.

    If an `ask` is stopped (Ctrl-C), or one of its questions fails for good, the connections of all its other
    questions are closed, so that a server that watches for this stops working on them.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        max_in_flight: int = 32,
        timeout_s: float = 600.0,
        retry_s: float = 300.0,
    ) -> None:
        """`timeout_s` limits one attempt, from connecting to the last byte.

        `retry_s` limits all attempts after the first failure of a question.

        ValueError if the URL or a setting cannot be used.
        """
        url = _checked(base_url)
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ValueError(
                "the API key holds a line break or another character that cannot be sent; "
                "check where it was copied from"
            )
        check_at_least(1, max_in_flight=max_in_flight)
        if timeout_s <= 0 or retry_s < 0:
            raise ValueError(
                f"timeout_s must be above 0 and retry_s at least 0; {timeout_s} and {retry_s} were given"
            )
        self._url, self._api_key, self._timeout_s, self._retry_s = url, api_key, timeout_s, retry_s
        self._open = asyncio.Semaphore(max_in_flight)
        self._jitter = random.Random()
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_keepalive_connections=max_in_flight),
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(
            target=_run, args=(self._loop, self._http), name=f"requests to {url.host}", daemon=True
        ).start()
        weakref.finalize(self, self._loop.call_soon_threadsafe, self._loop.stop)

    def get(self, path: str) -> Any:
        """Return the answer of the server, asked once; ServerError if there is none."""
        try:
            return self._wait_for(self._attempt("GET", path))
        except Unanswered as reason:
            raise ServerError(
                f"{self._url.join(path)} gives no answer: {reason}; "
                "is the server up, and is this its address?"
            ) from reason

    def ask(
        self,
        path: str,
        questions: Sequence[Question],
        write: Callable[[Question], dict[str, Any]],
        read: Callable[[Question, Any], Answer],
    ) -> list[Answer]:
        """Return one answer per question.

        `write` makes the JSON of the request, and `read` makes an answer of the JSON that the server returns.

        `read` raises Unanswered if the JSON is no answer yet. After a time-out, a lost connection, an answer
        that is cut short, or one of the statuses 408, 429 and 5xx, the request is sent again after a pause
        (at least as long as a Retry-After asks for), until `retry_s` seconds have passed since the first
        failure of the question. ServerError then, and at once for every other status.
        """
        return self._wait_for(self._ask_all(path, questions, write, read))

    def _wait_for(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # if this thread was interrupted; a finished future ignores it

    async def _ask_all(
        self,
        path: str,
        questions: Sequence[Question],
        write: Callable[[Question], dict[str, Any]],
        read: Callable[[Question, Any], Answer],
    ) -> list[Answer]:
        tasks = [asyncio.create_task(self._ask(path, question, write, read)) for question in questions]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(
        self,
        path: str,
        question: Question,
        write: Callable[[Question], dict[str, Any]],
        read: Callable[[Question, Any], Answer],
    ) -> Answer:
        first_failure_s: float | None = None
        pause_s, num_attempts = FIRST_PAUSE_S, 0
        async with self._open:
            while True:
                num_attempts += 1
                try:
                    return read(question, await self._attempt("POST", path, write(question)))
                except Unanswered as reason:
                    now_s = self._loop.time()
                    first_failure_s = now_s if first_failure_s is None else first_failure_s
                    wait_s = max(pause_s * self._jitter.uniform(0.5, 1.0), reason.retry_after_s)
                    if now_s + wait_s > first_failure_s + self._retry_s:
                        raise ServerError(
                            f"{self._url.join(path)} gave no answer in {num_attempts} attempts, the last "
                            f"{now_s - first_failure_s:.0f} s after the first failed "
                            f"({self._retry_s:g} s are allowed): {reason}"
                        ) from reason
                    await asyncio.sleep(wait_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _attempt(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one request and return the JSON of its answer.

        Raises Unanswered if another attempt may succeed, else ServerError.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._http.request(method, path, json=body)
        except TimeoutError as error:
            raise Unanswered(f"nothing came within {self._timeout_s:g} s") from error
        except httpx2.RequestError as error:
            raise Unanswered(f"{type(error).__name__}: {error}") from error
        if response.status_code in BUSY_STATUSES or response.status_code >= 500:
            raise Unanswered(
                f"status {response.status_code}: {self._message(response)}", _retry_after_s(response)
            )
        if not response.is_success:
            raise ServerError(
                f"{response.url} refused with status {response.status_code}: {self._message(response)}",
                response.status_code,
            )
        try:
            return response.json()
        except ValueError as error:
            raise Unanswered("the answer is not JSON, or was cut short") from error

    def _message(self, response: httpx2.Response) -> str:
        """Return the server's message about a failure, with the API key blotted out in case it is quoted."""
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = response.text
        return (message.replace(self._api_key, "***") if self._api_key else message)[
            :500
        ] or response.reason_phrase


def _checked(base_url: str) -> httpx2.URL:
    """Return the URL, ending in a slash so that paths can be joined to it."""
    try:
        url = httpx2.URL(base_url.rstrip("/") + "/")
    except httpx2.InvalidURL as error:
        raise ValueError(
            f"server {base_url!r} is no address ({error}); one like http://localhost:8000 is needed"
        ) from error
    if url.userinfo:
        raise ValueError(
            "the server's address holds a user name or password, which would be shown and stored; "
            "use an API key instead"
        )
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ValueError(f"server {base_url!r} is no address; one like http://localhost:8000 is needed")
    return url


def _run(loop: asyncio.AbstractEventLoop, http: httpx2.AsyncClient) -> None:
    """Run the loop of a client's thread.

    It holds no reference to the client, so that a client no longer used can end it.
    """
    loop.run_forever()
    loop.run_until_complete(http.aclose())
    loop.close()


def _retry_after_s(response: httpx2.Response) -> float:
    """Return the seconds that a server asks to wait, given as seconds or a date (RFC 9110, 10.2.3).

    Returns 0 if it asks for none.
    """
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
