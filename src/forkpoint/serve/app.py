"""The endpoints of the server, which pass solutions to the batcher and answer with its scores.

Invariant: a request is answered completely, or refused with a reason. However it ends, nothing of it stays in
the queue. Bad input is never a server error.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Annotated

from fastapi import Body, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from forkpoint.errors import LayoutError
from forkpoint.select import Aggregate, aggregate
from forkpoint.serve.batching import Batcher, QueueFull, ScoringFailed, ServedPRM, StepScores, Stopping
from forkpoint.serve.config import ServeConfig
from forkpoint.serve.gate import Gate
from forkpoint.serve.metrics import Metrics
from forkpoint.serve.refusal import declared, refuse
from forkpoint.serve.wire import (
    MAX_ITEMS,
    MAX_LINE_ENDS,
    MAX_STEPS,
    TAGS,
    Document,
    GivenSolution,
    GivenSteps,
    Health,
    Limits,
    ModelCard,
    ModelList,
    Ranked,
    Reranked,
    RerankRequest,
    Scored,
    ScoredItems,
    ScoredSolution,
    ScoreItems,
    ScoreRequest,
    ScoringOptions,
    Usage,
)
from forkpoint.steps import Segmentation, newline_steps
from forkpoint.version import __version__

logger = logging.getLogger(__name__)
ASKED = declared(400, 401, 404, 408, 413, 422, 429, 500, 503, 504)
"""The refusals of a request for scores."""

EXPOSED = {
    200: {"description": "All counters.", "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}},
    **declared(401),
}


class OtherModel(ValueError):
    """The request names a model that is not served."""


class ClientGone(ConnectionError):
    """The client has closed the connection."""


def make_app(
    prm: ServedPRM, batcher: Batcher, config: ServeConfig, token: str | None, metrics: Metrics
) -> FastAPI:
    """The ASGI application; `batcher` scores with `prm`."""
    # for the OpenAPI description only; the gate checks the token
    security = [Security(HTTPBearer(auto_error=False))] if token is not None else []
    app = FastAPI(
        title="forkpoint",
        version=__version__,
        description="Step scores of a process reward model.",
        docs_url=None,
        redoc_url=None,
    )
    service = Service(prm, batcher, config)
    started = int(time.time())

    @app.get("/health", responses=declared(503))
    async def health() -> Health:
        """Whether the server accepts requests; needs no token."""
        if not batcher.is_ready:
            raise Stopping("the server is stopping")
        return Health(model=prm.name)

    @app.get("/metrics", dependencies=security, response_class=Response, responses=EXPOSED)
    async def exposition() -> Response:
        """Counters, in the text format of Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", dependencies=security, responses=declared(401))
    async def models() -> ModelList:
        """The model that is served, what it reads, and what a request may ask for."""
        limits = Limits(max_items=MAX_ITEMS, max_steps=MAX_STEPS, max_body_bytes=config.max_body_bytes)
        return ModelList(data=[ModelCard(id=prm.name, created=started, format=prm.format, limits=limits)])

    @app.post("/score", dependencies=security, responses=ASKED)
    async def score(asked: Annotated[ScoreRequest, Body()], request: Request) -> ScoredSolution | ScoredItems:
        """Score the steps of one solution, or of each of `items`."""
        return await service.score(asked, request)

    @app.post("/v1/rerank", dependencies=security, responses=ASKED, response_model_exclude_none=True)
    async def rerank(asked: RerankRequest, request: Request) -> Reranked:
        """Order solutions of a problem by their scores, best first."""
        return await service.rerank(asked, request)

    _declare_refusals(app)
    app.add_middleware(
        Gate, config=config, token=token, metrics=metrics, paths=frozenset(app.openapi()["paths"])
    )
    return app


class Service:
    """Answers requests for scores."""

    def __init__(self, prm: ServedPRM, batcher: Batcher, config: ServeConfig) -> None:
        self._prm, self._batcher, self._config = prm, batcher, config

    async def score(self, asked: ScoreRequest, request: Request) -> ScoredSolution | ScoredItems:
        how = self._aggregate(asked)
        if isinstance(asked, ScoreItems):
            given = [(f"items.{idx}: ", item.problem, item) for idx, item in enumerate(asked.items)]
        else:
            given = [("", asked.problem, asked)]
        named = await asyncio.to_thread(_all_cut, given, self._prm.format.segmentation)
        found = [
            Scored(steps=list(steps), step_scores=result.scores, score=aggregate(result.scores, how))
            for (_, _, steps), result in zip(named, await self._scores(named, request), strict=True)
        ]
        if isinstance(asked, ScoreItems):
            return ScoredItems(items=found, aggregate=how, model=self._prm.name)
        return ScoredSolution(**found[0].model_dump(), aggregate=how, model=self._prm.name)

    async def rerank(self, asked: RerankRequest, request: Request) -> Reranked:
        how = self._aggregate(asked)
        given = [(f"documents.{idx}: ", asked.query, text) for idx, text in enumerate(asked.documents)]
        named = await asyncio.to_thread(_all_cut, given, self._prm.format.segmentation)
        found = await self._scores(named, request)
        ranked = [
            Ranked(
                index=idx,
                relevance_score=aggregate(result.scores, how),
                document=Document(text=asked.documents[idx]) if asked.return_documents else None,
            )
            for idx, result in enumerate(found)
        ]
        ranked.sort(key=lambda entry: -entry.relevance_score)  # a stable sort: ties keep their order
        usage = Usage(total_tokens=sum(result.num_tokens for result in found))
        return Reranked(model=self._prm.name, results=ranked[: asked.top_n], usage=usage)

    def _aggregate(self, asked: ScoringOptions) -> Aggregate:
        """The aggregate to use. Raises OtherModel if the request names another model."""
        if asked.model not in (None, self._prm.name):
            raise OtherModel(
                f"the model {asked.model!r} is not served here; ask for {self._prm.name!r}, or for none"
            )
        return asked.aggregate or self._prm.format.aggregate

    async def _scores(
        self, named: Sequence[tuple[str, str, Sequence[str]]], request: Request
    ) -> list[StepScores]:
        """The scores of solutions, each given as (its name in messages, problem, steps).

        Raises LayoutError with the name of the first solution that the PRM cannot read, TimeoutError if the
        scores are late, and ClientGone if the client has left. In all cases nothing stays in the queue.
        """
        futures = self._batcher.submit((problem, steps) for _, problem, steps in named)

        async def settled() -> list[StepScores]:
            found = []
            for (name, _, _), future in zip(named, futures, strict=True):
                try:
                    found.append(await asyncio.wrap_future(future))
                except LayoutError as error:
                    raise LayoutError(f"{name}{error}") from error
            return found

        scoring, leaving = asyncio.create_task(settled()), asyncio.create_task(_leaving(request))
        try:
            done, _ = await asyncio.wait(
                (scoring, leaving), timeout=self._config.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if scoring in done:
                return scoring.result()
            if leaving in done:
                raise ClientGone
            raise TimeoutError(
                f"the scores were not there within {self._config.timeout_s:g} s; "
                "ask for less at once, or later"
            )
        finally:
            scoring.cancel()
            leaving.cancel()
            self._batcher.drop(futures)


def _all_cut(
    given: Sequence[tuple[str, str, GivenSteps | GivenSolution | str]], segmentation: Segmentation
) -> list[tuple[str, str, Sequence[str]]]:
    """The solutions of a request in steps, each as (its name in messages, problem, steps)."""
    return [(name, problem, steps_of(solution, segmentation)) for name, problem, solution in given]


def steps_of(given: GivenSteps | GivenSolution | str, segmentation: Segmentation) -> Sequence[str]:
    """The given steps, or the steps of a text, cut as in the training data of the PRM."""
    if isinstance(given, GivenSteps):
        return given.steps
    return cut(given if isinstance(given, str) else given.solution, segmentation)


def cut(text: str, segmentation: Segmentation) -> Sequence[str]:
    """The steps of a text.

    Raises LayoutError if the text does not determine them, or if there are too many.
    """
    if segmentation == "entropy":
        raise LayoutError(
            "this PRM was trained on entropy steps, which cannot be read off a text; give `steps` to /score"
        )
    num_line_ends = text.count("\n") + text.count("\r")
    if num_line_ends > MAX_LINE_ENDS:
        raise LayoutError(f"the solution has {num_line_ends} line ends; {MAX_LINE_ENDS} are taken at most")
    steps = newline_steps(text) if segmentation == "newline" else (text,)
    if len(steps) > MAX_STEPS:
        raise LayoutError(f"the solution has {len(steps)} lines, each a step; {MAX_STEPS} are taken at most")
    return steps


async def _leaving(request: Request) -> None:
    """Return when the client has left. The body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _declare_refusals(app: FastAPI) -> None:
    """Register the responses to exceptions."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return refuse(422, "; ".join(_told(problem["loc"], problem["msg"]) for problem in error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        response = refuse(error.status_code, str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientGone)
    async def gone(_: Request, error: ClientGone) -> Response:
        return Response(status_code=499)

    @app.exception_handler(ScoringFailed)
    async def failed(_: Request, error: ScoringFailed) -> Response:
        return refuse(500, str(error), error.id)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        error_id = uuid.uuid4().hex[:12]
        # the server logs the exception itself
        logger.error("answering %s failed, id %s", request.url.path, error_id)
        return refuse(500, "the server failed", error_id)

    for kind, status in (
        (OtherModel, 404),
        (LayoutError, 422),
        (QueueFull, 429),
        (Stopping, 503),
        (TimeoutError, 504),
    ):
        app.add_exception_handler(kind, lambda _, error, status=status: refuse(status, str(error)))


def _told(place: Sequence[str | int], message: str) -> str:
    """A sentence that says which part of a body is wrong, and how."""
    path = ".".join(str(part) for part in place if part not in TAGS)
    return f"{path}: {message}"
