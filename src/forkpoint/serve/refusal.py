"""The refusal of a request: a status, and a JSON body with the reason."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

MAX_CHARACTERS = 500
RETRY_AFTER_S = 1


class Refusal(BaseModel):
    """The reason why a request was not answered."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    detail: str
    """What was given, what is accepted, what to do."""
    id: str | None = None
    """If the server failed, the id under which its log has the reason."""


REASONS = {
    400: "The body is not JSON that can be read.",
    401: "The bearer token is missing or wrong.",
    404: "The request names another model than the one that is served.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    422: "The body does not have the expected form, or the PRM cannot read the solution.",
    429: "Too many solutions are waiting; try again after the given number of seconds.",
    500: "The PRM failed; the server's log has the reason under the id.",
    503: "The server is stopping.",
    504: "The scores were not there in time; solutions that were still waiting were dropped.",
}
_HEADERS = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}},
    429: {"Retry-After": {"schema": {"type": "integer", "minimum": 0}, "required": True}},
    503: {"Retry-After": {"schema": {"type": "integer", "minimum": 0}, "required": True}},
}


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of an endpoint, for its OpenAPI description."""
    return {
        status: {"model": Refusal, "description": REASONS[status]}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status in statuses
    }


def refuse(status: int, detail: str, error_id: str | None = None) -> JSONResponse:
    """The response that refuses a request.

    `detail` may contain text from the client: it is cut if it is long, and what is not a Unicode character is
    replaced.
    """
    sentence = detail.encode("utf-8", "replace").decode()
    if len(sentence) > MAX_CHARACTERS:
        sentence = sentence[:MAX_CHARACTERS] + " .."
    headers = {
        401: {"WWW-Authenticate": "Bearer"},
        429: {"Retry-After": str(RETRY_AFTER_S)},
        503: {"Retry-After": str(RETRY_AFTER_S)},
    }
    return JSONResponse(
        Refusal(detail=sentence, id=error_id).model_dump(exclude_none=True), status, headers.get(status)
    )
