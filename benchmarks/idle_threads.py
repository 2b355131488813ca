"""Measure how OpenMP threads that wait should wait: spinning, asleep, or spinning briefly.

    python benchmarks/idle_threads.py --threads 2

The work is a loop of small matrix products, as in the training of a small PRM, in a process of its own:
OpenMP reads its variables once, when torch is loaded. It runs alone, and beside processes that run the same
loop with the same settings. All ways compute the same products. Only the loop is timed, not the start of
Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from forkpoint.cli.app import SPIN_COUNT
from record import Ratio, add_arguments, write

LOOP = """
import sys, time, torch
num_threads, num_products = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(num_threads)
torch.manual_seed(0)
x, up, down = torch.randn(64, 128), torch.randn(128, 512), torch.randn(512, 128)
print("computing", flush=True)
started = time.perf_counter()
for _ in range(num_products // 2):
    y = torch.relu(x @ up) @ down
print(time.perf_counter() - started)
"""
GOALS = {("alone", "default"): 0.9, ("beside others", "default"): 2.0}
ENDLESS = 1 << 40
WAYS = {
    "default": {},
    "asleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    "brief": {"GOMP_SPINCOUNT": SPIN_COUNT},
}
"""The variables of OpenMP for each way to wait. Without any, threads spin for some 300,000 rounds."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-products", type=int, default=6000)
    parser.add_argument("--num-others", type=int, default=2, help="processes that run the same loop")
    add_arguments(parser, num_rounds=3)
    args = parser.parse_args()
    runs, ratios = [], {}
    for load, num_others in (("alone", 0), ("beside others", args.num_others)):
        rounds = [
            {way: seconds(way, num_others, args.threads, args.num_products) for way in WAYS}
            for _ in range(args.num_rounds)
        ]
        runs += [{"load": load, **found} for found in rounds]
        for other in ("default", "asleep"):
            ratios[f"time {load}, {other} / brief"] = Ratio(
                [found[other] / found["brief"] for found in rounds], goal=GOALS.get((load, other))
            )
    write("idle_threads", ratios, runs, [f"beside {args.num_others} processes that run the same loop"], args)


def seconds(way: str, num_others: int, num_threads: int, num_products: int) -> float:
    """The time of the loop in a new process, beside others that run it without end."""
    environment = {name: value for name, value in os.environ.items() if "OMP_" not in name} | WAYS[way]
    command = [sys.executable, "-c", LOOP, str(num_threads)]
    with others([*command, str(ENDLESS)], environment, num_others):
        done = subprocess.run(
            [*command, str(num_products)], env=environment, capture_output=True, text=True, check=True
        )
    return float(done.stdout.splitlines()[-1])


@contextmanager
def others(command: Sequence[str], environment: Mapping[str, str], num: int) -> Iterator[None]:
    """Run processes until the block ends; it begins when all of them compute."""
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, env=environment, stdout=pipe, text=True) for _ in range(num)]
    try:
        for process in processes:
            assert process.stdout is not None, "the output is a pipe"
            process.stdout.readline()
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
