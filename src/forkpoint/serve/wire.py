"""The JSON that goes over the wire, both ways.

Invariant: what is not declared here is refused, never ignored; numbers that come back are those that the PRM gave, to the bit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from forkpoint.prms.layout import PRMFormat
from forkpoint.select import Aggregate

MAX_STEPS = 1024
MAX_ITEMS = 256
TAGS = frozenset({"<steps>", "<solution>", "<items>"})
"""Names of alternatives; they are no part of the JSON."""


def _text(text: str) -> str:
    if any(
        "\ud800" <= character <= "\udfff" for character in text
    ):  # which JSON can say and no tokenizer can read
        raise ValueError("half of a surrogate pair is no unicode text")
    return text


Text = Annotated[str, AfterValidator(_text)]


class Wire(BaseModel):
    """One JSON object."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class GivenSteps(Wire):
    """A solution that is cut into steps."""

    problem: Text
    steps: list[Text] = Field(min_length=1, max_length=MAX_STEPS)
    """Joined they are the solution: line ends belong to the steps."""


class GivenSolution(Wire):
    """A solution to be cut as the PRM's training data was: at line ends, or not at all."""

    problem: Text
    solution: Text


class ScoringOptions(Wire):
    """How scores are asked for."""

    aggregate: Aggregate | None = None
    """What makes one score of the steps'; without it, what the PRM was saved with."""
    model: str | None = None
    """Where it is given, the name of the model that is served."""


class ScoreSteps(GivenSteps, ScoringOptions):
    """Score a solution that is cut into steps."""


class ScoreSolution(GivenSolution, ScoringOptions):
    """Score a solution as one text."""


def _kind(value: Any) -> str:
    """The alternative that a value, JSON or a model, is meant to be."""
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
    """One per step."""
    score: float = Field(ge=0, le=1)
    """The aggregate."""


class ScoredSolution(Scored):
    """The answer about one solution."""

    aggregate: Aggregate
    model: str


class ScoredItems(Wire):
    """The answer about many solutions, in the order in which they were given."""

    items: list[Scored]
    aggregate: Aggregate
    model: str


class RerankRequest(ScoringOptions):
    """Order solutions of a problem by their scores (the shape of Jina's and Cohere's API, version 1)."""

    query: Text
    """The problem."""
    documents: list[Text] = Field(min_length=1, max_length=MAX_ITEMS)
    """Its solutions, each as one text."""
    top_n: int | None = Field(None, ge=1)
    """How many results come back; without it, all."""
    return_documents: bool = False


class Document(Wire):
    """A solution as it was given."""

    text: str


class Ranked(Wire):
    """Where a solution stands."""

    index: int
    """Among the documents that were given."""
    relevance_score: float = Field(ge=0, le=1)
    """The aggregate of its step scores."""
    document: Document | None = None


class Usage(Wire):
    """What an answer took."""

    total_tokens: int
    """Tokens that the PRM read."""


class Reranked(Wire):
    """Solutions, best first; of equals the one that was given first."""

    model: str
    results: list[Ranked]
    usage: Usage


class Limits(Wire):
    """What one request may ask for."""

    max_items: int
    max_steps: int
    max_body_bytes: int


class ModelCard(Wire):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When the server was started, in seconds since 1970."""
    owned_by: Literal["forkpoint"] = "forkpoint"
    format: PRMFormat
    """What `forkpoint.prms.layout.PRMFormat` holds."""
    limits: Limits


class ModelList(Wire):
    """The models that are served: one."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(Wire):
    """Requests are taken."""

    status: Literal["ready"] = "ready"
    model: str
