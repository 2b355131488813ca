"""Does bisection find the same first error as rolling out every prefix, and what does it save?

    python recipes/bisect_agreement.py --num-problems 100 --out runs/bisect

This runs OmegaPRM's search (arXiv 2406.06592) on lab problems with the lab policy. Then it rolls out every
prefix of every searched solution the same number of times. If the values of a solution are monotone (right
rollouts up to some step, none after it), both must name the same step. After a kill at any moment, the same
command continues.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from forkpoint.labels.bisect import BisectPlan
from forkpoint.labels.config import LabelConfig
from forkpoint.labels.omega import OmegaSearch
from forkpoint.labels.omega_records import BisectConfig, GradedPath
from forkpoint.labels.plan import Sampling
from forkpoint.labels.rollout_store import Prefix, RolloutStore
from forkpoint.labels.run import label_problems
from forkpoint.policies import load_policy
from forkpoint.problems import load_problems
from forkpoint.records import Problem
from forkpoint.runs import LocalExecutor, Run
from forkpoint.trees.grow import TreeConfig


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-problems", type=int, default=100)
    parser.add_argument("--num-rollouts", type=int, default=8)
    parser.add_argument("--max-searches", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--out", type=Path, default=Path("runs/bisect"))
    args = parser.parse_args()
    policy, problems = load_policy("lab"), load_problems(f"lab:train?num={args.num_problems}&seed=0")
    plan = BisectPlan(BisectConfig(num_rollouts=args.num_rollouts, max_searches=args.max_searches))
    drawn = plan.rollouts(args.max_tokens, 0)
    executor = LocalExecutor(chunk_size=128)
    label_problems(
        problems,
        policy,
        args.out / "search",
        TreeConfig(max_tokens=args.max_tokens),
        LabelConfig(),
        executor,
        Sampling(plan),
    )
    with Run.read(args.out / "search") as run:
        known = RolloutStore(run)
    searched: list[tuple[Problem, GradedPath]] = []
    for problem in problems:
        search = OmegaSearch(plan.search)  # rebuilt from the journal
        while needs := search.needs():
            search.feed(
                [known.of(Prefix(problem, need.prefix_ids, "".join(need.prefix_texts))) for need in needs]
            )
        searched += [(problem, path) for path in search.paths() if path.first_error_idx is not None]
    prefixes = [
        [
            Prefix(problem, path.token_ids[:end], "".join(path.token_texts[:end]))
            for end in path.step_ends[:-1]
        ]
        for problem, path in searched
    ]
    distinct = list(dict.fromkeys(prefix for group in prefixes for prefix in group))
    with Run.open(
        args.out / "every-prefix",
        "every prefix",
        {"num_rollouts": args.num_rollouts, "max_tokens": args.max_tokens},
    ) as run:
        store = RolloutStore(run)
        store.fetch(run, executor, policy, [(prefix, range(args.num_rollouts)) for prefix in distinct], drawn)
    num_monotone = num_agreeing = 0
    for (_, path), group in zip(searched, prefixes, strict=True):
        hits = [any(rollout.is_correct for rollout in store.of(prefix)) for prefix in group] + [
            path.is_correct
        ]
        if hits == sorted(hits, reverse=True):
            num_monotone += 1
            num_agreeing += path.first_error_idx == hits.index(False)
    num_evaluated = sum(bool(known.of(prefix)) for prefix in distinct)
    print(
        f"{len(problems)} problems, {len(searched)} solutions searched, {num_monotone} of them monotone, "
        f"{num_agreeing} of these agree"
    )
    print(f"prefixes of these solutions: {len(distinct)}, rolled out by the search: {num_evaluated}")


if __name__ == "__main__":
    main()
