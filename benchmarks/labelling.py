"""Compare labels per second and tokens per label of leaves, rollouts and bisection with a loop over prefixes.

    python benchmarks/labelling.py

All ways use the same lab problems, policy and graders in one process. Rollouts, loop and batches label the
same steps of the same solutions with the same number of completions, drawn in the same way. Ours is a whole
label run, from sampling the solutions to `labels.jsonl`; the loops are given the solutions and write nothing.
The ways run in turn, and each ratio compares runs of the same round.

A label belongs to one step of one solution. This includes the last step, whose label is the verdict on the
solution. Distinct labels are those of inner steps, with equal prefixes of a problem counted once.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from forkpoint.checkpoint import load_tokenizer
from forkpoint.formats.labels_file import read_labelled
from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import LeafPlan
from forkpoint.labels.omega_records import BisectConfig
from forkpoint.labels.plan import Plan, Sampling
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.rollouts import RolloutPlan, step_prefixes
from forkpoint.labels.run import label_problems
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.policies.context import room_after
from forkpoint.policies.local import LocalPolicy
from forkpoint.problems import load_problems
from forkpoint.runs import LocalExecutor, Run
from forkpoint.solutions.solve import solve_by_sampling
from forkpoint.trees.grow import TreeConfig
from peers.er_prm_loop import Found, Loop, Start
from record import Ratio, add_arguments, interleaved, write

OURS = ("rollouts", "edu", "bisect")
PEERS = ("loop", "batches")


@dataclass(frozen=True, slots=True)
class Counts:
    """The measurements of one run of one way."""

    labels: int
    sampled_tokens: int
    computed_tokens: int
    """Positions that went through the model, including padding."""


class TokenMeter:
    """Counts the positions that go through models, including padding."""

    def __init__(self, models: Iterable[PreTrainedModel]) -> None:
        self._num_tokens = 0
        for model in models:
            model.register_forward_pre_hook(self._count, with_kwargs=True)

    def take(self) -> int:
        """Return the count since the last call."""
        num_tokens, self._num_tokens = self._num_tokens, 0
        return num_tokens

    def _count(self, module: object, args: object, kwargs: Mapping[str, Any]) -> None:
        self._num_tokens += kwargs["input_ids"].numel()


class Comparison:
    """The ways to label the same problems."""

    def __init__(self, args: argparse.Namespace, directory: Path) -> None:
        self._args, self._directory = args, directory
        options: dict[str, Any] = {"device": args.device, "dtype": "float32"}
        self._policy: LocalPolicy = load_policy("lab", batch_size=args.batch_size, **options)
        peer_model = AutoModelForCausalLM.from_pretrained(LAB_POLICY, dtype=torch.float32).to(args.device)
        self._loop = Loop(peer_model, load_tokenizer(LAB_POLICY), args.num_rollouts)
        self._problems = load_problems(f"lab:train?num={args.num_problems}&seed=0")
        self._labels = LabelConfig()
        self._tree = TreeConfig(num_leaves=args.num_leaves, tau=args.tau, max_tokens=args.max_tokens)
        self._rollouts = RolloutPlan(num_solutions=args.num_solutions, num_rollouts=args.num_rollouts)
        self._bisect = BisectPlan(
            BisectConfig(num_rollouts=args.num_rollouts, max_searches=args.num_solutions)
        )
        self._solutions = solve_by_sampling(
            self._policy, self._problems, self._rollouts.solutions(args.max_tokens, seed=0)
        )
        self._prefixes = [
            prefix
            for outcome in self._solutions
            for prefix in step_prefixes(outcome, self._labels, self._tree.rule)
        ]
        self._starts = [self._start_of(prefix) for prefix in self._prefixes]
        self._meter = TokenMeter([self._policy.model, peer_model])
        self.counts: dict[str, list[Counts]] = defaultdict(list)
        self.shares: dict[str, list[list[float]]] = defaultdict(list)
        """The label of every prefix, per way and run, for the ways that label the same prefixes."""

    @property
    def works(self) -> dict[str, Callable[[], None]]:
        """Return every way by its name; each call labels everything anew."""
        return {
            "rollouts": partial(self._ours, "rollouts", self._rollouts),
            "edu": partial(self._ours, "edu", LeafPlan()),
            "bisect": partial(self._ours, "bisect", self._bisect),
            "loop": lambda: self._peer("loop", self._loop.label_one_by_one(self._starts)),
            "batches": lambda: self._peer(
                "batches", self._loop.label_in_batches(self._starts, self._args.batch_size)
            ),
        }

    def num_distinct(self, name: str) -> int:
        """Return the number of distinct labels of one run of a way; it is the same for all runs."""
        if name in PEERS:
            return len(set(self._prefixes))
        solutions = read_labelled(self._run_of(name, 0))
        return len(
            {
                (solution.problem_id, prefix)
                for solution in solutions
                for prefix in accumulate(solution.steps[:-1])
            }
        )

    def notes(self) -> list[str]:
        """Describe what was compared, and whether the ways that label the same prefixes agree."""
        args, distinct = self._args, len(set(self._prefixes))
        notes = [
            f"{len(self._problems)} problems, {args.num_solutions} solutions each, "
            f"{len(self._prefixes)} inner steps "
            f"({distinct} distinct prefixes), {args.num_rollouts} completions of each; torch threads: "
            f"{args.threads}",
            "bisect and edu label their own solutions: "
            "bisect labels every rollout it drew, at the prefixes that it "
            "evaluated; edu labels the leaves of trees, which are greedy between forks, so its labels do not "
            "estimate the same expectation",
        ]
        shares = {
            name: [sum(column) / len(runs) for column in zip(*runs, strict=True)]
            for name, runs in self.shares.items()
        }
        ours = self._rollout_shares()
        for name in PEERS:
            notes.append(
                f"rollouts and {name}: "
                f"{agreement(ours, shares[name], args.num_rollouts, len(self.shares[name]))}"
            )
        return notes

    def _start_of(self, prefix: Prefix) -> Start:
        ids = self._policy.encode_question(prefix.problem.question) + prefix.token_ids
        limit = room_after(self._policy, ids, self._args.max_tokens - len(prefix.token_ids))
        return Start(ids, prefix.text, prefix.problem.answer, prefix.problem.grader, max(1, limit))

    def _ours(self, name: str, plan: Plan[Any]) -> None:
        self._meter.take()
        directory = self._run_of(name, len(self.counts[name]))
        executor = LocalExecutor(chunk_size=self._args.batch_size, progress=False)
        summary = label_problems(
            self._problems, self._policy, directory, self._tree, self._labels, executor, Sampling(plan)
        )
        self.counts[name].append(Counts(summary.num_labels, summary.cost.sampled_tokens, self._meter.take()))

    def _peer(self, name: str, found: Found) -> None:
        num_solutions = sum(len(outcome.ends) for outcome in self._solutions)
        self.counts[name].append(
            Counts(len(found.shares) + num_solutions, found.num_sampled_tokens, self._meter.take())
        )
        self.shares[name].append(found.shares)

    def _run_of(self, name: str, idx: int) -> Path:
        return self._directory / f"{name}-{idx}"

    def _rollout_shares(self) -> list[float]:
        """Return the labels that the first run of rollouts gave the prefixes; all runs give the same."""
        with Run.read(self._run_of("rollouts", 0)) as run:
            store = RolloutStore(run)
            return [
                sum(rollout.is_correct for rollout in store.of(prefix)) / self._args.num_rollouts
                for prefix in self._prefixes
            ]


def main(argv: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser, num_rounds=3)
    parser.add_argument("--num-problems", type=int, default=24)
    parser.add_argument(
        "--num-solutions", type=int, default=2, help="per problem; also the searches of bisect"
    )
    parser.add_argument("--num-rollouts", type=int, default=16)
    parser.add_argument("--num-leaves", type=int, default=16)
    parser.add_argument("--tau", type=float, default=0.5)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument(
        "--batch-size", type=int, default=256, help="rows decoded at a time, ours and the peer's"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with TemporaryDirectory() as directory:
        comparison = Comparison(args, Path(directory))
        rounds = interleaved(comparison.works, args.num_rounds)
        notes, distinct = (
            comparison.notes(),
            {name: comparison.num_distinct(name) for name in (*OURS, *PEERS)},
        )
    runs = [
        {
            name: {
                "seconds": seconds[name],
                "distinct_labels": distinct[name],
                **asdict(comparison.counts[name][idx]),
            }
            for name in seconds
        }
        for idx, seconds in enumerate(rounds, start=1)  # the first counts belong to the warm-up round
    ]
    return write("labelling", ratios_of(runs), runs, notes, args)


def ratios_of(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Ratio]:
    """Return the ratios to the peer; values above 1 are in our favour.

    They are ours / peer for labels and distinct labels per second, and peer / ours for tokens per label.
    """
    goals = {("rollouts", "loop"): 5.0, ("edu", "loop"): 10.0}
    ratios = {}
    for peer in PEERS:
        for ours in OURS:
            pairs = [(run[ours], run[peer]) for run in runs]
            for kind, goal in (("labels", goals.get((ours, peer))), ("distinct_labels", None)):
                rates = [(a[kind] / a["seconds"]) / (b[kind] / b["seconds"]) for a, b in pairs]
                ratios[f"{ours} / {peer}, {kind.replace('_', ' ')} per second"] = Ratio(rates, goal)
            costs = [
                (b["computed_tokens"] / b["labels"]) / (a["computed_tokens"] / a["labels"]) for a, b in pairs
            ]
            ratios[f"{peer} / {ours}, computed tokens per label"] = Ratio(costs)
    return ratios


def agreement(ours: Sequence[float], theirs: Sequence[float], num_rollouts: int, num_runs: int) -> str:
    """Compare the mean absolute difference of labels with that of samples from the same distribution.

    Each label of `ours` is based on `num_rollouts` completions, of `theirs` on `num_runs` times as many. The
    normal approximation of the difference of two such means has a mean absolute value of sqrt(2 / pi) times
    its standard deviation; p is estimated from both together.
    """
    ours_size, theirs_size = num_rollouts, num_rollouts * num_runs
    expected = []
    for a, b in zip(ours, theirs, strict=True):
        p = (a * ours_size + b * theirs_size) / (ours_size + theirs_size)
        unbiased = p * (1 - p) * (ours_size + theirs_size) / (ours_size + theirs_size - 1)
        expected.append(math.sqrt(2 / math.pi * unbiased * (1 / ours_size + 1 / theirs_size)))
    found = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    bias = sum(a - b for a, b in zip(ours, theirs, strict=True)) / len(found)
    return (
        f"mean absolute difference of labels {sum(found) / len(found):.3f} at {len(found)} steps, "
        f"{sum(expected) / len(found):.3f} "
        f"expected from sampling alone; mean difference {bias:+.3f}"
    )


if __name__ == "__main__":
    main()
