"""A `Scorer` for a PRM that a `forkpoint serve` serves.

Invariant: scores are those of the server, to the bit, one per step; a call returns all of them or fails as a
whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from forkpoint.errors import LayoutError, ServerError
from forkpoint.http_client import HTTPClient
from forkpoint.prms.layout import PRMFormat
from forkpoint.steps import AnchorRule

MAX_IN_FLIGHT = 4
"""Number of requests at a time; enough for the server to always have the next batch."""
OVERHEAD_BYTES = len('{"items": []}')


class RemotePRM:
    """A `Scorer` behind `forkpoint serve`; its name and format are those of the served PRM."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout_s: float = 120.0,
        retry_s: float = 300.0,
        batch_items: int = 64,
    ) -> None:
        """Ask the server about its PRM; does not wait for a server that cannot be reached.

        `timeout_s` limits one attempt at a request of up to `batch_items` solutions, `retry_s` all attempts
        after its first failure. ValueError if `url` is no address, ServerError if no forkpoint answers or the
        token is wrong.
        """
        self._http = HTTPClient(
            url, api_key=token, max_in_flight=MAX_IN_FLIGHT, timeout_s=timeout_s, retry_s=retry_s
        )
        answer = self._http.get("v1/models")
        try:
            (card,) = answer["data"]
            self.name: str = card["id"]
            fields = card["format"]
            self.format = PRMFormat(**{**fields, "rule": AnchorRule(**fields["rule"])})
            self._max_bytes: int = card["limits"]["max_body_bytes"]
            self._batch_items = min(batch_items, card["limits"]["max_items"])
        except (TypeError, KeyError, ValueError) as error:
            raise ServerError(
                f"{url} does not say which PRM it serves, as a forkpoint of this version does ({error!r})"
            ) from error

    def score(self, questions: Sequence[str], steps: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return one score in [0, 1] per step of each solution, in the order given.

        LayoutError, with the server's reason, if the PRM cannot read a solution; ServerError if the server
        refuses for another reason, or does not answer in time.
        """
        try:
            answers = self._http.ask(
                "score", list(self._batches(questions, steps)), lambda items: {"items": items}, _step_scores
            )
        except ServerError as error:
            if error.status == 422:
                raise LayoutError(str(error)) from error
            raise
        return [scores for answer in answers for scores in answer]

    def _batches(
        self, questions: Sequence[str], steps: Sequence[Sequence[str]]
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield items in bodies that the server takes; it refuses an item that alone is too long."""
        items: list[dict[str, Any]] = []
        num_bytes = OVERHEAD_BYTES
        for question, steps_S in zip(questions, steps, strict=True):
            item = {"problem": question, "steps": list(steps_S)}
            item_bytes = len(json.dumps(item)) + len(", ")
            if items and (len(items) == self._batch_items or num_bytes + item_bytes > self._max_bytes):
                yield items
                items, num_bytes = [], OVERHEAD_BYTES
            items.append(item)
            num_bytes += item_bytes
        if items:
            yield items


def _step_scores(items: Sequence[dict[str, Any]], answer: Any) -> list[list[float]]:
    """Read the scores of the items out of the server's answer. ServerError if it is not usable."""
    try:
        scores = [item["step_scores"] for item in answer["items"]]
        is_whole = [len(scores_S) for scores_S in scores] == [len(item["steps"]) for item in items]
    except (TypeError, KeyError) as error:
        raise ServerError(
            f"the server's answer holds no step scores ({error!r}); is it a forkpoint of this version?"
        ) from error
    if not is_whole:
        raise ServerError("the server gave another number of scores than there are steps")
    return scores
