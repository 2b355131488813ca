"""Label lab problems by trees with the build on the path, and print what it took as JSON.

Run by `streaming.py`, which gives the settings as JSON; works with builds since b016aa4.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from forkpoint.policies import decoding, load_policy
from forkpoint.problems import load_problems
from forkpoint.runs import LocalExecutor

try:
    from forkpoint.labels.config import LabelConfig
    from forkpoint.labels.run import label_problems
    from forkpoint.trees.grow import TreeConfig
except ModuleNotFoundError:  # an older build
    from forkpoint.label_config import LabelConfig  # type: ignore[no-redef, import-not-found]
    from forkpoint.label_run import label_problems  # type: ignore[no-redef, import-not-found]
    from forkpoint.tree import TreeConfig  # type: ignore[no-redef, import-not-found]


def counted(cls: Any) -> list[int]:
    """Have a decoder write down how many rows are in use, step by step; return the list."""
    take_step, in_use = cls._step, []

    def step(self: Any) -> None:
        in_use.append(len(self._active))
        take_step(self)

    cls._step = step
    return in_use


def wasted_tokens() -> list[Any]:
    """Return a list that gets the allowance of every work of trees; it stays empty in older builds."""
    try:
        from forkpoint.solutions.work import TreeWork
    except ModuleNotFoundError:
        return []
    begin, allowances = TreeWork.__init__, list[Any]()

    def begun(self: Any, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        allowances.append(self.allowance)

    TreeWork.__init__ = begun  # type: ignore[method-assign]
    return allowances


def labelled(settings: dict[str, Any]) -> dict[str, Any]:
    """Label, and return the measurements."""
    torch.set_num_threads(settings["threads"])
    in_use = counted(getattr(decoding, "StreamDecoder", None) or decoding.BatchDecoder)  # type: ignore[attr-defined]
    batch_size = settings["batch_size"]
    policy = load_policy("lab", device="cpu", dtype="float32", batch_size=batch_size)
    problems = load_problems(f"lab:train?num={settings['num_problems']}&seed=0")
    names = ("num_leaves", "tau", "max_tokens", "order")
    tree = TreeConfig(**{name: settings[name] for name in names})
    wasted = wasted_tokens()
    with TemporaryDirectory() as name:
        executor = LocalExecutor(chunk_size=batch_size, progress=False)
        started_s = time.perf_counter()
        summary = label_problems(problems, policy, Path(name) / "run", tree, LabelConfig(), executor)
        seconds = time.perf_counter() - started_s
        journal = (Path(name) / "run" / "journal.jsonl").read_text().splitlines()
    return {
        "seconds": seconds,
        "num_steps": len(in_use),
        "num_row_steps": sum(in_use),
        "num_solutions": summary.num_solutions,
        "sampled_tokens": summary.cost.sampled_tokens,
        "wasted_tokens": sum(allowance.wasted_tokens for allowance in wasted),
        "trees": [[branch["ids"] for branch in json.loads(line)["branches"]] for line in journal],
    }


if __name__ == "__main__":
    print(json.dumps(labelled(json.loads(sys.argv[1]))))
