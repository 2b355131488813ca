"""Read `results.json`, the measurements of a run, into records.

Invariant: accuracies, differences and their 95 % intervals are fractions, not percentages. Missing optional
values are None or empty; a missing required value is a ValueError that names the key. Nothing is computed
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from forkpoint.report.fields import Fields, read_json


@dataclass(frozen=True, slots=True)
class ResultRow:
    """The accuracy of one way to answer: a sampler, n solutions, and a rule that selects one of them."""

    sampler: str
    temperature: float | None
    select: str
    aggregate: str | None
    n: int
    accuracy: float
    ci_low: float
    ci_high: float
    num_problems: int
    tokens: float | None
    """Sampled tokens per problem."""

    @property
    def sampler_name(self) -> str:
        """The sampler with its temperature, if it has one: `HT T = 0.7` or `EDU`."""
        name = self.sampler.upper()
        return name if not self.temperature else f"{name} T\u00a0=\u00a0{self.temperature:g}"

    @property
    def select_name(self) -> str:
        """The selection rule with its budget, such as `best-of-16 (min)`."""
        name = "greedy" if self.select == "greedy" else f"{self.select}-of-{self.n}"
        return name if self.aggregate is None else f"{name} ({self.aggregate})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference between two ways to answer the same problems."""

    name: str
    difference: float
    ci_low: float
    ci_high: float
    num_problems: int | None


@dataclass(frozen=True, slots=True)
class Origin:
    """What made the results; None or empty in the results of older versions."""

    date: str | None
    commit: str | None
    command: str | None
    version: str | None
    """The version of the package."""
    policy: str | None
    """The policy as it was given: a name, a directory, or a hub id."""
    prm: str | None
    """The PRM as it was given."""


@dataclass(frozen=True, slots=True)
class Results:
    """All measurements of one run."""

    version: str
    """The version of the file, or of the package in some older files."""
    config: Mapping[str, Any]
    policy_name: str | None
    num_parameters: int | None
    greedy: tuple[float, float | None, float | None] | None
    """Greedy accuracy and, if known, its interval."""
    rows: tuple[ResultRow, ...]
    comparisons: tuple[Comparison, ...]
    first_error: Mapping[str, float | None] | None
    label_quality: Mapping[str, float | None] | None
    cost: Mapping[str, int | None] | None
    seconds: Mapping[str, float]
    origin: Origin

    @property
    def num_problems(self) -> tuple[int, ...]:
        """The distinct numbers of problems of the rows, ascending.

        Only one if all rows share a problem set.
        """
        return tuple(sorted({row.num_problems for row in self.rows}))


def read_results(path: Path) -> Results:
    """Read `results.json`.

    Raises FileNotFoundError if it does not exist, and ValueError with the key if something is missing or
    mistyped.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}; a report is written from the results of a finished evaluation"
        )
    top = Fields.of(read_json(path), path.name)
    policy = top.inner("policy")
    seconds = top.maybe_inner("seconds")
    rows = tuple(_row(row) for row in top.objects("rows"))
    return Results(
        version=str(top.required("version")),
        config=top.inner("config").values,
        policy_name=policy.maybe_text("name"),
        num_parameters=policy.maybe_count("num_parameters"),
        greedy=_greedy(policy, rows),
        rows=rows,
        comparisons=tuple(_comparison(item) for item in top.objects("comparisons"))
        if top.values.get("comparisons")
        else (),
        first_error=_numbers(
            top.maybe_inner("first_error"), ("f1", "acc_error", "acc_correct"), ("threshold", "num_problems")
        ),
        label_quality=_numbers(
            top.maybe_inner("label_quality"), (), ("mae", "correlation", "num_labels", "rollouts")
        ),
        cost=_cost(top.maybe_inner("cost")),
        seconds={key: seconds.number(key) for key in seconds.values} if seconds else {},
        origin=_origin(top),
    )


def _origin(top: Fields) -> Origin:
    """Return the origin; older files have at most the policy and the PRM, in the configuration."""
    found = top.maybe_inner("origin")
    if found is not None:
        return Origin(*(found.maybe_text(field.name) for field in fields(Origin)))
    config = top.inner("config").values
    policy, prm = (value if isinstance(value := config.get(key), str) else None for key in ("policy", "prm"))
    return Origin(None, None, None, None, policy, prm)


def _row(fields: Fields) -> ResultRow:
    row = ResultRow(
        sampler=fields.text("sampler"),
        temperature=fields.maybe_number("temperature"),
        select=fields.text("select"),
        aggregate=fields.maybe_text("aggregate"),
        n=fields.count("n"),
        accuracy=fields.number("accuracy"),
        ci_low=fields.number("ci_low"),
        ci_high=fields.number("ci_high"),
        num_problems=fields.count("num_problems"),
        tokens=fields.maybe_number("sampled_tokens_per_problem"),
    )
    if row.n < 1:
        raise ValueError(f"{fields.where}.n must be at least 1; {row.n} was given")
    if not 0 <= row.accuracy <= 1:
        raise ValueError(f"{fields.where}.accuracy must be a fraction in [0, 1]; {row.accuracy} was given")
    return row


def _comparison(fields: Fields) -> Comparison:
    return Comparison(
        name=fields.text("name"),
        difference=fields.number("difference"),
        ci_low=fields.number("ci_low"),
        ci_high=fields.number("ci_high"),
        num_problems=fields.maybe_count("num_problems"),
    )


def _greedy(policy: Fields, rows: tuple[ResultRow, ...]) -> tuple[float, float | None, float | None] | None:
    """Return the greedy accuracy of the policy's entry, or of the first greedy row if the entry has none."""
    accuracy = policy.maybe_number("greedy_accuracy")
    if accuracy is None:
        return next(((row.accuracy, row.ci_low, row.ci_high) for row in rows if row.select == "greedy"), None)
    return accuracy, policy.maybe_number("greedy_accuracy_low"), policy.maybe_number("greedy_accuracy_high")


def _numbers(
    fields: Fields | None, required: tuple[str, ...], optional: tuple[str, ...]
) -> Mapping[str, float | None] | None:
    if fields is None:
        return None
    for key in required:
        fields.required(key)
    return {key: fields.maybe_number(key) for key in required + optional}


def _cost(fields: Fields | None) -> Mapping[str, int | None] | None:
    if fields is None:
        return None
    return {
        key: fields.maybe_count(key)
        for key in ("requests", "prompt_tokens", "reused_tokens", "sampled_tokens")
    }
