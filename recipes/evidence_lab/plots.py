"""The two plots of the evidence: accuracy against tokens, and label error against tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from .settings import HT, TREE

Result = dict[str, Any]


def draw(results: dict[str, Result], directory: Path) -> list[Path]:
    """Draw the available results as SVG files; the same results give the same files."""
    drawn = []
    with mpl.rc_context({"svg.hashsalt": "forkpoint", "svg.fonttype": "none", "font.size": 9}):
        if {"default-values", "default-headline"} <= results.keys():
            drawn.append(_save(_accuracy(results), directory / "accuracy_tokens.svg"))
        if "default-labels" in results:
            drawn.append(_save(_labels(results["default-labels"]), directory / "label_error_tokens.svg"))
    return drawn


def _save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    return path


def _accuracy(results: dict[str, Result]) -> Figure:
    rows = {name: results[f"default-{name}"]["rows"] for name in ("values", "headline")}
    figure = Figure(figsize=(9.5, 4.5))
    axes = figure.add_subplot()
    lines: list[tuple[str, list[Result], Result, str, str]] = [
        (
            "majority of samples",
            rows["values"],
            {"variant": None, "solutions": HT, "select": "majority"},
            "tab:gray",
            "o:",
        ),
        (
            "best of samples, ER-PRM",
            rows["values"],
            {"variant": "er-2", "solutions": HT, "select": "best"},
            "tab:blue",
            "s-",
        ),
        (
            "vote weighted by ER-PRM",
            rows["values"],
            {"variant": "er-2", "solutions": HT, "select": "weighted"},
            "tab:blue",
            "s--",
        ),
        (
            "best of samples, EDU-PRM",
            rows["headline"],
            {"variant": "edu", "solutions": HT, "select": "best"},
            "tab:orange",
            "^-",
        ),
        (
            "vote weighted by EDU-PRM",
            rows["headline"],
            {"variant": "edu", "solutions": HT, "select": "weighted"},
            "tab:orange",
            "^--",
        ),
        (
            "best of EDU tree, EDU-PRM",
            rows["headline"],
            {"variant": "edu", "solutions": TREE, "select": "best"},
            "tab:red",
            "D-",
        ),
    ]
    for label, table_rows, wanted, colour, style in lines:
        chosen = sorted(
            (row for row in table_rows if all(row[name] == value for name, value in wanted.items())),
            key=lambda row: row["n"],
        )
        _errorbar(axes, [row["tokens"] for row in chosen], chosen, label, colour, style)
    if "default-ours" in results:
        ways = sorted(results["default-ours"]["ways"], key=lambda row: float(row["tokens"]))
        for label, pattern, colour, style in (
            (
                "ours: vote of tree, then samples until it is clear",
                r"vote of tree, then .*; edu",
                "tab:green",
                "v:",
            ),
            (
                "ours: policy-weighted vote of tree, EDU-PRM",
                r"policy-weighted vote of tree of \d+, tau = 1.0; edu",
                "tab:purple",
                "P-",
            ),
            (
                "ours: the same, then samples until it is clear",
                r"policy-weighted .* tau = 1.0, then .*; edu",
                "tab:purple",
                "X:",
            ),
        ):
            chosen = [row for row in ways if re.fullmatch(pattern, row["name"])]
            _errorbar(axes, [row["tokens"] for row in chosen], chosen, label, colour, style)
    _log_tokens(axes, "problem")
    axes.set_ylabel("accuracy, 95 % interval")
    axes.set_title("setting default", fontsize=9)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _labels(result: Result) -> Figure:
    figure = Figure(figsize=(7.5, 4.5))
    axes = figure.add_subplot()
    rollouts = [row for row in result["labels"] if row["label"].startswith("rollouts, k")]
    _errorbar(
        axes,
        [row["tokens_per_label"] for row in rollouts],
        [row["error"] for row in rollouts],
        "rollouts",
        "tab:blue",
        "s-",
    )
    others = [row for row in result["labels"] if row not in rollouts]
    for row, colour in zip(
        others, ("tab:red", "tab:orange", "tab:green", "tab:purple", "tab:brown"), strict=True
    ):
        _errorbar(axes, [row["tokens_per_label"]], [row["error"]], row["label"], colour, "D")
    _log_tokens(axes, "label")
    axes.set_ylabel("mean absolute error of labels, 95 % interval")
    axes.legend(fontsize=8)
    return figure


def _errorbar(
    axes: Axes, tokens: Sequence[float], estimates: Sequence[Result], label: str, colour: str, style: str
) -> None:
    means = [item["mean"] for item in estimates]
    below = [item["mean"] - item["ci_low"] for item in estimates]
    above = [item["ci_high"] - item["mean"] for item in estimates]
    axes.errorbar(
        tokens, means, yerr=[below, above], fmt=style, color=colour, label=label, capsize=2, markersize=4
    )


def _log_tokens(axes: Axes, per: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"sampled tokens per {per} (log)")
