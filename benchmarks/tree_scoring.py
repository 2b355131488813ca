"""Measure what it saves to score all leaves of a tree as one prefix tree instead of one by one.

    python benchmarks/tree_scoring.py

The trees are EDU trees of lab problems with 16 and 64 leaves. Both ways score the same solutions with the
same weights and get the same numbers; the flat way is also our own, in batches sorted by length. The largest
possible saving is the ratio of flat tokens to distinct tokens, which is printed as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from forkpoint.checkpoint import load_tokenizer
from forkpoint.policies import LAB_POLICY
from forkpoint.prms.tagged import TaggedPRM
from forkpoint.records import LabelledSolution
from forkpoint.training.presets import preset_named
from lab_trees import MODELS, TIME, num_computed, num_distinct, over_sizes
from record import add_arguments, interleaved, write


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-problems", type=int, default=16)
    parser.add_argument("--tau", type=float, default=0.1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["lab", "wide"])
    parser.add_argument("--batch-tokens", type=int, default=4096)
    add_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    tokenizer = load_tokenizer(LAB_POLICY)
    goals: dict[str, dict[str, Any]] = {
        TIME: {"goal": 5.0},
        "tokens computed / distinct": {"goal": 1.05, "is_cost": True},
        "largest difference of scores": {"goal": 1e-5, "is_cost": True},
    }
    ratios, runs, notes = over_sizes(
        args, len(tokenizer), lambda model, solutions: compared(model, tokenizer, solutions, args), goals
    )
    write("tree_scoring", ratios, runs, notes, args)


def compared(
    model: Any, tokenizer: Any, solutions: Sequence[LabelledSolution], args: argparse.Namespace
) -> tuple[dict[str, list[float]], list[dict[str, float]], str]:
    """Return the ratios, the rounds, and how much could be saved."""
    questions, steps = [item.question for item in solutions], [item.steps for item in solutions]
    prms = {
        way: TaggedPRM(
            model, tokenizer, preset_named("lab").format, way, args.batch_tokens, packs_trees=way == "tree"
        )
        for way in ("flat", "tree")
    }
    works = {way: partial(prm.score, questions, steps) for way, prm in prms.items()}
    pairs = zip(works["flat"](), works["tree"](), strict=True)
    difference = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
    rows = [
        prms["flat"].layout.encode(question, solution).input_ids
        for question, solution in zip(questions, steps, strict=True)
    ]
    distinct = num_distinct(questions, rows)
    computed = num_computed(model, works["tree"])
    rounds = interleaved(works, args.num_rounds)
    ratios = {
        TIME: [seconds["flat"] / seconds["tree"] for seconds in rounds],
        "tokens computed / distinct": [computed / distinct],
        "largest difference of scores": [difference],
    }
    return (
        ratios,
        rounds,
        f"{len(solutions)} solutions, flat tokens / distinct tokens {sum(map(len, rows)) / distinct:.2f}",
    )


if __name__ == "__main__":
    main()
