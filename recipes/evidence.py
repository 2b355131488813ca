"""Do the papers' claims hold in the lab? All experiments of docs/explanations/evidence.md in one command.

    python recipes/evidence.py --out runs/evidence                          # all arms by default: many hours
    python recipes/evidence.py --arm headline --arm values --seeds 0 1 2 3  # a part of it
    python recipes/evidence.py --scale tiny --out /tmp/tiny                 # a quick test: one minute

The run is resumable: every label run, sampling run, PRM and score is made once under --out. Two processes
with the same --out share the work: first give them different --seeds, then give one of them all seeds. Each
arm writes --results/SETTING-ARM.json with its seeds; `python recipes/evidence_tables.py` makes the tables and
plots from these files.
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
    """The experiments to run."""

    arm: tuple[str, ...] = ()
    """Names of arms (see docs/explanations/evidence.md); all arms if none is given."""
    setting: tuple[str, ...] = ("default",)
    """Settings: default, hard, double, shuffle."""
    seeds: Annotated[tuple[int, ...], cyclopts.Parameter(consume_multiple=True)] = tuple(range(8))
    """Training seeds."""
    scale: Literal["full", "tiny"] = "full"
    out: Path = Path("runs/evidence")
    results: Path | None = None
    """Directory of the result files, by default recipes/results for the full scale."""
    prepare: bool = False
    """Train and score only, and write no results: for the second of two processes."""
    double_policy: str = "runs/double_policy"
    """Made by `recipes/train_lab_policy.py --grow-from src/forkpoint/lab/policy --out runs/double_policy`."""
    num_threads: int = 1


def settings(config: EvidenceConfig) -> dict[str, Setting]:
    """Return all settings by name."""
    return {
        "default": Setting("default", "lab"),
        "hard": Setting("hard", "lab", level="hard"),
        "double": Setting("double", config.double_policy),
        "shuffle": Setting("shuffle", "lab-shuffle", family="lab-shuffle"),
    }


def run(config: EvidenceConfig) -> list[Path]:
    """Run the arms and return the result files written."""
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
    """Record when, where and from which code the results were made."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }


def main(config: Annotated[EvidenceConfig, cyclopts.Parameter(name="*")] = EvidenceConfig()) -> None:
    """Run the experiments; run the same command again to continue."""
    run(config)


if __name__ == "__main__":
    cyclopts.run(main)
