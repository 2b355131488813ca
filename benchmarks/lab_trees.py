"""Trees of lab problems, and PRMs to score them or train on them, for the benchmarks of prefix trees."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from forkpoint.labels.config import LabelConfig
from forkpoint.labels.leaf_plan import labelled_solutions
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.problems import load_problems
from forkpoint.records import LabelledSolution
from forkpoint.solutions.solve import solve_by_tree
from forkpoint.trees.grow import TreeConfig
from record import Ratio

Comparison = Callable[
    [Any, Sequence[LabelledSolution]], tuple[dict[str, list[float]], list[dict[str, float]], str]
]
"""Takes a model and solutions; returns the values of each ratio, the seconds of every round, and a note."""
TIME = "flat / tree time"
MODELS = ("lab", "wide", "half-billion")
"""The weights of the lab policy (0.9M), and two random Qwen2 models.

One has width 384 and 6 layers, the other the shape of Qwen2.5-0.5B.
"""


def solutions_of_trees(problems: str, num_leaves: int, tau: float) -> list[LabelledSolution]:
    """Return the leaves of trees grown by the lab policy; problems with fewer leaves are left out."""
    config = TreeConfig(num_leaves=num_leaves, tau=tau, max_tokens=160)
    outcomes = solve_by_tree(load_policy("lab", device="cpu"), load_problems(problems), config)
    full = [outcome for outcome in outcomes if outcome.tree.num_leaves == num_leaves]
    return [
        solution for outcome in full for solution in labelled_solutions(outcome, LabelConfig(), config.rule)
    ]


def model_named(name: str, num_tokens: int, device: str) -> Any:
    """Return a causal language model with the vocabulary of the lab policy's tokenizer."""
    if name == "lab":
        return AutoModelForCausalLM.from_pretrained(LAB_POLICY, dtype=torch.float32).to(device)
    torch.manual_seed(0)
    sizes = {
        "wide": {
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
        },
        "half-billion": {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
    }[name]
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=num_tokens, tie_word_embeddings=True, **sizes)).to(device)


def num_computed(model: Any, work: Callable[[], object]) -> int:
    """Return the number of tokens that the model computes during `work`, including padding."""
    total = 0

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal total
        total += kwargs["input_ids"].numel()

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    work()
    handle.remove()
    return total


def num_distinct(questions: Sequence[str], rows: Sequence[Sequence[int]]) -> int:
    """Return the number of distinct prefixes of rows, counted per question."""
    return len(
        {
            (question, tuple(ids[:end]))
            for question, ids in zip(questions, rows, strict=True)
            for end in range(1, len(ids) + 1)
        }
    )


def over_sizes(
    args: argparse.Namespace, num_tokens: int, compared: Comparison, goals: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Ratio], list[dict[str, Any]], list[str]]:
    """Return ratios, rounds and notes of `compared` for trees of 16 and 64 leaves and all `args.models`.

    `goals` are the remaining fields of each `Ratio`; the time ratio has a goal only for 64 leaves. Models
    other than the lab policy are large and get an eighth of the problems.
    """
    ratios: dict[str, Ratio] = {}
    runs: list[dict[str, Any]] = []
    notes = []
    for num_leaves in (16, 64):
        for name in args.models:
            num_problems = args.num_problems if name == "lab" else max(1, args.num_problems // 8)
            solutions = solutions_of_trees(f"lab:train?num={num_problems}&seed=4", num_leaves, args.tau)
            what = f"{num_leaves} leaves, {name}"
            found, rounds, note = compared(model_named(name, num_tokens, args.device), solutions)
            for ratio, values in found.items():
                has_goal = ratio != TIME or num_leaves == 64
                ratios[f"{ratio}, {what}"] = Ratio(values, **(goals[ratio] if has_goal else {}))
            notes.append(f"{what}: {note}")
            runs += [{"leaves": num_leaves, "model": name, **seconds} for seconds in rounds]
    return ratios, runs, notes
