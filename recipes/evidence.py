"""Do the papers' claims hold in the lab? The experiments of docs/explanations/evidence.md, one command for the lot.

    python recipes/evidence.py --out runs/evidence                               # all arms in the setting default: many hours
    python recipes/evidence.py --arm headline --arm values --seeds 0 1 2 3       # some of it
    python recipes/evidence.py --scale tiny --out /tmp/tiny                      # that it works, in a minute

Resumable: every label run, sampling run, PRM and score is made once under --out. Two processes with the same --out share
the work: give them different --seeds first, then one of them all seeds. Each arm writes --results/SETTING-ARM.json with
the seeds that it was given; `python recipes/evidence_tables.py` makes the tables and plots from these files.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
import torch

from evidence_lab.lab import Lab
from evidence_lab.questions import ARMS, SETTINGS_OF
from evidence_lab.settings import TINY, Scale, Setting
from forkpoint.runs.durable import replace_file


@dataclass(frozen=True)
class EvidenceConfig:
    """What is run."""

    arm: tuple[str, ...] = ()
    """Names of arms (see docs/explanations/evidence.md); none: all."""
    setting: tuple[str, ...] = ("default",)
    """default, hard, double, shuffle."""
    seeds: Annotated[tuple[int, ...], cyclopts.Parameter(consume_multiple=True)] = tuple(range(8))
    """Of training."""
    scale: Literal["full", "tiny"] = "full"
    out: Path = Path("runs/evidence")
    results: Path | None = None
    """Where arms leave their results, by default recipes/results for the full scale; with `prepare`, nothing is written."""
    prepare: bool = False
    """Train and score only: for the second of two processes."""
    double_policy: str = "runs/double_policy"
    """From `python recipes/train_lab_policy.py --grow-from src/forkpoint/lab/policy --out runs/double_policy`."""
    num_threads: int = 1


def settings(config: EvidenceConfig) -> dict[str, Setting]:
    """All settings by name."""
    return {
        "default": Setting("default", "lab"),
        "hard": Setting("hard", "lab", level="hard"),
        "double": Setting("double", config.double_policy),
        "shuffle": Setting("shuffle", "lab-shuffle", family="lab-shuffle"),
    }


def run(config: EvidenceConfig) -> list[Path]:
    """The result files written."""
    torch.set_num_threads(config.num_threads)
    known = settings(config)
    for kind, names, choices in (("arm", config.arm, ARMS), ("setting", config.setting, known)):
        for name in names:
            if name not in choices:
                raise SystemExit(f"{kind} {name!r} is unknown; choose from {', '.join(choices)}")
    scale = Scale() if config.scale == "full" else TINY
    results = config.results or (
        Path(__file__).parent / "results" if config.scale == "full" else config.out / "results"
    )
    written = []
    for setting in config.setting:
        lab = Lab(known[setting], scale, config.out, config.seeds, say=lambda text: print(text, flush=True))
        for arm in config.arm or SETTINGS_OF:
            if not config.arm and setting not in SETTINGS_OF[arm]:
                continue
            found = ARMS[arm](lab)
            if config.prepare or not found:
                continue
            results.mkdir(parents=True, exist_ok=True)
            path = results / f"{setting}-{arm}.json"
            setting_there = {**asdict(lab.setting), "policy": lab.stock.policy.name}
            head = {
                "arm": arm,
                "setting": setting_there,
                "seeds": list(config.seeds),
                "scale": asdict(scale),
                **provenance(),
            }
            replace_file(path, [(json.dumps({**head, **found}, indent=1) + "\n").encode()])
            print(f"written: {path}", flush=True)
            written.append(path)
    return written


def provenance() -> dict[str, object]:
    """When, where and from what code."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def main(config: Annotated[EvidenceConfig, cyclopts.Parameter(name="*")] = EvidenceConfig()) -> None:
    """Run the experiments; the same command again continues."""
    run(config)


if __name__ == "__main__":
    cyclopts.run(main)
