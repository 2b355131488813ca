"""Measure what it saves that idle OpenMP threads sleep instead of spin, on free and on busy cores.

    python benchmarks/idle_threads.py --threads 2

The work is a loop of small matrix products, as in the training of a small PRM, in a process of its own:
OpenMP reads OMP_WAIT_POLICY once, when torch is loaded. Both policies compute the same products. Busy cores
are made by processes that count. Only the loop is timed, not the start of Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from record import Ratio, add_arguments, write

LOOP = """
import sys, time, torch
num_threads, num_products = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(num_threads)
torch.manual_seed(0)
x, up, down = torch.randn(64, 128), torch.randn(128, 512), torch.randn(512, 128)
started = time.perf_counter()
for _ in range(num_products // 2):
    y = torch.relu(x @ up) @ down
print(time.perf_counter() - started)
"""
POLICIES = {"spin": None, "sleep": "PASSIVE"}
"""OMP_WAIT_POLICY of each way; None: the variable is not set, as when a user sets nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-products", type=int, default=4000)
    parser.add_argument("--num-busy", type=int, default=1, help="processes that keep cores busy")
    add_arguments(parser)
    args = parser.parse_args()
    runs, ratios = [], {}
    for load, num_busy in (("free", 0), ("busy", args.num_busy)):
        with busy_processes(num_busy):
            rounds = [
                {way: seconds(way, args.threads, args.num_products) for way in POLICIES}
                for _ in range(args.num_rounds)
            ]
        runs += [{"cores": load, **found} for found in rounds]
        ratios[f"time on {load} cores, spinning / sleeping"] = Ratio(
            [found["spin"] / found["sleep"] for found in rounds], goal=0.8 if load == "free" else 1.0
        )
    write("idle_threads", ratios, runs, [f"{args.num_busy} busy processes"], args)


def seconds(way: str, num_threads: int, num_products: int) -> float:
    """The time of the loop in a new process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    policy = POLICIES[way]
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    command = [sys.executable, "-c", LOOP, str(num_threads), str(num_products)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def busy_processes(num: int) -> Iterator[None]:
    """Keep cores busy until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
