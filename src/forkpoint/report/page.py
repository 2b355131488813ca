"""Render `report.html` from `results.json` and `trees.json`.

Invariant: the same input gives the same bytes. Text from the input is either escaped by the template engine
or put into one JSON island, which the page's script reads and shows as text. A content security policy with
the hash of that script forbids every other script and all loading. A section without data says what is
missing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from forkpoint.report import words
from forkpoint.report.charts import curves, marker
from forkpoint.report.headline import headline
from forkpoint.report.learning import Training, learning_charts, read_training
from forkpoint.report.results import Results, read_results
from forkpoint.report.tables import forest, table
from forkpoint.report.trees import read_trees


def write_report(directory: Path) -> Path:
    """Write `directory/report.html` from `results.json` and, if present, `trees.json`; returns its path.

    Raises FileNotFoundError if there is no `results.json`, and ValueError with the file, the place and the
    key if something is missing or wrong.
    """
    results = read_results(directory / "results.json")
    trees = read_trees(directory / "trees.json")
    training = training_of(directory, results)
    path = directory / "report.html"
    path.write_bytes(render(results, trees, training).encode("utf-8", errors="replace"))
    return path


def training_of(directory: Path, results: Results) -> Training | None:
    """Return the training of the PRM: in `directory`, as the demo has it, or where the results say it is."""
    found = read_training(directory / "prm")
    if found is None and results.origin.prm is not None:
        found = read_training(Path(results.origin.prm))
    return found


def render(results: Results, trees: list[dict[str, Any]] | None, training: Training | None = None) -> str:
    """Return the page as text."""
    environment = _environment()
    script, style = (_asset(environment, name) for name in ("report.js", "report.css"))
    greedy = None if results.greedy is None else results.greedy[0]
    return environment.get_template("report.html.j2").render(
        results=results,
        trees=trees,
        training=training,
        learning=None if training is None else learning_charts(training),
        headline=headline(results),
        curves=curves(results.rows, greedy),
        greedy=greedy,
        table=table(results.rows),
        forest=forest(results.comparisons),
        config=flat(results.config),
        timings=shares(results.seconds),
        tokens=shares(_token_counts(results.cost)),
        style=Markup(style),
        script=Markup(script),
        script_hash=_csp_hash(script),
        island=Markup(island({"trees": trees or []})),
    )


def island(value: Any) -> str:
    """Return JSON that is safe inside a script element: pure ASCII, without `<`, `>` and `&`."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return a configuration as pairs of dotted keys and values."""
    lines: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, dict) and value:
            lines += flat(value, f"{prefix}{key}.")
        else:
            lines.append(
                (prefix + key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            )
    return lines


def shares(amounts: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """Return the name, the amount and the percentage of the largest amount."""
    largest = max(amounts.values(), default=0) or 1
    return [(name, amount, round(100 * amount / largest, 2)) for name, amount in amounts.items()]


def _token_counts(cost: Mapping[str, int | None] | None) -> dict[str, float]:
    if cost is None:
        return {}
    prompt, reused, sampled = (cost[key] for key in ("prompt_tokens", "reused_tokens", "sampled_tokens"))
    counts: dict[str, float] = {}
    if prompt is not None and reused is not None:
        counts |= {"prompt tokens computed": prompt - reused, "prompt tokens reused": reused}
    elif prompt is not None:
        counts["prompt tokens"] = prompt
    if sampled is not None:
        counts["sampled tokens"] = sampled
    return counts


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("forkpoint.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        "percent",
        "interval",
        "points",
        "points_interval",
        "count",
        "decimal",
        "parameters",
        "duration",
    ):
        environment.filters[name] = getattr(words, name)
    environment.globals["marker"] = marker
    return environment


def _asset(environment: Environment, name: str) -> str:
    assert environment.loader is not None, "the environment is built with a loader"
    return environment.loader.get_source(environment, name)[0].replace("\r\n", "\n")


def _csp_hash(script: str) -> str:
    """Return the hash of the script in the form used by a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
