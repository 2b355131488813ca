"""Trees of lab problems and PRMs to score or train on them, for the benchmarks of prefix trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from forkpoint.label_config import LabelConfig
from forkpoint.label_run import labelled_solutions
from forkpoint.policies import LAB_POLICY, load_policy
from forkpoint.problems import load_problems
from forkpoint.records import LabelledSolution
from forkpoint.solve import solve_by_tree
from forkpoint.tree import TreeConfig

MODELS = ("lab", "wide", "half-billion")
"""The weights of the lab policy (0.9M), and two random Qwen2: 384 wide in 6 layers, and of the shape of Qwen2.5-0.5B."""


def solutions_of_trees(problems: str, num_leaves: int, tau: float) -> list[LabelledSolution]:
    """All leaves of the trees of some problems, grown by the lab policy; problems with fewer leaves are left out."""
    config = TreeConfig(num_leaves=num_leaves, tau=tau, max_tokens=160)
    outcomes = solve_by_tree(load_policy("lab", device="cpu"), load_problems(problems), config)
    full = [outcome for outcome in outcomes if outcome.tree.num_leaves == num_leaves]
    return [solution for outcome in full for solution in labelled_solutions(outcome, LabelConfig(), config.rule)]


def model_named(name: str, num_tokens: int, device: str) -> Any:
    """A causal language model that knows the tokens of the lab policy's tokenizer."""
    if name == "lab":
        return AutoModelForCausalLM.from_pretrained(LAB_POLICY, dtype=torch.float32).to(device)
    torch.manual_seed(0)
    sizes = {
        "wide": {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2},
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
    """Tokens that the model computes during `work`, padding included."""
    total = 0

    def count(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        nonlocal total
        total += kwargs["input_ids"].numel()

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    work()
    handle.remove()
    return total


def num_distinct(questions: Sequence[str], rows: Sequence[Sequence[int]]) -> int:
    """Distinct prefixes of rows, counted per question."""
    return len({(question, tuple(ids[:end])) for question, ids in zip(questions, rows, strict=True) for end in range(1, len(ids) + 1)})
