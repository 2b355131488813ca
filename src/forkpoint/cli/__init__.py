"""The `forkpoint` command: the only package that reads argv and prints, mostly through `console.py`.

Every flag, default and help text comes from the configuration dataclass of the stage that it configures. Each
file holds the commands of one stage and registers them with `app` when it is imported.
Invariant: importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from forkpoint.cli import (
    benchmark,
    demo,
    doctor,
    evaluate,
    export,
    formats,
    grade,
    lab,
    label,
    plan,
    push,
    raft,
    score,
    search,
    serve,
    sweep,
    train,
)
from forkpoint.cli.app import app, main

__all__ = [
    "app",
    "benchmark",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "formats",
    "grade",
    "lab",
    "label",
    "main",
    "plan",
    "push",
    "raft",
    "score",
    "search",
    "serve",
    "sweep",
    "train",
]
