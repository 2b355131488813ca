"""Measure the cost of a problem, in CPU seconds and memory, in label runs of 10 to 10,000 problems.

    python benchmarks/growth.py

A hand-made policy, whose cost does not depend on earlier requests, goes through the whole label pipeline:
outcomes, journal, labels, and once more the labels from the journal (relabel). Every size is measured in a
process of its own. This needs Linux, which reports the peak memory of a single process.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from forkpoint.formats.labels_file import LABELS
from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import LeafPlan
from forkpoint.labels.omega_records import BisectConfig
from forkpoint.labels.plan import Plan, Sampling
from forkpoint.labels.rollouts import RolloutPlan
from forkpoint.labels.run import label_problems, relabel
from forkpoint.policies import ScriptedPolicy
from forkpoint.policies.scripted import END
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor
from forkpoint.trees.grow import TreeConfig
from record import RESULTS, Ratio, write

PLANS: dict[str, Plan[Any]] = {
    "leaves": LeafPlan(),
    "rollouts": RolloutPlan(num_solutions=4, num_rollouts=4),
    "bisect": BisectPlan(BisectConfig(num_rollouts=4, max_searches=4)),
}
NUM_TERMS = 6
MAX_SUM = 10 * NUM_TERMS
MAX_COST_GROWTH = 1.2


@dataclass(frozen=True, slots=True)
class Measured:
    """The measurements of one label run."""

    plan: str
    num_problems: int
    num_labels: int
    label_cpu_s: float
    relabel_cpu_s: float
    peak_mib: float
    """Peak memory of the whole process, including interpreter and libraries."""
    journal_mib: float
    is_relabel_equal: bool
    """Whether the labels derived from the journal equal those of the run, byte for byte."""

    @property
    def cpu_ms_per_problem(self) -> float:
        return 1000 * (self.label_cpu_s + self.relabel_cpu_s) / self.num_problems


class Adder(ScriptedPolicy):
    """Adds the terms of a question, one partial sum per line, each right or too large by one.

    Keeps no requests.
    """

    def __init__(self) -> None:
        words = [text for total in range(MAX_SUM) for text in (f"{total}\n", f"The answer is {total}")]
        super().__init__(next_line, words=words, name="adder")
        self.requests, self.batch_sizes = _Forgetful(), _Forgetful()


class _Forgetful(list[Any]):
    """A list that stays empty."""

    def append(self, item: Any) -> None:
        """Forget the item."""


def next_line(question: str, text: str) -> dict[str, float]:
    """Return what follows a solution of a question such as 0+0+1+2+3+4."""
    terms, lines = question.split("+"), text.splitlines()
    if len(lines) > len(terms):
        return {END: 1.0}
    total = int(lines[-1]) if lines else 0
    if len(lines) == len(terms):
        return {f"The answer is {total}": 1.0}
    total += int(terms[len(lines)])
    return {f"{total}\n": 0.7, f"{total + 1}\n": 0.3}


def sums(num: int) -> list[Problem]:
    """Return the first `num` questions, at most 10^6."""
    digits = [[int(digit) for digit in f"{idx:0{NUM_TERMS}d}"] for idx in range(num)]
    return [
        Problem(f"sum/{idx}", "+".join(map(str, terms)), str(sum(terms))) for idx, terms in enumerate(digits)
    ]


def measure(plan: str, num_problems: int) -> Measured:
    """Label, then relabel, in this process, which must not have done anything else before."""
    problems, policy, labels = sums(num_problems), Adder(), LabelConfig()
    with TemporaryDirectory() as name:
        out = Path(name) / "run"
        started_s = time.process_time()
        summary = label_problems(
            problems,
            policy,
            out,
            TreeConfig(tau=0.5, max_tokens=NUM_TERMS + 2),
            labels,
            LocalExecutor(progress=False),
            Sampling(PLANS[plan]),
        )
        labelled_s = time.process_time()
        relabel(out, [(labels, Path(name) / "again.jsonl")])
        relabelled_s = time.process_time()
        return Measured(
            plan=plan,
            num_problems=num_problems,
            num_labels=summary.num_labels,
            label_cpu_s=labelled_s - started_s,
            relabel_cpu_s=relabelled_s - labelled_s,
            peak_mib=peak_mib(),
            journal_mib=(out / "journal.jsonl").stat().st_size / 2**20,
            is_relabel_equal=(out / LABELS).read_bytes() == (Path(name) / "again.jsonl").read_bytes(),
        )


def peak_mib() -> float:
    """Return the peak memory of this process; `getrusage` would include that of its parent."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "Linux reports the peak of every process"
    return int(found[1]) / 1024


def main(argv: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=[10, 100, 1000, 10000], help="at least three, ascending"
    )
    parser.add_argument("--num-rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    if len(args.sizes) < 3 or args.sizes != sorted(args.sizes):
        parser.error(f"--sizes needs at least three sizes in ascending order; {args.sizes} were given")
    rounds = []
    for _ in range(args.num_rounds):
        # a new process for every call, spawned and not forked from this one
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            rounds.append(
                {
                    plan: [pool.submit(measure, plan, size).result() for size in args.sizes]
                    for plan in args.plans
                }
            )
    ratios: dict[str, Ratio] = {}
    notes = []
    for plan in args.plans:
        ratios |= ratios_of(plan, [found[plan] for found in rounds])
        notes += [note_of(rounds[0][plan])]
    runs = [
        {plan: [asdict(item) for item in found] for plan, found in measured.items()} for measured in rounds
    ]
    return write("growth", ratios, runs, notes, args)


def ratios_of(plan: str, rounds: Sequence[Sequence[Measured]]) -> dict[str, Ratio]:
    """Return ratios for the largest size: cost per problem to the middle sizes, peak to the size before."""
    cost = [
        found[-1].cpu_ms_per_problem / statistics.mean(item.cpu_ms_per_problem for item in found[1:-1])
        for found in rounds
    ]
    memory = [found[-1].peak_mib / found[-2].peak_mib for found in rounds]
    sizes = [f"{item.num_problems:,}" for item in rounds[0]]
    return {
        f"{plan}: CPU seconds per problem, {sizes[-1]} / {' and '.join(sizes[1:-1])}": Ratio(
            cost, MAX_COST_GROWTH, is_cost=True
        ),
        f"{plan}: peak memory, {sizes[-1]} / {sizes[-2]}": Ratio(memory),
    }


def note_of(found: Sequence[Measured]) -> str:
    """Format cost and peak at every size."""
    each = "; ".join(
        f"{item.num_problems:,}: {item.cpu_ms_per_problem:.2f} ms, {item.peak_mib:.0f} MiB" for item in found
    )
    slope = (
        1024 * (found[-1].peak_mib - found[-2].peak_mib) / (found[-1].num_problems - found[-2].num_problems)
    )
    equal = "equal" if all(item.is_relabel_equal for item in found) else "NOT equal"
    return (
        f"{found[0].plan}, CPU per problem and peak by number of problems: {each} "
        f"({slope:.1f} KiB per additional problem); relabel {equal}"
    )


if __name__ == "__main__":
    main()
