"""The JSON of requests and answers.

Invariant: a field that is not declared here is refused, never ignored. The numbers in answers are exactly
those of the PRM.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from forkpoint.prms.layout import PRMFormat
from forkpoint.row_files import is_unicode
from forkpoint.select import Aggregate

MAX_STEPS = 1024
MAX_LINE_ENDS = 32 * MAX_STEPS
"""The most line ends of a solution given as one text, which are counted before it is cut; empty lines are no
steps."""
MAX_ITEMS = 256
TAGS = frozenset({"<steps>", "<solution>", "<items>"})
"""The names of alternatives, which are not part of the JSON."""


def _text(text: str) -> str:
    # JSON can express half of a surrogate pair, but no tokenizer can read it
    if not is_unicode(text):
        raise ValueError("half of a surrogate pair is no unicode text")
    return text


Text = Annotated[str, AfterValidator(_text)]


class Wire(BaseModel):
    """One JSON object."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class GivenSteps(Wire):
    """A solution that is already cut into steps."""

    problem: Text
    steps: list[Text] = Field(min_length=1, max_length=MAX_STEPS)
    """The steps, which joined are the solution: line ends belong to the steps."""


class GivenSolution(Wire):
    """A solution as one text, which is cut like the training data of the PRM: at line ends, or not at all."""

    problem: Text
    solution: Text


class ScoringOptions(Wire):
    """The options of every request for scores."""

    aggregate: Aggregate | None = None
    """How step scores become one score; the default is the aggregate that the PRM was saved with."""
    model: str | None = None
    """The name of the model. If it is given, it must be the one that is served."""


class ScoreSteps(GivenSteps, ScoringOptions):
    """Score a solution that is already cut into steps."""


class ScoreSolution(GivenSolution, ScoringOptions):
    """Score a solution as one text."""


def _kind(value: Any) -> str:
    """The name of the alternative that a value is meant to be; the value is JSON or a model."""
    keys = (
        value if isinstance(value, dict) else type(value).model_fields if isinstance(value, BaseModel) else ()
    )
    return next((f"<{key}>" for key in ("items", "solution") if key in keys), "<steps>")


GivenItem = Annotated[
    Annotated[GivenSteps, Tag("<steps>")] | Annotated[GivenSolution, Tag("<solution>")], Discriminator(_kind)
]


class ScoreItems(ScoringOptions):
    """Score many solutions."""

    items: list[GivenItem] = Field(min_length=1, max_length=MAX_ITEMS)


ScoreRequest = Annotated[
    Annotated[ScoreSteps, Tag("<steps>")]
    | Annotated[ScoreSolution, Tag("<solution>")]
    | Annotated[ScoreItems, Tag("<items>")],
    Discriminator(_kind),
]


class Scored(Wire):
    """A solution with its scores."""

    steps: list[str]
    step_scores: list[Annotated[float, Field(ge=0, le=1)]]
    """One score per step."""
    score: float = Field(ge=0, le=1)
    """The aggregate of the step scores."""


class ScoredSolution(Scored):
    """The answer to a request for one solution."""

    aggregate: Aggregate
    model: str


class ScoredItems(Wire):
    """The answer to a request for many solutions, in the order of the request."""

    items: list[Scored]
    aggregate: Aggregate
    model: str


class RerankRequest(ScoringOptions):
    """Order solutions of a problem by their scores, in the form of the API of Jina and Cohere, version 1."""

    query: Text
    """The problem."""
    documents: list[Text] = Field(min_length=1, max_length=MAX_ITEMS)
    """The solutions, each as one text."""
    top_n: int | None = Field(None, ge=1)
    """The number of results to return; the default is all."""
    return_documents: bool = False
    """Whether results contain the solutions."""


class Document(Wire):
    """A solution as it was given."""

    text: str


class Ranked(Wire):
    """A solution in the ranking."""

    index: int
    """The index of the solution among the documents of the request."""
    relevance_score: float = Field(ge=0, le=1)
    """The aggregate of its step scores."""
    document: Document | None = None


class Usage(Wire):
    """The cost of an answer."""

    total_tokens: int
    """Tokens that the PRM read."""


class Reranked(Wire):
    """The ranking, best first; equal solutions in the order of the request."""

    model: str
    results: list[Ranked]
    usage: Usage


class Limits(Wire):
    """The limits of one request."""

    max_items: int
    max_steps: int
    max_body_bytes: int


class ModelCard(Wire):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """The time at which the server was started, in seconds since 1970."""
    owned_by: Literal["forkpoint"] = "forkpoint"
    format: PRMFormat
    """The fields of `forkpoint.prms.layout.PRMFormat`."""
    limits: Limits


class ModelList(Wire):
    """The models that are served; there is one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Wire):
    """The server accepts requests."""

    status: Literal["ready"] = "ready"
    model: str
