"""Measure what it saves to train on all leaves of a tree as one prefix tree instead of one by one.

    python benchmarks/tree_training.py

Both ways compute loss and gradient of the same solutions with the same weights, from EDU trees of lab
problems with 16 and 64 leaves; the flat way is also our own, in batches sorted by length. The largest
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
from forkpoint.prms.layout import Layout
from forkpoint.prms.packing import INPUT_NAMES, on_device, takes_trees
from forkpoint.prms.tagged import tag_logits
from forkpoint.records import LabelledSolution
from forkpoint.training.presets import preset_named
from forkpoint.training.prm_trainer import TagCollator, layout_rows, pack_rows, soft_cross_entropy
from lab_trees import MODELS, TIME, num_computed, num_distinct, over_sizes
from record import add_arguments, interleaved, write


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-problems", type=int, default=16)
    parser.add_argument("--tau", type=float, default=0.1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["lab", "wide"])
    parser.add_argument(
        "--batch-tokens", type=int, default=4096, help="largest number of padded tokens of a micro-batch"
    )
    add_arguments(parser, num_rounds=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    tokenizer = load_tokenizer(LAB_POLICY)
    layout = Layout(tokenizer, preset_named("lab").format)
    goals: dict[str, dict[str, Any]] = {
        TIME: {},
        "tokens computed / distinct": {"goal": 1.1, "is_cost": True},
        "relative difference of gradients": {"goal": 1e-5, "is_cost": True},
    }
    ratios, runs, notes = over_sizes(
        args, len(tokenizer), lambda model, solutions: compared(model, layout, solutions, args), goals
    )
    write("tree_training", ratios, runs, notes, args)


def compared(
    model: Any, layout: Layout, solutions: Sequence[LabelledSolution], args: argparse.Namespace
) -> tuple[dict[str, list[float]], list[dict[str, float]], str]:
    """Return the ratios, the rounds, and how much could be saved."""
    chosen, encoded, _ = layout_rows(solutions, layout)
    distinct = num_distinct([item.question for item in chosen], [row.input_ids for row in encoded])
    if not takes_trees(model, max(len(row.input_ids) for row in encoded)):
        raise ValueError(f"{type(model).__name__} computes no trees")
    works = {
        way: partial(differentiate, model, layout, batches_of(chosen, encoded, layout, args, way == "tree"))
        for way in ("flat", "tree")
    }
    computed = num_computed(model, works["tree"])
    gradients = {}
    for way, work in works.items():
        work()
        gradients[way] = torch.cat([weight.grad.flatten().double() for weight in model.parameters()])
    difference = float((gradients["tree"] - gradients["flat"]).norm() / gradients["flat"].norm())
    rounds = interleaved(works, args.num_rounds)
    ratios = {
        TIME: [seconds["flat"] / seconds["tree"] for seconds in rounds],
        "tokens computed / distinct": [computed / distinct],
        "relative difference of gradients": [difference],
    }
    num_flat = sum(len(row.input_ids) for row in encoded)
    return ratios, rounds, f"{len(chosen)} solutions, flat tokens / distinct tokens {num_flat / distinct:.2f}"


def differentiate(model: Any, layout: Layout, batches: Sequence[dict[str, Any]]) -> None:
    """Compute loss and gradient of everything."""
    model.zero_grad()
    for batch in batches:
        inputs = {key: batch[key] for key in INPUT_NAMES if key in batch}
        logits = tag_logits(model, layout, inputs, batch["tag_rows"], batch["tag_columns"])
        soft_cross_entropy(logits, batch["labels"]).backward()  # type: ignore[no-untyped-call]
    if model.device.type == "cuda":
        torch.cuda.synchronize()


def batches_of(
    chosen: Any, encoded: Any, layout: Layout, args: argparse.Namespace, as_trees: bool
) -> list[dict[str, Any]]:
    """Return micro-batches of rows of similar length."""
    rows = sorted(
        pack_rows(chosen, encoded, args.batch_tokens if as_trees else 0),
        key=lambda row: -len(row["input_ids"]),
    )
    batches: list[list[dict[str, Any]]] = [[]]
    for row in rows:
        longest = len(batches[-1][0]["input_ids"]) if batches[-1] else 0
        if (len(batches[-1]) + 1) * longest > args.batch_tokens:
            batches.append([])
        batches[-1].append(row)
    collate = TagCollator(layout.tag_id)
    return [on_device(collate(batch), torch.device(args.device)) for batch in batches]


if __name__ == "__main__":
    main()
