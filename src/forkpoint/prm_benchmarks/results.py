"""Writes results.json of a benchmark, after all else: figures, PRM, configuration, data and versions."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from forkpoint.runs.durable import replace_file
from forkpoint.version import __version__

RESULTS = "results.json"
RESULTS_VERSION = 1
LIBRARIES = ("numpy", "torch", "transformers")
"""Libraries whose version can change a score."""


def write_results(
    out: Path, benchmark: str, prm: str | None, config: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    """Write OUT/results.json, replacing it in one step, and return its content."""
    results = {
        "benchmark": benchmark,
        "version": RESULTS_VERSION,
        "prm": prm,
        "config": config,
        **found,
        "versions": {"forkpoint": __version__} | {name: version(name) for name in LIBRARIES},
    }
    out.mkdir(parents=True, exist_ok=True)
    replace_file(
        out / RESULTS, [(json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()]
    )
    return results
