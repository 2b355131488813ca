"""Write the result of a benchmark: one JSON file with its ratios, its raw rounds, and the machine it ran on.

Compared works run in turn in one process, so a ratio compares neighbouring measurements and other load on the
machine affects both. Invariant: a file is written completely or not at all, and a goal is met by the median,
never by the best round. This file measures only seconds; tokens, memory and correctness are left to the
benchmarks.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from forkpoint.checks import check_at_least
from forkpoint.runs.durable import replace_file

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("forkpoint", "torch", "transformers", "tokenizers", "numpy", "vllm", "ray", "trl")
"""Packages whose versions are recorded if they are installed."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """One quotient per round; the median is compared with the goal."""

    values: Sequence[float]
    goal: float | None = None
    is_cost: bool = False
    """Whether the goal is an upper bound rather than a lower bound."""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a ratio needs the value of at least one round; none was given")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the goal; None if there is no goal."""
        if self.goal is None:
            return None
        return self.median <= self.goal if self.is_cost else self.median >= self.goal

    def to_row(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
            "goal": self.goal,
            "goal_is": "at most" if self.is_cost else "at least",
            "is_met": self.is_met,
        }


def add_arguments(parser: argparse.ArgumentParser, num_rounds: int = 5) -> None:
    """Add the flags that every benchmark has."""
    parser.add_argument(
        "--num-rounds",
        type=int,
        default=num_rounds,
        help="measurements of each work, after one warm-up",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the directory of the JSON file")


def interleaved(works: Mapping[str, Callable[[], object]], num_rounds: int) -> list[dict[str, float]]:
    """Return the seconds of every work in each round; rounds start with different works.

    One more round, at the start, is not counted.

    A work that computes on a GPU must return only when its results are ready. Raises ValueError if
    `num_rounds` is below 1.
    """
    check_at_least(1, num_rounds=num_rounds)
    names = list(works)
    rounds = []
    for round_idx in range(num_rounds + 1):
        start = round_idx % len(names)
        seconds = {}
        for name in names[start:] + names[:start]:
            gc.collect()
            started = time.perf_counter()
            works[name]()
            seconds[name] = time.perf_counter() - started
        rounds.append({name: seconds[name] for name in names})
    return rounds[1:]


def write(
    name: str,
    ratios: Mapping[str, Ratio],
    runs: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
    args: argparse.Namespace,
) -> Path:
    """Write OUT/NAME.json, print its contents in words, and return its path.

    `runs` holds the raw numbers, one object per round; `args` holds the flags of `add_arguments` and of the
    benchmark.
    """
    record = {
        "name": name,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "ratios": {ratio_name: ratio.to_row() for ratio_name, ratio in ratios.items()},
        "runs": list(runs),
        "notes": list(notes),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path: Path = args.out / f"{name}.json"
    replace_file(path, [(json.dumps(record, indent=2, allow_nan=False) + "\n").encode()])
    for ratio_name, ratio in ratios.items():
        goal = (
            ""
            if ratio.goal is None
            else f", goal {'at most' if ratio.is_cost else 'at least'} {ratio.goal:g}"
        )
        print(
            f"{ratio_name}: {shown(ratio.median)} ({shown(min(ratio.values))} .. "
            f"{shown(max(ratio.values))}){goal}"
        )
    for note in notes:
        print(note)
    print(f"Written: {path}")
    return path


def shown(value: float) -> str:
    """Format with two decimals, or two significant digits for small numbers."""
    return f"{value:.2f}" if value == 0 or abs(value) >= 0.05 else f"{value:.1e}"


def machine() -> dict[str, Any]:
    """Describe the machine; the GPU is null if torch finds none."""
    import torch  # imported here because a benchmark of memory must not load it

    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cpu_model() -> str:
    """Return the name of the processor as reported by Linux, else by Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages in `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Return the commit, with `-dirty` if code under src or benchmarks differs from it.

    None outside of git.
    """
    head = git("rev-parse", "HEAD")
    if head is None:
        return None
    changed = git(
        "status", "--porcelain", "--", "src", "benchmarks", f":(exclude){RESULTS.relative_to(ROOT)}"
    )
    return head + ("-dirty" if changed else "")


def git(*words: str) -> str | None:
    """Return the output of git about this checkout; None if git fails."""
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
