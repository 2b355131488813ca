"""Label lab problems by trees with an older build and with this one: wall time, and how full the batches are.

    git worktree add --detach ../base b016aa4
    python benchmarks/streaming.py --base ../base

Each build labels the same problems in a process of its own, in turn, with the same rows, leaves and threads;
a ratio compares neighbouring runs. Only the label run is timed, not the start of the process. Occupancy is
the share of rows that hold a sequence, averaged over all decoding steps of the run, the last ones included.
Wasted tokens are those of forks that were grown ahead of their turn and not needed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import ROOT, Ratio, add_arguments, write

BUILDS = ("base", "here")
PEER = Path(__file__).resolve().parent / "peers" / "tree_labelling.py"


def child(build: str, args: argparse.Namespace) -> dict[str, Any]:
    """Label in a process that imports the given build."""
    source = (Path(args.base) if build == "base" else ROOT) / "src"
    settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    command = [sys.executable, str(PEER), json.dumps(settings)]
    env = os.environ | {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, num_rounds=3)
    parser.add_argument("--base", default="../base", help="a checkout of the older build")
    parser.add_argument("--num-problems", type=int, default=1000)
    parser.add_argument("--num-leaves", type=int, default=16)
    parser.add_argument("--tau", type=float, default=0.3)
    parser.add_argument("--order", default="probable")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args(argv)
    rounds = []
    for round_idx in range(args.num_rounds):
        names = BUILDS if round_idx % 2 == 0 else BUILDS[::-1]
        rounds.append({name: child(name, args) for name in names})
    is_same = all(found["base"].pop("trees") == found["here"].pop("trees") for found in rounds)
    occupancy = {
        name: [
            found[name]["num_row_steps"] / (found[name]["num_steps"] * args.batch_size) for found in rounds
        ]
        for name in BUILDS
    }
    wasted = [found["here"]["wasted_tokens"] / found["here"]["sampled_tokens"] for found in rounds]
    ratios = {
        "seconds, base / here": Ratio(
            [found["base"]["seconds"] / found["here"]["seconds"] for found in rounds], goal=1.6
        ),
        "rows in use, here": Ratio(occupancy["here"], goal=0.92),
        "rows in use, base": Ratio(occupancy["base"]),
        "tokens wasted / sampled, here": Ratio(wasted, goal=0.03, is_cost=True),
    }
    notes = [
        f"{args.num_problems} problems, trees of {args.num_leaves} leaves, tau {args.tau}, "
        f"order {args.order}, {args.batch_size} rows, {args.threads} threads",
        f"the trees of both builds are {'the same' if is_same else 'NOT the same'}, branch for branch",
    ]
    return write("streaming", ratios, rounds, notes, args)


if __name__ == "__main__":
    main()
