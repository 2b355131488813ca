"""What it saves to compute the solutions of a problem as one prefix tree, in scoring and in training.

    python benchmarks/tree_packing.py

EDU trees of lab problems with up to 16 and up to 64 leaves; a PRM with the lab policy's weights. Both ways do the same work on the
same solutions in this process, in turn, several times; printed are medians of the ratios flat / tree, with their range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from forkpoint.label_config import LabelConfig
from forkpoint.label_run import labelled_solutions
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.presets import preset_named
from forkpoint.prms.layout import Layout
from forkpoint.prms.packing import INPUT_NAMES
from forkpoint.prms.tagged import TaggedPRM, tag_logits
from forkpoint.problems import load_problems
from forkpoint.records import LabelledSolution
from forkpoint.solve import solve_by_tree
from forkpoint.tokenizer import load_tokenizer
from forkpoint.trainer import TagCollator, layout_rows, pack_rows, soft_cross_entropy
from forkpoint.tree import TreeConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-problems", type=int, default=16)
    parser.add_argument("--tau", type=float, default=0.1)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    policy, tokenizer = load_policy("lab"), load_tokenizer(LAB_POLICY)
    prm_format = preset_named("lab").format
    model = AutoModelForCausalLM.from_pretrained(LAB_POLICY, dtype=torch.float32)
    layout = Layout(tokenizer, prm_format)
    problems = load_problems(f"lab:train?num={args.num_problems}&seed=4")
    print(f"{args.num_problems} problems, {args.num_rounds} rounds, {args.threads} threads")
    for num_leaves in (16, 64):
        outcomes = solve_by_tree(policy, problems, TreeConfig(num_leaves=num_leaves, tau=args.tau, max_tokens=160))
        solutions = [solution for outcome in outcomes for solution in labelled_solutions(outcome, LabelConfig(), TreeConfig().rule)]
        score(model, tokenizer, prm_format, solutions, num_leaves, args.num_rounds)
        train(model, layout, solutions, num_leaves, args.num_rounds)


def score(model: Any, tokenizer: Any, prm_format: Any, solutions: list[LabelledSolution], num_leaves: int, num_rounds: int) -> None:
    """Scores of all leaves."""
    ways = {name: TaggedPRM(model, tokenizer, prm_format, name, packs_trees=name == "tree") for name in ("tree", "flat")}
    questions, steps = [item.question for item in solutions], [item.steps for item in solutions]
    found, tokens = {}, {}
    for name, prm in ways.items():
        tokens[name] = counted(model, lambda prm=prm: prm.score(questions, steps))  # type: ignore[misc]
        found[name] = prm.score(questions, steps)
    error = max(abs(a - b) for one, other in zip(found["tree"], found["flat"], strict=True) for a, b in zip(one, other, strict=True))
    ratios = compared({name: lambda prm=prm: prm.score(questions, steps) for name, prm in ways.items()}, num_rounds)  # type: ignore[misc]
    rows = [ways["flat"].layout.encode(question, its_steps).input_ids for question, its_steps in zip(questions, steps, strict=True)]
    distinct = len({(question, tuple(ids[:end])) for question, ids in zip(questions, rows, strict=True) for end in range(1, len(ids) + 1)})
    told("scoring", num_leaves, len(solutions), ratios, tokens, distinct)
    print(f"    largest difference of scores {error:.1e}")


def train(model: Any, layout: Layout, solutions: list[LabelledSolution], num_leaves: int, num_rounds: int) -> None:
    """Loss and gradient of all leaves, four problems at a time."""
    chosen, encoded, _ = layout_rows(solutions, layout)
    collate = TagCollator(layout.tag_id)
    batches = {}
    for name, max_nodes, size in (("tree", 1 << 20, 4), ("flat", 0, 64)):
        rows = sorted(pack_rows(chosen, encoded, max_nodes), key=lambda row: len(row["input_ids"]))
        batches[name] = [collate(rows[start : start + size]) for start in range(0, len(rows), size)]

    def step(name: str) -> None:
        model.zero_grad()
        for batch in batches[name]:
            inputs = {key: batch[key] for key in INPUT_NAMES if key in batch}
            logits = tag_logits(model, layout, inputs, batch["tag_rows"], batch["tag_columns"])
            soft_cross_entropy(logits, batch["labels"]).backward()  # type: ignore[no-untyped-call]

    tokens = {name: counted(model, lambda name=name: step(name)) for name in batches}  # type: ignore[misc]
    distinct = sum(len(row["input_ids"]) for row in pack_rows(chosen, encoded, 1 << 20))
    told(
        "training",
        num_leaves,
        len(chosen),
        compared({name: lambda name=name: step(name) for name in batches}, num_rounds),
        tokens,
        distinct,
    )  # type: ignore[misc]


def counted(model: Any, work: Callable[[], object]) -> int:
    """Tokens that the model computes, padding included."""
    total = 0

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal total
        total += kwargs["input_ids"].numel()

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    work()
    handle.remove()
    return total


def compared(works: dict[str, Callable[[], object]], num_rounds: int) -> list[float]:
    """Seconds flat / seconds tree, per round."""
    ratios = []
    for _ in range(num_rounds):
        seconds = {}
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name] = time.perf_counter() - started
        ratios.append(seconds["flat"] / seconds["tree"])
    return ratios


def told(what: str, num_leaves: int, num_solutions: int, ratios: list[float], tokens: dict[str, int], distinct: int) -> None:
    print(
        f"{what}, up to {num_leaves} leaves, {num_solutions} solutions: flat / tree time {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} .. {max(ratios):.2f}), tokens {tokens['flat'] / tokens['tree']:.2f}; "
        f"tree tokens / distinct {tokens['tree'] / distinct:.3f} (padding included)"
    )


if __name__ == "__main__":
    main()
